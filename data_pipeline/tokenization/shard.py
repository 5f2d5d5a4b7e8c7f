"""The work on one shard: recordings in, one shard file and its report out.

`tokenize_shard` is a pure function of its argument and the files named in it. It writes under
temporary names and renames, the report last: a shard whose report exists is finished.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from data_pipeline.audio.chunking import chunk_bounds
from data_pipeline.audio.io import AudioError
from data_pipeline.audio.voice_activity import speech_bounds
from data_pipeline.datasets.token_records import Record, ShardWriter
from data_pipeline.runtime.contents import Content, file_state
from data_pipeline.runtime.files import file_sha256, write_json
from data_pipeline.sources import Failure, Utterance, read_audio
from data_pipeline.sources.reading import content_of, stored_source
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.base import AcousticCodec, BatchTokenizer, SemanticTokenizer
from data_pipeline.tokenizers.batching import MAX_BATCH_SECONDS, encode_many
from data_pipeline.tokens import TokenLayout, deduplicate

# A larger difference in duration of the two streams is a tokenizer's fault, not rounding.
_MAX_DISAGREEMENT_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        utterances: its recordings, in order.
        audio_root: directory that stored paths of recordings are relative to.
        semantic: directory of the semantic tokenizer.
        codec: directory of the acoustic codec.
        min_seconds: shorter recordings fail.
        chunk_seconds: longest record.
        shard: path of the shard file.
        report: path of the report, which marks the shard as finished.
        chunking: how longer recordings are cut, see `chunking.chunk_bounds`.
        trim_silence: leave out silence before the first speech and after the last.
    """

    utterances: tuple[Utterance, ...]
    audio_root: str
    semantic: str
    codec: str
    min_seconds: float
    chunk_seconds: float
    shard: str
    report: str
    chunking: str = "even"
    trim_silence: bool = False

    def is_done(self) -> bool:
        """Whether the shard is finished."""
        return os.path.exists(self.report) and os.path.exists(self.shard)

    def to_json(self) -> str:
        """The task as text, for a runner on another machine."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that `to_json` wrote."""
        value = json.loads(text)
        value["utterances"] = tuple(Utterance(**item) for item in value["utterances"])
        return cls(**value)


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What a finished shard holds; the lists have one entry per record.

    Attributes:
        units: raw semantic units.
        units_dedup: units after collapsing repeats.
        frames: acoustic frames.
        speaker: names.
        language: codes.
        seconds: of audio.
        recorded: number of utterances in the shard.
        left_out_seconds: audio of those utterances that is in no record: trimmed silence, and
            remainders that the paper's chunk rule drops.
        failures: utterances that are not in it: id, path, stage and reason.
        contents: what each utterance of the task held, in order, see `reading.content_of`; empty in
            reports of programs that read no recordings.
        num_bytes: of the serialised records.
        sha256: of the shard file.
    """

    units: list[int]
    units_dedup: list[int]
    frames: list[int]
    speaker: list[str]
    language: list[str]
    seconds: list[float]
    recorded: int
    left_out_seconds: float
    failures: list[dict[str, str]]
    num_bytes: int
    sha256: str
    contents: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a report."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def tokenize_shard(task: ShardTask) -> ShardReport:
    """Writes a shard: every recording becomes its records, or one failure in the report.

    Exceptions other than a refused recording (a bug, a full disk) propagate and leave no report.
    """
    tokenizers = _Tokenizers(task.semantic, task.codec)
    columns: dict[str, list] = {
        name: [] for name in ("units", "units_dedup", "frames", "speaker", "language", "seconds")
    }
    failures, contents, recorded, left_out = [], [], 0, 0.0
    # A unique name: a worker that outlived a killed run, or another machine to which a distributed
    # runner gave the same shard, may be writing too.
    temporary = f"{task.report}.{uuid.uuid4().hex}.part"
    with ShardWriter(temporary, tokenizers.codec.num_codebooks) as writer:
        for utterance, content, result in tokenizers.encode(task):
            contents.append(str(content))
            # All chunks or none: a recording is either in the shard or a failure.
            if isinstance(result, Failure):
                failures.append(dataclasses.asdict(result))
                continue
            recorded += 1
            left_out += result.left_out_seconds
            for record in result.records(utterance, task.audio_root):
                writer.write(record)
                columns["units"].append(len(record.units))
                columns["units_dedup"].append(len(deduplicate(record.units)[0]))
                columns["frames"].append(record.codes.shape[1])
                columns["speaker"].append(record.speaker)
                columns["language"].append(record.language)
                columns["seconds"].append(record.end - record.start)
    report = ShardReport(
        **columns,
        recorded=recorded,
        left_out_seconds=left_out,
        failures=failures,
        num_bytes=writer.num_bytes,
        sha256=file_sha256(temporary),
        contents=contents,
    )
    _sync(temporary)
    os.replace(temporary, task.shard)
    write_json(task.report, dataclasses.asdict(report))
    return report


def _sync(path: str) -> None:
    """Flushes a file to disk: after a power loss no report may exist without its shard."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclasses.dataclass(frozen=True, eq=False)
class _Decoded:
    """A recording's chunks.

    Attributes:
        wav: (N,) float32 at `rate`.
        rate: in Hz.
        bounds: half-open ranges of samples, one per chunk.
        complete: whether the chunks hold all of it but silence.
    """

    wav: np.ndarray
    rate: int
    bounds: list[tuple[int, int]]
    complete: bool

    @property
    def chunks(self) -> list[np.ndarray]:
        return [self.wav[start:stop] for start, stop in self.bounds]


@dataclasses.dataclass(frozen=True, eq=False)
class _Encoded:
    """Bounds of a recording's chunks in seconds, and their units and codes."""

    bounds: list[tuple[float, float]]
    tokens: list[tuple[np.ndarray, np.ndarray]]
    left_out_seconds: float
    complete: bool

    def records(self, utterance: Utterance, audio_root: str) -> Iterator[Record]:
        several = len(self.bounds) > 1
        # A transcript is that of the complete recording, not of a part of it.
        text = utterance.text if self.complete else None
        source = stored_source(utterance, audio_root)
        for number, ((start, end), (units, codes)) in enumerate(
            zip(self.bounds, self.tokens, strict=True)
        ):
            yield Record(
                id=f"{utterance.id}#{number:04d}" if several else utterance.id,
                source=source,
                speaker=utterance.speaker,
                language=utterance.language,
                text=None if several else utterance.text,
                recording_text=text if several and number == 0 else None,
                start=start,
                end=end,
                units=units,
                codes=codes,
            )


class _Tokenizers:
    """Both tokenizers: recordings to tokens."""

    def __init__(self, semantic: str, codec: str):
        self.semantic = _load_semantic(semantic)
        self.codec = _load_codec(codec)
        self.layout = TokenLayout(
            self.semantic.vocab_size,
            self.codec.num_codebooks,
            self.codec.codebook_size,
            self.semantic.frame_rate,
            self.codec.frame_rate,
        )
        batches = isinstance(self.semantic, BatchTokenizer) or isinstance(
            self.codec, BatchTokenizer
        )
        self._group_seconds = MAX_BATCH_SECONDS if batches else 0.0

    def encode(self, task: ShardTask) -> Iterator[tuple[Utterance, Content, _Encoded | Failure]]:
        """The recordings of a shard in order: what each held, and its tokens or a failure.

        Recordings are decoded in groups that fill the tokenizers' batches.
        """
        group: list[tuple[Utterance, Content, _Decoded | Failure]] = []
        seconds = 0.0
        for utterance in task.utterances:
            content, decoded = self._decode(utterance, task)
            group.append((utterance, content, decoded))
            if isinstance(decoded, _Decoded):
                seconds += len(decoded.wav) / decoded.rate
            if seconds >= self._group_seconds:
                yield from self._encode_group(group)
                group, seconds = [], 0.0
        yield from self._encode_group(group)

    def _decode(self, utterance: Utterance, task: ShardTask) -> tuple[Content, _Decoded | Failure]:
        """What the recording held, and its signal or why there is none."""
        rate = self.codec.sample_rate
        before = file_state(utterance.path)
        try:
            wav = read_audio(utterance, rate, task.min_seconds)
            reason = ""
        except AudioError as error:
            reason = error.reason
        content = content_of(utterance)
        if content.state != before:
            reason = "changed while it was read: run again when nothing writes it any more"
        if reason:
            return content, Failure(utterance.id, utterance.path, "decode", reason)
        first, last = speech_bounds(wav, rate) if task.trim_silence else (0, len(wav))
        bounds = chunk_bounds(last - first, rate, task.chunk_seconds, self.layout, task.chunking)
        shifted = [(first + start, first + stop) for start, stop in bounds]
        return content, _Decoded(wav, rate, shifted, complete=shifted[-1][1] == last)

    def _encode_group(
        self, group: Sequence[tuple[Utterance, Content, _Decoded | Failure]]
    ) -> Iterator[tuple[Utterance, Content, _Encoded | Failure]]:
        chunks = [c for *_, item in group if isinstance(item, _Decoded) for c in item.chunks]
        tokens: Iterator[tuple[np.ndarray, np.ndarray]] | None
        try:
            tokens = iter(self._tokens(chunks))
        except (AudioError, ValueError):
            tokens = None  # one is refused: encode them one by one to find out which
        for utterance, content, item in group:
            if isinstance(item, Failure):
                yield utterance, content, item
                continue
            try:
                pairs = (
                    self._tokens(item.chunks)
                    if tokens is None
                    else list(itertools.islice(tokens, len(item.bounds)))
                )
                aligned = [align(self.layout, units, codes) for units, codes in pairs]
            except (AudioError, ValueError) as error:
                failure = Failure(utterance.id, utterance.path, "tokenise", str(error))
                yield utterance, content, failure
                continue
            used = item.bounds[-1][1] - item.bounds[0][0]
            yield (
                utterance,
                content,
                _Encoded(
                    [(start / item.rate, stop / item.rate) for start, stop in item.bounds],
                    aligned,
                    (len(item.wav) - used) / item.rate,
                    item.complete,
                ),
            )

    def _tokens(self, chunks: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        rate = self.codec.sample_rate
        units = encode_many(self.semantic, chunks, rate)
        return list(zip(units, encode_many(self.codec, chunks, rate), strict=True))


def align(
    layout: TokenLayout, units: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Trims the longer stream until |T - S * frame_rate / unit_rate| <= 1.

    Args:
        layout: sizes and rates.
        units: (S,) raw units.
        codes: (Q, T) codes.

    Returns:
        units uint16 and codes uint16, trimmed at their ends.

    Raises:
        ValueError: a stream is empty, out of its vocabulary or misshapen, or the two differ by
            more than rounding explains.
    """
    units, codes = np.asarray(units), np.asarray(codes)
    layout.units_to_ids(units)  # both calls check ranges and shapes
    layout.codes_to_ids(codes)
    num_units, num_frames = len(units), codes.shape[1]
    if not num_units or not num_frames:
        raise ValueError(f"too short: {num_units} units and {num_frames} frames")
    apart = abs(num_units / layout.unit_rate - num_frames / layout.frame_rate)
    if apart > max(_MAX_DISAGREEMENT_SECONDS, 2 / layout.unit_rate, 2 / layout.frame_rate):
        raise ValueError(
            f"the streams disagree by {apart:.2f} s: {num_units} units, {num_frames} frames"
        )
    ratio = Fraction(layout.ticks_per_unit, layout.ticks_per_frame)
    num_frames = min(num_frames, math.floor(num_units * ratio + 1))
    num_units = min(num_units, math.floor((num_frames + 1) / ratio))
    return units[:num_units].astype(np.uint16), codes[:, :num_frames].astype(np.uint16)


# Loaded once per process, not once per shard.
@functools.lru_cache(maxsize=1)
def _load_semantic(path: str) -> SemanticTokenizer:
    return load_semantic(path)


@functools.lru_cache(maxsize=1)
def _load_codec(path: str) -> AcousticCodec:
    return load_codec(path)
