"""Fits the offline tokenizers: MFCC k-means units, and a residual k-means codec."""

import functools
import hashlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from data_pipeline.audio.io import AudioError
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import Utterance, read_audio
from data_pipeline.sources.reading import content_of
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.codecs import DEFAULT_FITTED, FITTED, FittedCodec, unified_rvq
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.codecs.unified_rvq import UnifiedRVQ, UnifiedRVQConfig
from data_pipeline.tokenizers.codecs.world_rvq import WorldRVQConfig
from data_pipeline.tokenizers.semantic import mfcc_kmeans
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans, MFCCKMeansConfig

CodecConfig = MelRVQConfig | WorldRVQConfig

MAX_SECONDS = 1800.0  # of audio to fit on

_SEMANTIC_ITERATIONS = 20
_CODEC_ITERATIONS = 12
_FRAMES_PER_CLUSTER = 4  # with fewer, clusters are single frames
_BATCH_FILES = 32


def fit_tokenizers(
    utterances: Sequence[Utterance],
    output: str | os.PathLike[str],
    semantic: MFCCKMeansConfig | None = None,
    codec: CodecConfig | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    min_seconds: float = 0.1,
    seed: int = 0,
    num_workers: int | None = None,
    unified: bool = False,
) -> dict:
    """Fits both tokenizers and writes them to `output`/semantic and `output`/codec.

    Args:
        utterances: of any split; only `train` (or no split) is used. Unreadable recordings are
            skipped here; `tokenize_corpus` lists them.
        output: directory, created if missing.
        semantic: configuration of the units; None is the default.
        codec: configuration of the codec; None is the default of `codecs.DEFAULT_FITTED`, or of
            `mel_rvq` if unified.
        max_seconds: of audio to fit on.
        min_seconds: shorter recordings are skipped.
        seed: of the sample and of k-means.
        num_workers: processes that read audio; None is one per core, 0 reads in this process.
        unified: instead write one codec to `output`/unified, whose first codebook holds the units.

    Returns:
        The SHA-256 of both (or of the one), the number of utterances and seconds of audio, the
        wall time in seconds, and `contents`: what each recording held by its utterance's id, see
        `reading.content_of`.

    Raises:
        UserError: too little audio for the number of clusters, a package that the codec needs is
            not installed, the codec cannot be unified, or `output` cannot be written.
    """
    start = time.monotonic()
    semantic = semantic or MFCCKMeansConfig()
    codec = codec or (MelRVQConfig() if unified else FITTED[DEFAULT_FITTED].config())
    if unified and not isinstance(codec, MelRVQConfig):
        raise UserError(f"a unified codec needs mel_rvq, not {FittedCodec.of(codec).kind}")
    FittedCodec.of(codec).require()
    chosen = _shuffle([u for u in utterances if u.split in ("train", "")], seed)
    if not chosen:
        raise UserError("no training recordings to fit tokenizers on")
    output = Path(output)
    units, frames, seconds, contents = _extract(
        chosen, semantic, codec, max_seconds, min_seconds, num_workers
    )
    if not units:
        raise UserError(
            f"none of the {len(chosen)} training recordings can be read, the first is "
            f"{chosen[0].path}"
        )
    _check_amount("vocab_size", semantic.vocab_size, sum(map(len, units)), seconds)
    _check_amount("codebook_size", codec.codebook_size, sum(map(len, frames)), seconds)
    # One thread: results depend on the order of summation.
    with threadpool_limits(1):
        if unified:
            config = UnifiedRVQConfig(semantic, codec)  # type: ignore[arg-type]  # checked above
            digests = _fit_unified(output, config, units, frames, seed)
        else:
            digests = _fit_separate(output, semantic, codec, units, frames, seed)
    return {
        "output": str(output),
        **digests,
        "utterances": len(units),
        "audio_seconds": round(seconds, 1),
        "seconds": round(time.monotonic() - start, 2),
        "contents": contents,
    }


def _fit_unified(
    output: Path,
    config: UnifiedRVQConfig,
    units: list[np.ndarray],
    frames: list[np.ndarray],
    seed: int,
) -> dict[str, str]:
    iterations = config.codec.num_codebooks * _CODEC_ITERATIONS
    with progress("fit unified codec", iterations) as advance:
        weights = unified_rvq.fit(config, units, frames, seed, advance, _CODEC_ITERATIONS)
    directory = output / "unified"
    digest = storage.save_tokenizer(directory, UnifiedRVQ.kind, config, weights)
    return {"unified_sha256": digest}


def _fit_separate(
    output: Path,
    semantic: MFCCKMeansConfig,
    codec: CodecConfig,
    units: list[np.ndarray],
    frames: list[np.ndarray],
    seed: int,
) -> dict[str, str]:
    with progress("fit semantic units", _SEMANTIC_ITERATIONS) as advance:
        unit_weights = mfcc_kmeans.fit(semantic, units, seed, advance, _SEMANTIC_ITERATIONS)
    with progress("fit acoustic codec", codec.num_codebooks * _CODEC_ITERATIONS) as advance:
        fitted = FittedCodec.of(codec)
        codec_weights = fitted.fit(codec, frames, seed, advance, _CODEC_ITERATIONS)
    return {
        "semantic_sha256": storage.save_tokenizer(
            output / "semantic", MFCCKMeans.kind, semantic, unit_weights
        ),
        "codec_sha256": storage.save_tokenizer(output / "codec", fitted.kind, codec, codec_weights),
    }


def _shuffle(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Shuffles, depending on ids and seed only."""

    def rank(utterance: Utterance) -> bytes:
        return hashlib.blake2b(f"{seed}\0{utterance.id}".encode(), digest_size=8).digest()

    return sorted(utterances, key=rank)


def _extract(
    utterances: Sequence[Utterance],
    semantic: MFCCKMeansConfig,
    codec: CodecConfig,
    max_seconds: float,
    min_seconds: float,
    num_workers: int | None,
) -> tuple[list[np.ndarray], list[np.ndarray], float, dict[str, str]]:
    """Features of both streams, for the first utterances up to `max_seconds` in total.

    Returns:
        Features of units and of frames, seconds of audio, and contents by id.
    """
    work = functools.partial(_read, semantic=semantic, codec=codec, min_seconds=min_seconds)
    batches = [utterances[i : i + _BATCH_FILES] for i in range(0, len(utterances), _BATCH_FILES)]
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    units: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    seconds = 0.0
    contents: dict[str, str] = {}
    with progress("read recordings, seconds of audio", round(max_seconds)) as advance:
        for extracted in _map(work, batches, min(num_workers, len(batches))):
            before = seconds
            for name, content, duration, unit_features, frame_features in extracted:
                if seconds < max_seconds:
                    contents[name] = content
                    units.append(unit_features)
                    frames.append(frame_features)
                    seconds += duration
            advance(round(seconds) - round(before))
            if seconds >= max_seconds:
                break
    return units, frames, seconds, contents


def _map(work: Callable, items: Sequence, num_workers: int) -> Iterator:
    """Yields the results in order, from worker processes unless `num_workers` is 0."""
    if num_workers == 0:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        try:
            # A short queue: the consumer may stop early, and results take memory.
            pending = [pool.submit(work, item) for item in items[: 2 * num_workers]]
            for following in itertools.chain(items[2 * num_workers :], [None] * len(pending)):
                yield pending.pop(0).result()
                if following is not None:
                    pending.append(pool.submit(work, following))
        finally:
            pool.shutdown(cancel_futures=True)


def _read(
    utterances: Sequence[Utterance],
    semantic: MFCCKMeansConfig,
    codec: CodecConfig,
    min_seconds: float,
) -> list[tuple[str, str, float, np.ndarray, np.ndarray]]:
    """Id, content, seconds, features of both streams of readable recordings; runs in a worker."""
    found = []
    with threadpool_limits(1):
        for utterance in utterances:
            try:
                wav = read_audio(utterance, semantic.sample_rate, min_seconds)
                other = (
                    wav
                    if codec.sample_rate == semantic.sample_rate
                    else read_audio(utterance, codec.sample_rate, min_seconds)
                )
            except AudioError:
                continue  # `tokenize_corpus` lists it with the reason
            found.append(
                (
                    utterance.id,
                    str(content_of(utterance)),
                    len(wav) / semantic.sample_rate,
                    mfcc_kmeans.raw_features(semantic, wav),
                    FittedCodec.of(codec).raw_features(codec, other),
                )
            )
    return found


def _check_amount(field: str, clusters: int, frames: int, seconds: float) -> None:
    needed = _FRAMES_PER_CLUSTER * clusters
    if frames < needed:
        raise UserError(
            f"{seconds:.1f} s of training audio ({frames} frames) are too little for {field} "
            f"{clusters}, which needs {needed} frames: add recordings, or set {field} to at most "
            f"{max(2, frames // _FRAMES_PER_CLUSTER)}"
        )
