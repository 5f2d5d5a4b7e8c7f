"""Statistics of all records of a dataset: lengths, silence, codebook usage, balance, faults.

Memory grows by a few bytes per record, so that tens of millions of records can be inspected.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex
from data_pipeline.datasets.token_records import Record, RecordError, RecordReader, shard_name
from data_pipeline.runtime.files import file_sha256
from data_pipeline.tokens import TokenLayout, deduplicate

# Faults of one kind that are listed; the rest are only counted.
MAX_NAMED = 20
_HASH_BYTES = 8


@dataclasses.dataclass
class Faults:
    """Faults of one kind: how many, and descriptions of the first of them."""

    count: int = 0
    named: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(name)


@dataclasses.dataclass(frozen=True, eq=False)
class Usage:
    """How often each token of one codebook occurs.

    Attributes:
        counts: (N,) int64.
    """

    counts: np.ndarray

    @property
    def dead(self) -> int:
        """Tokens that never occur."""
        return int(np.count_nonzero(self.counts == 0))

    @property
    def entropy_bits(self) -> float:
        """Entropy of the token distribution; at most log2(N)."""
        total = self.counts.sum()
        share = self.counts[self.counts > 0] / max(1, total)
        return float(-(share * np.log2(share)).sum()) + 0.0

    def summary(self) -> dict[str, float | int]:
        """The figures for a report."""
        bits = self.entropy_bits
        return {
            "tokens": int(self.counts.sum()),
            "size": len(self.counts),
            "dead": self.dead,
            "entropy_bits": round(bits, 4),
            "perplexity": round(2**bits, 2),
            "most_frequent": int(self.counts.argmax()),
            "most_frequent_share": round(float(self.counts.max() / max(1, self.counts.sum())), 5),
        }


@dataclasses.dataclass(eq=False)
class SplitStatistics:
    """Statistics of one split; arrays have one entry per readable record.

    Attributes:
        number: (R,) int64 record numbers in the split.
        seconds: (R,) float32 seconds of audio.
        silence: (R,) float32 fraction of units that also occur in encoded digital silence.
        repeats: (R,) float32 fraction of units equal to the one before.
        apart: (R,) float32 difference in duration of the two streams, in frames.
        speaker: (R,) int32 index into `speakers`.
        language: (R,) int32 index into `languages`.
        speakers: names.
        languages: codes.
        content: (R,) uint64 hashes of units and codes.
        ids: (R,) uint64 hashes of record ids.
    """

    number: np.ndarray
    seconds: np.ndarray
    silence: np.ndarray
    repeats: np.ndarray
    apart: np.ndarray
    speaker: np.ndarray
    language: np.ndarray
    speakers: tuple[str, ...]
    languages: tuple[str, ...]
    content: np.ndarray
    ids: np.ndarray

    @property
    def hours(self) -> float:
        """Hours of audio in all records."""
        return float(self.seconds.sum(dtype=np.float64)) / 3600

    def hours_by(self, what: str) -> dict[str, float]:
        """Hours of each `speaker` or `language`, in descending order."""
        names = self.speakers if what == "speaker" else self.languages
        rows = self.speaker if what == "speaker" else self.language
        hours = np.bincount(rows, self.seconds.astype(np.float64), len(names)) / 3600
        order = np.argsort(-hours, kind="stable")
        return {names[row]: float(hours[row]) for row in order}


@dataclasses.dataclass(eq=False)
class DatasetStatistics:
    """All splits together.

    Attributes:
        spec: of the dataset.
        splits: by name.
        units: usage of the semantic units.
        codebooks: usage of each of the Q codebooks.
        faults: by kind; a dataset is intact when each count is 0.
        duplicates: records with exactly the tokens of another; not a fault.
    """

    spec: DatasetSpec
    splits: dict[str, SplitStatistics]
    units: Usage
    codebooks: list[Usage]
    faults: dict[str, Faults]
    duplicates: Faults

    @property
    def whole(self) -> bool:
        """Whether there are no faults."""
        return not any(fault.count for fault in self.faults.values())


# The kinds of faults and their descriptions.
FAULTS = {
    "unreadable": "records that cannot be read",
    "index": "records that disagree with the length index",
    "range": "records with tokens outside the vocabulary",
    "alignment": "records whose streams differ in duration by more than one frame",
    "duplicate_id": "records with the id of another",
    "shards": "splits whose shards are not those described by dataset.json",
}


def collect(
    dataset_dir: str | Path, advance: Callable[[int], None] = lambda steps: None
) -> DatasetStatistics:
    """Reads all records of all splits.

    Args:
        dataset_dir: holds `dataset.json`.
        advance: called with the number of records just read.

    Raises:
        UserError: `dataset.json`, a length index or the TFDS metadata is missing or damaged.
    """
    directory = Path(dataset_dir)
    spec = DatasetSpec.load(directory)
    counts = _Counts(spec)
    faults = {kind: Faults() for kind in FAULTS}
    splits = {}
    for name in spec.splits:
        _check_shards(directory, spec, name, faults["shards"])
        splits[name] = _collect_split(directory, spec, name, counts, faults, advance)
    statistics = DatasetStatistics(
        spec, splits, Usage(counts.units), [Usage(row) for row in counts.codes], faults, Faults()
    )
    _find_duplicates(directory, statistics)
    return statistics


class _Counts:
    """Token counts over all splits, with range checks."""

    def __init__(self, spec: DatasetSpec):
        self.units = np.zeros(spec.semantic.vocab_size, np.int64)
        self.codes = np.zeros((spec.codec.num_codebooks, spec.codec.codebook_size), np.int64)
        self._offsets = np.arange(spec.codec.num_codebooks)[:, None] * spec.codec.codebook_size

    def add(self, record: Record) -> str | None:
        """Counts a record's tokens; where one is out of range, counts none and returns why."""
        books, size = self.codes.shape
        if record.codes.shape[0] != books:
            return f"{record.codes.shape[0]} codebooks, not {books}"
        if record.units.max() >= len(self.units):
            return f"unit {record.units.max()}, there are {len(self.units)}"
        if record.codes.max() >= size:
            return f"code {record.codes.max()}, codebooks have {size} entries"
        self.units += np.bincount(record.units, minlength=len(self.units))
        places = (record.codes + self._offsets).ravel()
        self.codes += np.bincount(places, minlength=books * size).reshape(books, size)
        return None


def _collect_split(
    directory: Path,
    spec: DatasetSpec,
    name: str,
    counts: _Counts,
    faults: dict[str, Faults],
    advance: Callable[[int], None],
) -> SplitStatistics:
    reader, index = RecordReader(directory, name), LengthIndex.load(directory, spec, name)
    layout, size = spec.layout(), len(index)
    if len(reader) != size:
        faults["index"].add(f"{name}: {len(reader)} records, the length index has {size}")
        size = min(size, len(reader))
    silent = np.zeros(spec.semantic.vocab_size, bool)
    silent[list(spec.silence.units)] = True
    floats = {key: np.zeros(size, np.float32) for key in ("seconds", "silence", "repeats", "apart")}
    hashes = {key: np.zeros(size, np.uint64) for key in ("content", "ids")}
    readable = np.zeros(size, bool)
    for number in range(size):
        advance(1)
        try:
            record = reader[number]
        except RecordError as error:
            faults["unreadable"].add(str(error))
            continue
        where = f"{name} record {number} ({record.id})"
        if wrong := _disagreement(record, index, number):
            faults["index"].add(f"{where}: {wrong}")
        if not len(record.units) or not record.codes.size:
            faults["range"].add(f"{where}: an empty stream")
            continue
        if wrong := counts.add(record):
            faults["range"].add(f"{where}: {wrong}")
            continue
        apart = _frames_apart(layout, len(record.units), record.codes.shape[1])
        if apart > 1:
            faults["alignment"].add(
                f"{where}: {len(record.units)} units, {record.codes.shape[1]} frames"
            )
        readable[number] = True
        floats["seconds"][number] = record.end - record.start
        floats["silence"][number] = silent[record.units].mean()
        floats["repeats"][number] = 1 - len(deduplicate(record.units)[0]) / len(record.units)
        floats["apart"][number] = apart
        hashes["content"][number] = _hash(record.units.tobytes(), record.codes.tobytes())
        hashes["ids"][number] = _hash(record.id.encode())
    columns: dict[str, np.ndarray] = {**floats, **hashes}
    kept: dict[str, Any] = {name: column[readable] for name, column in columns.items()}
    return SplitStatistics(
        number=np.flatnonzero(readable),
        speaker=index.speaker[:size][readable],
        language=index.language[:size][readable],
        speakers=index.speakers,
        languages=index.languages,
        **kept,
    )


def _disagreement(record: Record, index: LengthIndex, number: int) -> str | None:
    found: dict[str, int | str] = {
        "units": len(record.units),
        "frames": record.codes.shape[1],
        "speaker": record.speaker,
        "language": record.language,
    }
    expected: dict[str, int | str] = {
        "units": int(index.units[number]),
        "frames": int(index.frames[number]),
        "speaker": index.speakers[index.speaker[number]],
        "language": index.languages[index.language[number]],
    }
    wrong = [
        f"{key} {found[key]!r}, the index has {expected[key]!r}"
        for key in found
        if found[key] != expected[key]
    ]
    return "; ".join(wrong) or None


def _frames_apart(layout: TokenLayout, num_units: int, num_frames: int) -> float:
    """|T - S * frame_rate / unit_rate|, in frames."""
    ratio = Fraction(layout.ticks_per_unit, layout.ticks_per_frame)
    return float(abs(num_frames - num_units * ratio))


def _check_shards(directory: Path, spec: DatasetSpec, name: str, faults: Faults) -> None:
    split = spec.splits[name]
    digests = []
    for number in range(split.num_shards):
        path = directory / shard_name(name, number, split.num_shards)
        if not path.is_file():
            faults.add(f"{path} is missing")
            return
        digests.append(file_sha256(path))
    if hashlib.sha256("\n".join(digests).encode()).hexdigest() != split.shards_sha256:
        faults.add(f"{name}: the shards have changed since dataset.json was written")


def _find_duplicates(directory: Path, statistics: DatasetStatistics) -> None:
    """Lists records that share their id or all tokens with another, within or across splits."""
    splits = list(statistics.splits.items())
    owner = np.concatenate([np.full(len(s.number), i) for i, (_, s) in enumerate(splits)])
    number = np.concatenate([split.number for _, split in splits])
    readers: dict[str, RecordReader] = {}

    def name(place: int) -> str:
        split = splits[owner[place]][0]
        if split not in readers:
            readers[split] = RecordReader(directory, split)
        return f"{split} record {number[place]} ({readers[split][int(number[place])].id})"

    for kind, faults in (
        ("ids", statistics.faults["duplicate_id"]),
        ("content", statistics.duplicates),
    ):
        hashes = np.concatenate([getattr(split, kind) for _, split in splits])
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(np.diff(hashes[order]) == 0)
        faults.count = len(same)
        for place in same[:MAX_NAMED]:
            faults.named.append(f"{name(order[place + 1])} duplicates {name(order[place])}")


def _hash(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")
