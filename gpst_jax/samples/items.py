"""Evaluation items: segments of recordings with their tokens, and prompts made from them."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import read_audio
from data_pipeline.sources.reading import split_source, stored_utterance
from data_pipeline.tokenization.inputs import audio_root
from gpst_jax.generation.gpst_modes import Part
from gpst_jax.samples.texts import text_kind

# A recording with a transcript is one item up to this length: what people read aloud in one go
# (LibriSpeech: all but a few), and what models are trained on. No transcript belongs to a part.
MAX_ITEM_SECONDS = 30.0
_CUT_SECONDS = 5.0  # longest part of what is cut
_SAME_MOMENT = 2e-3  # s: records store single-precision floats


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of one recording, from `start` to `end` in seconds, with both token streams."""

    source: str
    start: float
    end: float
    part: Part
    text: str | None
    language: str = "und"


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
        """Kind of the transcript, see `texts.text_kind`."""
        return text_kind(self.text, self.language)

    @property
    def language(self) -> str | None:
        """Language of the transcript: None where it is not known, `mul` where there are several."""
        known = {segment.language for segment in self.segments} - {"und"}
        return "mul" if len(known) > 1 else next(iter(known), None)

    @property
    def seconds(self) -> float:
        """Duration without silences."""
        return sum(segment.end - segment.start for segment in self.segments)


class ItemSet:
    """The items of a split, by speaker.

    Short recordings of a speaker are joined until an item lasts `min_seconds`. A recording with a
    transcript stays whole up to `max_item_seconds`, also when it is in several records; what is
    longer, or has no transcript, is split into segments of at most 5 s, which have none.

    Args:
        dataset_dir: directory of dataset.json.
        spec: its contents.
        split: name of the split.
        audio_dir: root of the recordings that the shards were made from.
        min_seconds: shortest item.
        max_seconds: longest segment, of recordings with a transcript too; None: as above.
        max_item_seconds: longest recording that stays whole.
        language: only recordings in it; None: all.
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
        max_seconds: float | None = None,
        max_item_seconds: float = MAX_ITEM_SECONDS,
        language: str | None = None,
        seed: int = 0,
    ):
        self.spec, self.split, self.audio_dir = spec, split, Path(audio_dir)
        self._cut = _CUT_SECONDS if max_seconds is None else max_seconds
        self._whole = max_item_seconds if max_seconds is None else max_seconds
        self._seed = seed
        self._by_speaker: dict[str, list[Item]] = {}
        reader = RecordReader(dataset_dir, split)
        records: dict[str, list[Record]] = {}
        for index in range(len(reader)):
            record = reader[index]
            if language is None or record.language == language:
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
        digits = self._has_digits
        return self._in_turn(count, lambda item: not digits or item.text_kind == "digits")

    def choose_sentences(self, count: int) -> list[Item]:
        """Up to `count` items with other texts, where `choose` takes digit strings only."""
        if not self._has_digits:
            return []
        return self._in_turn(count, lambda item: bool(item.text) and item.text_kind != "digits")

    @property
    def _has_digits(self) -> bool:
        return any(item.text_kind == "digits" for item in self.all)

    def _in_turn(self, count: int, keep: Callable[[Item], bool]) -> list[Item]:
        """Up to `count` of the items that are kept, from the speakers in turn."""
        pools = [
            self._shuffled([item for item in self._by_speaker[speaker] if keep(item)], speaker)
            for speaker in self.speakers
        ]
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
            wav = read_audio(stored_utterance(segment.source, self.audio_dir), rate)
            if pieces:
                pieces.append(np.zeros(round(self.spec.silence.seconds * rate), np.float32))
            pieces.append(wav[round(segment.start * rate) : round(segment.end * rate)])
        return np.concatenate(pieces)

    def _items(self, speaker: str, records: list[Record], min_seconds: float) -> list[Item]:
        items: list[Item] = []
        pending: list[Segment] = []
        for recording in _recordings(records):
            for segment in self._segments(recording):
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

    def _segments(self, recording: Sequence[Record]) -> list[Segment]:
        """The segments of a recording, which is in one record or several."""
        whole = self._joined(recording)
        if whole is not None and whole.text and whole.end - whole.start <= self._whole:
            return [whole]
        return [segment for record in recording for segment in self._cut_up(_segment(record))]

    def _joined(self, recording: Sequence[Record]) -> Segment | None:
        """The records as one segment with the transcript of all; None where a part is missing."""
        first, *others = map(_segment, recording)
        joined = first
        for following in others:
            overlap = joined.end - following.start
            if overlap < -_SAME_MOMENT:
                return None
            if overlap > _SAME_MOMENT:  # of chunks by the paper's rule
                following = self._clip(following, overlap, following.end - following.start)
            joined = dataclasses.replace(
                joined,
                end=following.end,
                part=(
                    np.concatenate([joined.part[0], following.part[0]]),
                    np.concatenate([joined.part[1], following.part[1]], axis=1),
                ),
            )
        if not others:
            return joined
        return dataclasses.replace(joined, text=recording[0].recording_text)

    def _cut_up(self, segment: Segment) -> list[Segment]:
        """Parts of equal length, the segment itself where it is short."""
        seconds = segment.end - segment.start
        if seconds <= self._cut:
            return [segment]
        edges = np.linspace(0, seconds, int(np.ceil(seconds / self._cut)) + 1)
        return [self._clip(segment, float(a), float(b)) for a, b in itertools.pairwise(edges)]

    def _clip(self, segment: Segment, start: float, end: float) -> Segment:
        """Clips a segment to seconds from its start; a part of it has no text."""
        layout = self.spec.layout()
        first = round(start * layout.unit_rate)
        last = round(end * layout.unit_rate)
        units, codes = segment.part
        if first == 0 and last >= len(units):
            return segment
        frames = slice(layout.frame_at_unit(first), layout.frame_at_unit(last))
        return dataclasses.replace(
            segment,
            start=segment.start + first / layout.unit_rate,
            end=segment.start + last / layout.unit_rate,
            part=(units[first:last], codes[:, frames]),
            text=None,
        )

    def _shuffled(self, items: list[Item], key: str) -> list[Item]:
        order = list(items)
        random.Random(f"{self._seed}/{key}").shuffle(order)
        return order


def _segment(record: Record) -> Segment:
    part = (record.units, record.codes)
    return Segment(record.source, record.start, record.end, part, record.text, record.language)


def _recordings(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Consecutive records by recording: those of one that was cut belong together."""
    cut: list[Record] = []
    for record in records:
        if cut and (record.source, record.id) == (cut[0].source, _part_id(cut[0], len(cut))):
            cut.append(record)
            continue
        if cut:
            yield cut
        cut = [record]
    if cut:
        yield cut


def _part_id(first: Record, number: int) -> str:
    """Id of a part of a recording whose first part is given, see `tokenization.shard`."""
    stem, mark, place = first.id.rpartition("#")
    return f"{stem}#{number:04d}" if mark and place == "0000" else ""


def check_audio(dataset_dir: str | Path, split: str, audio_dir: str | Path) -> None:
    """Raises UserError if the recordings of a split are not in `audio_dir`."""
    source = RecordReader(dataset_dir, split)[0].source
    if not Path(stored_utterance(source, audio_dir).path).exists():
        raise UserError(
            f"--audio_dir={audio_dir}: it has no {split_source(source)[0]}, which the {split} "
            f"split of {dataset_dir} was made from; name the directory given to tokenize_corpus"
        )


def find_audio(
    dataset_dir: str | Path, splits: Sequence[str], audio_dir: str | Path | None
) -> Path:
    """The directory that the recordings of a dataset are below.

    Args:
        dataset_dir: directory of the dataset.
        splits: whose recordings are needed.
        audio_dir: the directory, if it is known. Recordings that it does not hold, such as those
            of a table elsewhere, are looked for where they were when the dataset was made.

    Raises:
        UserError: they are in neither place.
    """
    folders = [Path(folder) for folder in (audio_dir, audio_root(dataset_dir)) if folder]
    if not folders:
        raise UserError(
            f"--audio_dir is missing: {dataset_dir} does not say where its recordings were; name "
            "the directory given to tokenize_corpus"
        )
    errors = []
    for folder in folders:
        try:
            for split in splits:
                check_audio(dataset_dir, split, folder)
            return folder
        except UserError as error:
            errors.append(error)
    raise errors[0]
