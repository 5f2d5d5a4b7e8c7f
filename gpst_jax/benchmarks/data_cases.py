"""Cases of the data benchmark: tokenising, loading, reading and planning.

`experiments.benchmark --suite=data` runs each in its own process. All data are synthetic: tones and
random tokens take as long as speech.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_dataset import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from data_pipeline.datasets.token_records import Record, RecordReader, ShardWriter
from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig, PackingPlan
from data_pipeline.sources import FolderSource, read_audio
from data_pipeline.tokenization.config import CorpusConfig
from data_pipeline.tokenize_corpus import tokenize_corpus
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig
from data_pipeline.tokens import TokenLayout

_RATE = 16000
_SPEAKERS = 1000
_SHARD = 1000  # records per shard, about as in tokenize_corpus; see docs/benchmarks.md


def run_apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Runs a case in a new process; its result, with `peak_rss_bytes` of that process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable[..., dict[str, Any]], arguments: tuple) -> dict[str, Any]:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its own flags
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = function(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result | {"peak_rss_bytes": peak, "peak_rss_before_bytes": before}


def tokenising(minutes: float, runners: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """Throughput of the offline tokenizers by stage, and of `tokenize_corpus` by runner.

    Args:
        minutes: of audio, in recordings of 6 s at 22.05 kHz, so that resampling is included.
        runners: pairs (runner, number of processes) to compare.

    Returns:
        `stages`: seconds of audio per second on one core, by stage; `whole`: seconds of audio per
        second of `tokenize_corpus`, process start-up included, by runner and number of processes.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        seconds = _write_recordings(root / "audio", minutes)
        utterances = FolderSource(root / "audio").list()[0]
        sizes = (MFCCKMeansConfig(), MelRVQConfig())
        fit_tokenizers(utterances[:20], root / "tokenizers", *sizes, num_workers=0)
        semantic = load_semantic(root / "tokenizers" / "semantic")
        codec = load_codec(root / "tokenizers" / "codec")
        stages: dict[str, float] = {}
        with _Timed(stages, "decode and resample", seconds):
            wavs = [read_audio(utterance, codec.sample_rate, 0.1) for utterance in utterances]
        with _Timed(stages, "semantic units", seconds):
            units = [semantic.encode(wav, codec.sample_rate) for wav in wavs]
        with _Timed(stages, "codec", seconds):
            codes = [codec.encode(wav, codec.sample_rate) for wav in wavs]
        with (
            _Timed(stages, "write records", seconds),
            ShardWriter(root / "shard", codec.num_codebooks) as writer,
        ):
            for number, (u, c) in enumerate(zip(units, codes, strict=True)):
                writer.write(_record(number, u, c))
        whole: dict[str, float] = {}
        for runner, count in runners:
            config = CorpusConfig(
                audio_dir=str(root / "audio"),
                output=str(root / f"tokens-{runner}-{count}"),
                semantic=str(root / "tokenizers" / "semantic"),
                codec=str(root / "tokenizers" / "codec"),
                num_workers=count,
                runner=runner,
                utterances_per_shard=max(len(utterances) // 16, 1),
            )
            with _Timed(whole, f"{runner}, {count} processes", seconds):
                tokenize_corpus(config)
    return {"audio_seconds": seconds, "stages": stages, "whole": whole}


class _Timed:
    """Stores the throughput of the body, in seconds of audio per second, in a dict."""

    def __init__(self, into: dict[str, float], name: str, seconds: float):
        self._into, self._name, self._seconds = into, name, seconds

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *unused: Any) -> None:
        self._into[self._name] = self._seconds / (time.perf_counter() - self._began)


def loading(
    layout: TokenLayout, packing: PackingConfig, batch_rows: int, workers: int, seconds: float
) -> dict[str, Any]:
    """Throughput of the loader on records of 10 s.

    Args:
        layout: vocabulary sizes and rates.
        packing: how records are packed into rows.
        batch_rows: batch size.
        workers: processes; 0: threads.
        seconds: duration of the measurement.

    Returns:
        `rows_per_s`, `bytes_per_s` (of the arrays) and `workers`.
    """
    with tempfile.TemporaryDirectory() as directory:
        rng = np.random.default_rng(0)
        write_dataset(
            Path(directory),
            layout,
            (_random_record(number, layout, 10.0, rng) for number in range(2000)),
            2000,
        )
        loader = Loader(directory, "train", packing, batch_rows, num_workers=workers)
        size = sum(array.nbytes for array in next(loader).values())
        next(loader)
        batches, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            next(loader)
            batches += 1
        spent = time.perf_counter() - began
        loader.close()
    rows = batches * batch_rows / spent
    return {"rows_per_s": rows, "bytes_per_s": batches * size / spent, "workers": workers}


def reading(count: int, layout: TokenLayout) -> dict[str, Any]:
    """Speed and memory of random access to many records; memory must not grow.

    Returns:
        `records`, `records_per_s`, and `rss_bytes`: resident memory after each tenth.
    """
    with tempfile.TemporaryDirectory() as directory:
        rng = np.random.default_rng(0)
        pool = [_random_record(number, layout, 0.4, rng) for number in range(1000)]
        write_dataset(
            Path(directory),
            layout,
            (dataclasses.replace(pool[n % 1000], id=str(n)) for n in range(count)),
            count,
        )
        reader = RecordReader(directory, "train")
        order = np.random.default_rng(1).permutation(count)
        began, memory = time.perf_counter(), []
        for part in np.array_split(order, 10):
            for index in part:
                reader[int(index)]
            memory.append(_resident())
        spent = time.perf_counter() - began
    return {"records": count, "records_per_s": count / spent, "rss_bytes": memory}


def planning(count: int, packing: PackingConfig, layout: TokenLayout) -> dict[str, Any]:
    """Time of the length index and of the packing plan of one epoch over many records.

    Returns:
        `records`, `rows`, `index_s` (save and load), `plan_s` (all rows of an epoch) and `row_s`
        (one row).
    """
    rng = np.random.default_rng(0)
    frames = np.clip(rng.lognormal(6.4, 0.5, count), 75, 2500).astype(np.int32)
    units = (frames * (layout.unit_rate / layout.frame_rate)).astype(np.int32)
    made = LengthIndex(
        units=units,
        units_dedup=np.maximum(units * 2 // 3, 1),
        frames=frames,
        speaker=rng.integers(0, _SPEAKERS, count).astype(np.int32),
        language=np.zeros(count, np.int32),
        speakers=tuple(str(n) for n in range(_SPEAKERS)),
        languages=("und",),
    )
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        spec = _spec(layout, made, made.save(index_path(directory, "train")))
        del made
        index = LengthIndex.load(directory, spec, "train")
        index_s = time.perf_counter() - began
    plan = PackingPlan(packing, layout, index, spec.silence)
    began = time.perf_counter()
    rows = plan.num_rows(0)
    plan_s = time.perf_counter() - began
    began = time.perf_counter()
    for row in range(0, rows, max(rows // 1000, 1)):
        plan.row(row)
    row_s = (time.perf_counter() - began) / min(rows, 1000)
    return {"records": count, "rows": rows, "index_s": index_s, "plan_s": plan_s, "row_s": row_s}


def write_dataset(directory: Path, layout: TokenLayout, made: Iterator[Record], count: int) -> None:
    """Writes `count` records as the train split of a dataset without tokenizers."""
    columns: dict[str, list[int]] = {"units": [], "frames": [], "speaker": []}
    lengths = [min(_SHARD, count - start) for start in range(0, count, _SHARD)]
    num_bytes = 0
    for shard, length in enumerate(lengths):
        path = directory / token_records.shard_name("train", shard, len(lengths))
        with ShardWriter(path, layout.num_codebooks) as writer:
            for record in itertools.islice(made, length):
                writer.write(record)
                columns["units"].append(len(record.units))
                columns["frames"].append(record.codes.shape[1])
                columns["speaker"].append(int(record.speaker))
        num_bytes += writer.num_bytes
    arrays = {name: np.array(values, np.int32) for name, values in columns.items()}
    token_records.write_metadata(
        directory, layout.num_codebooks, {"train": lengths}, {"train": num_bytes}
    )
    index = LengthIndex(
        **arrays,
        units_dedup=arrays["units"],
        language=np.zeros(count, np.int32),
        speakers=tuple(str(n) for n in range(_SPEAKERS)),
        languages=("und",),
    )
    digest = index.save(index_path(directory, "train"))
    _spec(layout, index, digest, len(lengths)).save(directory)


def _spec(layout: TokenLayout, index: LengthIndex, digest: str, shards: int = 1) -> DatasetSpec:
    hours = float(index.frames.sum()) / layout.frame_rate / 3600
    return DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=_RATE,
        semantic=StreamSpec(
            "synthetic", "0", layout.num_units, layout.unit_rate, "tokenizers/semantic"
        ),
        codec=CodecSpec(
            "synthetic",
            "0",
            layout.num_codebooks,
            layout.codebook_size,
            layout.frame_rate,
            _RATE,
            "tokenizers/codec",
        ),
        text_tokenizer=None,
        languages=index.languages,
        silence=_silence(layout),
        splits={"train": SplitSpec(len(index), shards, hours, digest, "0")},
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed()


def _silence(layout: TokenLayout) -> SilenceSpec:
    units, frames = round(0.1 * layout.unit_rate), max(round(0.1 * layout.frame_rate), 1)
    return SilenceSpec(0.1, (0,) * units, ((0,) * frames,) * layout.num_codebooks)


def _record(number: int, units: np.ndarray, codes: np.ndarray) -> Record:
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker=str(number % _SPEAKERS),
        language="und",
        text=None,
        start=0.0,
        end=0.0,
        units=units.astype(np.uint16),
        codes=codes.astype(np.uint16),
    )


def _random_record(
    number: int, layout: TokenLayout, seconds: float, rng: np.random.Generator
) -> Record:
    units = rng.integers(0, layout.num_units, round(seconds * layout.unit_rate))
    frames = round(seconds * layout.frame_rate)
    codes = rng.integers(0, layout.codebook_size, (layout.num_codebooks, frames))
    return _record(number, units, codes)


def _write_recordings(root: Path, minutes: float) -> float:
    """Writes noisy tones of 6 s by a few speakers; returns their total duration in seconds."""
    rng = np.random.default_rng(0)
    count, rate = max(round(minutes * 10), 20), 22050
    for number in range(count):
        path = root / str(number % 4) / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch = np.repeat(rng.uniform(100, 2000, 61), rate // 10)[: 6 * rate]
        wav = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
        soundfile.write(path, wav + 0.02 * rng.standard_normal(len(wav)), rate)
    return 6.0 * count


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
