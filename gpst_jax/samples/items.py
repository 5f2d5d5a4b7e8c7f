"""Evaluation items: segments of recordings with their tokens, and prompts made from them."""

import dataclasses
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.audio.io import load_audio
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.runtime.errors import UserError
from gpst_jax.generation.gpst_modes import Part

_DIGITS = frozenset(
    ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of one recording, from `start` to `end` in seconds, with both token streams."""

    source: str
    start: float
    end: float
    part: Part
    text: str | None


@dataclasses.dataclass(frozen=True)
class Item:
    """One evaluation item: segments of one speaker, joined by short silences."""

    id: str
    speaker: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str | None:
        """The transcript, or None where a segment has none."""
        texts = [segment.text for segment in self.segments]
        return None if None in texts else " ".join(str(text) for text in texts)

    @property
    def text_kind(self) -> str:
        """Kind of the transcript, see the function `text_kind`."""
        return text_kind(self.text)

    @property
    def seconds(self) -> float:
        """Duration without silences."""
        return sum(segment.end - segment.start for segment in self.segments)


def text_kind(text: str | None) -> str:
    """The kind "digits" where every word of the text names a digit, else "free"."""
    words = (text or "").lower().split()
    return "digits" if words and all(word in _DIGITS for word in words) else "free"


class ItemSet:
    """The items of a split, by speaker.

    Short recordings of a speaker are joined until an item lasts `min_seconds`; long ones are split
    into segments of at most `max_seconds`, which have no transcript.

    Args:
        dataset_dir: directory of dataset.json.
        spec: its contents.
        split: name of the split.
        audio_dir: root of the recordings that the shards were made from.
        min_seconds: shortest item.
        max_seconds: longest segment.
        seed: seeds order and choice.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        split: str,
        audio_dir: str | Path,
        *,
        min_seconds: float = 1.0,
        max_seconds: float = 5.0,
        seed: int = 0,
    ):
        self.spec, self.split, self.audio_dir = spec, split, Path(audio_dir)
        self._max_seconds, self._seed = max_seconds, seed
        self._by_speaker: dict[str, list[Item]] = {}
        reader = RecordReader(dataset_dir, split)
        records: dict[str, list[Record]] = {}
        for index in range(len(reader)):
            record = reader[index]
            records.setdefault(record.speaker, []).append(record)
        for speaker, of_speaker in sorted(records.items()):
            self._by_speaker[speaker] = self._items(speaker, of_speaker, min_seconds)

    @property
    def speakers(self) -> list[str]:
        """Speakers with at least one item."""
        return [speaker for speaker, items in self._by_speaker.items() if items]

    def choose(self, count: int) -> list[Item]:
        """Up to `count` items, from the speakers in turn; digit strings only, if there are any.

        A small grammar recognises digit strings reliably, so that the word error rate measures the
        speech rather than the recogniser.
        """
        pools = []
        digits = any(item.text_kind == "digits" for item in self.all)
        for speaker in self.speakers:
            pool = [
                item
                for item in self._by_speaker[speaker]
                if not digits or item.text_kind == "digits"
            ]
            pools.append(self._shuffled(pool, speaker))
        rounds = max((len(pool) for pool in pools), default=0)
        chosen = [pool[i] for i in range(rounds) for pool in pools if i < len(pool)]
        return chosen[:count]

    @property
    def all(self) -> list[Item]:
        """Every item."""
        return [item for items in self._by_speaker.values() for item in items]

    def others(self, speaker: str, exclude: Sequence[str], key: str) -> list[Item]:
        """The speaker's items except the ids in `exclude`, in an order seeded by `key`."""
        kept = [item for item in self._by_speaker[speaker] if item.id not in exclude]
        return self._shuffled(kept, key)

    def prompt(self, items: Sequence[Item], seconds: float) -> list[Segment]:
        """The first `seconds` of the items' segments; empty if they are shorter."""
        left, chosen = seconds, []
        for segment in (segment for item in items for segment in item.segments):
            if left <= 0:
                break
            length = min(left, segment.end - segment.start)
            chosen.append(self._clip(segment, 0.0, length))
            left -= length
        return chosen if left < 0.1 else []

    def audio(self, segments: Sequence[Segment]) -> np.ndarray:
        """The waveform (N,) of the segments, joined by silences: float32 at `sample_rate`."""
        pieces: list[np.ndarray] = []
        rate = self.spec.sample_rate
        for segment in segments:
            wav = load_audio(self.audio_dir / segment.source, rate)
            if pieces:
                pieces.append(np.zeros(round(self.spec.silence.seconds * rate), np.float32))
            pieces.append(wav[round(segment.start * rate) : round(segment.end * rate)])
        return np.concatenate(pieces)

    def _items(self, speaker: str, records: list[Record], min_seconds: float) -> list[Item]:
        items: list[Item] = []
        pending: list[Segment] = []
        for record in records:
            for segment in self._segments(record):
                pending.append(segment)
                if sum(piece.end - piece.start for piece in pending) >= min_seconds:
                    items.append(self._item(speaker, len(items), pending))
                    pending = []
        if pending and items:  # a short rest is appended to the last item, so that nothing is lost
            items[-1] = dataclasses.replace(items[-1], segments=(*items[-1].segments, *pending))
        elif pending:
            items.append(self._item(speaker, 0, pending))
        return items

    def _item(self, speaker: str, index: int, segments: list[Segment]) -> Item:
        name = f"{speaker}-{index:04d}".replace("/", "_")
        return Item(f"{self.split}-{name}", speaker, tuple(segments))

    def _segments(self, record: Record) -> list[Segment]:
        whole = Segment(
            record.source, record.start, record.end, (record.units, record.codes), record.text
        )
        seconds = record.end - record.start
        if seconds <= self._max_seconds:
            return [whole]
        count = int(np.ceil(seconds / self._max_seconds))
        edges = np.linspace(0, seconds, count + 1)
        return [self._clip(whole, float(a), float(b)) for a, b in itertools.pairwise(edges)]

    def _clip(self, segment: Segment, start: float, end: float) -> Segment:
        """Clips a segment to seconds from its start; a part of it has no text."""
        layout = self.spec.layout()
        first = round(start * layout.unit_rate)
        last = round(end * layout.unit_rate)
        units, codes = segment.part
        if first == 0 and last >= len(units):
            return segment
        frames = slice(layout.frame_at_unit(first), layout.frame_at_unit(last))
        return Segment(
            segment.source,
            segment.start + first / layout.unit_rate,
            segment.start + last / layout.unit_rate,
            (units[first:last], codes[:, frames]),
            None,
        )

    def _shuffled(self, items: list[Item], key: str) -> list[Item]:
        order = list(items)
        random.Random(f"{self._seed}/{key}").shuffle(order)
        return order


def check_audio(dataset_dir: str | Path, split: str, audio_dir: str | Path) -> None:
    """Raises UserError if the recordings of a split are not in `audio_dir`."""
    record = RecordReader(dataset_dir, split)[0]
    if not (Path(audio_dir) / record.source).exists():
        raise UserError(
            f"--audio_dir={audio_dir}: it has no {record.source}, which the {split} split of "
            f"{dataset_dir} was made from; name the directory given to tokenize_corpus"
        )
