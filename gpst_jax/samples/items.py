"""Evaluation items: stretches of recorded speech with their tokens, and prompts made from them."""

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
class Stretch:
    """A piece of one recording, from `start` to `end` in seconds, with both token streams."""

    source: str
    start: float
    end: float
    part: Part
    text: str | None


@dataclasses.dataclass(frozen=True)
class Item:
    """What one voice says in one evaluation item: stretches with short silences between them."""

    id: str
    speaker: str
    stretches: tuple[Stretch, ...]

    @property
    def text(self) -> str | None:
        """The transcript, or None where a stretch has none."""
        texts = [stretch.text for stretch in self.stretches]
        return None if None in texts else " ".join(str(text) for text in texts)

    @property
    def text_kind(self) -> str:
        """See the function `text_kind`."""
        return text_kind(self.text)

    @property
    def seconds(self) -> float:
        """Duration without the silences."""
        return sum(stretch.end - stretch.start for stretch in self.stretches)


def text_kind(text: str | None) -> str:
    """Whether every word is a digit's name ("digits") or not ("free")."""
    words = (text or "").lower().split()
    return "digits" if words and all(word in _DIGITS for word in words) else "free"


class ItemSet:
    """The items of a split, by speaker.

    Short recordings of a speaker are joined until an item lasts `min_seconds`; long ones are cut
    into items of at most `max_seconds`, which then have no transcript.

    Args:
        dataset_dir: directory of dataset.json.
        spec: its contents.
        split: which split.
        audio_dir: root of the recordings that the shards were made from.
        min_seconds: shortest item.
        max_seconds: longest stretch.
        seed: fixes order and choice.
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
        for speaker, own in sorted(records.items()):
            self._by_speaker[speaker] = self._items(speaker, own, min_seconds)

    @property
    def speakers(self) -> list[str]:
        """Speakers with at least one item."""
        return [speaker for speaker, items in self._by_speaker.items() if items]

    def choose(self, count: int) -> list[Item]:
        """Up to `count` items, drawn evenly from the speakers; digit strings where there are any.

        A digit string can be recognised by a small grammar, so the word error rate is about the
        speech and not about the recogniser.
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
        chosen = [pool[turn] for turn in range(rounds) for pool in pools if turn < len(pool)]
        return chosen[:count]

    @property
    def all(self) -> list[Item]:
        """Every item."""
        return [item for items in self._by_speaker.values() for item in items]

    def others(self, speaker: str, exclude: Sequence[str], key: str) -> list[Item]:
        """The speaker's items but those of the ids in `exclude`, in an order fixed by `key`."""
        own = [item for item in self._by_speaker[speaker] if item.id not in exclude]
        return self._shuffled(own, key)

    def prompt(self, items: Sequence[Item], seconds: float) -> list[Stretch]:
        """The first `seconds` of the items' stretches; empty where they do not last so long."""
        left, chosen = seconds, []
        for stretch in (stretch for item in items for stretch in item.stretches):
            if left <= 0:
                break
            length = min(left, stretch.end - stretch.start)
            chosen.append(self._clip(stretch, 0.0, length))
            left -= length
        return chosen if left < 0.1 else []

    def audio(self, stretches: Sequence[Stretch]) -> np.ndarray:
        """The recordings of the stretches with silence between them: float32 at `sample_rate`."""
        pieces: list[np.ndarray] = []
        rate = self.spec.sample_rate
        for stretch in stretches:
            wav = load_audio(self.audio_dir / stretch.source, rate)
            if pieces:
                pieces.append(np.zeros(round(self.spec.silence.seconds * rate), np.float32))
            pieces.append(wav[round(stretch.start * rate) : round(stretch.end * rate)])
        return np.concatenate(pieces)

    def _items(self, speaker: str, records: list[Record], min_seconds: float) -> list[Item]:
        items: list[Item] = []
        pending: list[Stretch] = []
        for record in records:
            for stretch in self._stretches(record):
                pending.append(stretch)
                if sum(piece.end - piece.start for piece in pending) >= min_seconds:
                    items.append(self._item(speaker, len(items), pending))
                    pending = []
        if pending and items:  # the rest joins the last item, so nothing is left out
            items[-1] = dataclasses.replace(items[-1], stretches=(*items[-1].stretches, *pending))
        elif pending:
            items.append(self._item(speaker, 0, pending))
        return items

    def _item(self, speaker: str, index: int, stretches: list[Stretch]) -> Item:
        name = f"{speaker}-{index:04d}".replace("/", "_")
        return Item(f"{self.split}-{name}", speaker, tuple(stretches))

    def _stretches(self, record: Record) -> list[Stretch]:
        whole = Stretch(
            record.source, record.start, record.end, (record.units, record.codes), record.text
        )
        seconds = record.end - record.start
        if seconds <= self._max_seconds:
            return [whole]
        count = int(np.ceil(seconds / self._max_seconds))
        edges = np.linspace(0, seconds, count + 1)
        return [self._clip(whole, float(a), float(b)) for a, b in itertools.pairwise(edges)]

    def _clip(self, stretch: Stretch, start: float, end: float) -> Stretch:
        """A part of a stretch, in seconds from its beginning; without text unless it is whole."""
        layout = self.spec.layout()
        first = round(start * layout.unit_rate)
        last = round(end * layout.unit_rate)
        units, codes = stretch.part
        if first == 0 and last >= len(units):
            return stretch
        frames = slice(layout.frame_at_unit(first), layout.frame_at_unit(last))
        return Stretch(
            stretch.source,
            stretch.start + first / layout.unit_rate,
            stretch.start + last / layout.unit_rate,
            (units[first:last], codes[:, frames]),
            None,
        )

    def _shuffled(self, items: list[Item], key: str) -> list[Item]:
        order = list(items)
        random.Random(f"{self._seed}/{key}").shuffle(order)
        return order


def check_audio(dataset_dir: str | Path, split: str, audio_dir: str | Path) -> None:
    """Raises UserError when the recordings of a split are not below `audio_dir`."""
    record = RecordReader(dataset_dir, split)[0]
    if not (Path(audio_dir) / record.source).exists():
        raise UserError(
            f"--audio_dir={audio_dir}: it has no {record.source}, which the {split} split of "
            f"{dataset_dir} was made from; name the directory given to tokenize_corpus"
        )
