"""The work on one shard: recordings in, one shard file and its report out.

`tokenize_shard` is a pure function of its argument and the files that this names. It writes to
temporary names and renames, the report last: a shard whose report exists is finished.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from data_pipeline import cli
from data_pipeline.audio import AudioError, load_audio
from data_pipeline.records import Record, ShardWriter
from data_pipeline.sources import Failure, Utterance
from data_pipeline.spec import file_sha256
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.base import AcousticCodec, SemanticTokenizer
from data_pipeline.tokens import TokenLayout, deduplicate

# Streams further apart than this are a fault of a tokenizer, not of rounding.
_MAX_DISAGREEMENT_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        utterances: its recordings, in order.
        audio_root: to which the recordings' paths are stored relative.
        semantic: directory of the semantic tokenizer.
        codec: directory of the acoustic codec.
        min_seconds: shortest recording taken.
        chunk_seconds: longest record.
        shard: path of the shard file.
        report: path of the report, which marks the shard as finished.
    """

    utterances: tuple[Utterance, ...]
    audio_root: str
    semantic: str
    codec: str
    min_seconds: float
    chunk_seconds: float
    shard: str
    report: str


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
        recorded: utterances that are in the shard.
        failures: utterances that are not: id, path, stage and reason.
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
    failures: list[dict[str, str]]
    num_bytes: int
    sha256: str

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a report."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def tokenize_shard(task: ShardTask) -> ShardReport:
    """Writes a shard: every recording becomes its records, or one failure in the report.

    An exception other than the refusal of a recording (a fault of the program, a full disk) ends
    the work and leaves no report.
    """
    tokenizers = _Tokenizers(task.semantic, task.codec)
    columns: dict[str, list] = {
        name: [] for name in ("units", "units_dedup", "frames", "speaker", "language", "seconds")
    }
    failures, recorded = [], 0
    # The process number keeps apart a worker that outlived a killed run and its successor.
    temporary = f"{task.report}.{os.getpid()}.part"
    with ShardWriter(temporary, tokenizers.codec.num_codebooks) as writer:
        for utterance in task.utterances:
            # All chunks or none: a recording is in the shard or among the failures.
            records = tokenizers.records(utterance, task)
            if isinstance(records, Failure):
                failures.append(dataclasses.asdict(records))
                continue
            recorded += 1
            for record in records:
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
        failures=failures,
        num_bytes=writer.num_bytes,
        sha256=file_sha256(temporary),
    )
    os.replace(temporary, task.shard)
    cli.write_json(task.report, dataclasses.asdict(report))
    return report


class _Tokenizers:
    """Both tokenizers, and how a recording becomes records with them."""

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

    def records(self, utterance: Utterance, task: ShardTask) -> list[Record] | Failure:
        """All records of a recording, or the reason why there are none."""
        rate = self.codec.sample_rate
        try:
            wav = load_audio(utterance.path, rate, task.min_seconds)
        except AudioError as error:
            return Failure(utterance.id, utterance.path, "decode", error.reason)
        records = []
        chunks = list(chunk_bounds(len(wav), rate, task.chunk_seconds, self.layout))
        for number, (start, stop) in enumerate(chunks):
            try:
                units, codes = align(
                    self.layout,
                    self.semantic.encode(wav[start:stop], rate),
                    self.codec.encode(wav[start:stop], rate),
                )
            except (AudioError, ValueError) as error:
                return Failure(utterance.id, utterance.path, "tokenise", str(error))
            records.append(
                Record(
                    id=utterance.id if len(chunks) == 1 else f"{utterance.id}#{number:04d}",
                    source=os.path.relpath(utterance.path, task.audio_root),
                    speaker=utterance.speaker,
                    language=utterance.language,
                    # A transcript belongs to the whole recording, not to a part of it.
                    text=utterance.text if len(chunks) == 1 else None,
                    start=start / rate,
                    end=stop / rate,
                    units=units,
                    codes=codes,
                )
            )
        return records


def chunk_bounds(
    num_samples: int, sample_rate: int, chunk_seconds: float, layout: TokenLayout
) -> Iterator[tuple[int, int]]:
    """Cuts a recording into the fewest chunks of about equal length that are short enough.

    Equal lengths leave no short remainder, and nothing is dropped or used twice. Cuts lie where a
    token of both streams ends, where the rates allow it.

    Args:
        num_samples: of the recording.
        sample_rate: in Hz.
        chunk_seconds: longest chunk.
        layout: the rates of both streams.

    Yields:
        Half-open ranges of samples.
    """
    period = Fraction(math.lcm(layout.ticks_per_unit, layout.ticks_per_frame)) / layout.tick_rate
    if period > Fraction(1, 4):
        period = Fraction(layout.ticks_per_unit) / layout.tick_rate
    step = period * sample_rate
    if num_samples <= chunk_seconds * sample_rate:
        yield 0, num_samples
        return
    longest = math.floor(Fraction(chunk_seconds) / period)  # in periods, as what follows
    count = math.ceil(num_samples / (longest * step))
    each = num_samples / (count * step)
    bounds = [round(math.ceil(number * each) * step) for number in range(count)]
    yield from zip(bounds, [*bounds[1:], num_samples], strict=True)


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
        ValueError: a stream is empty, out of its vocabulary or shape, or the two are further
            apart than rounding explains.
    """
    units, codes = np.asarray(units), np.asarray(codes)
    layout.units_to_ids(units)  # these two check ranges and shapes
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
