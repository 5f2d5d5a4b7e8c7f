"""Speech datasets of Parquet or Arrow files, as the Hugging Face hub and `save_to_disk` have them.

The package datasets finds the files and reads their features; audio is never decoded by it (which
would need torchcodec), but by our reader, from the bytes or the path that a row holds.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.audio.errors import AudioError
from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import (
    SPLITS,
    UNKNOWN_SPEAKER,
    Failure,
    Utterance,
    checked,
    encode_member,
)
from data_pipeline.sources.files import unreadable
from data_pipeline.sources.flaws import printable
from data_pipeline.sources.folder import resolve
from data_pipeline.sources.hf_datasets.columns import Columns
from data_pipeline.sources.hf_datasets.files import data_files
from data_pipeline.sources.hf_datasets.rows import Block, blocks, schema_of
from data_pipeline.sources.speakers import report_speakers
from data_pipeline.sources.tables import canonical


@dataclass(frozen=True)
class HFDatasetSource:
    """A dataset in one of the layouts of the Hugging Face hub.

    Attributes:
        dataset: a directory that `save_to_disk` wrote, a directory of Parquet or Arrow files as a
            dataset's repository has them, or the name of a repository of the hub.
        config: of the dataset; empty where it has one.
        split: of the dataset, several joined by +; empty means all.
        audio: the column of recordings; empty where there is one.
        text: the column of transcripts; empty: see `tables.NAMES`.
        speaker: the column of speakers, likewise.
        language_column: the column of languages, likewise.
        id: the column of names that are unique within a split; empty: file and row.
        language: of rows that do not say it.
        revision: of the repository; empty is its main branch.
        streaming: "true" reads files of the hub over the network, without storing them.
    """

    dataset: str | os.PathLike[str]
    config: str = ""
    split: str = ""
    audio: str = ""
    text: str = ""
    speaker: str = ""
    language_column: str = ""
    id: str = ""
    language: str = "und"
    revision: str = ""
    streaming: str = "false"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`; reads the columns besides the audio."""
        name = os.fspath(self.dataset)
        if self.streaming not in ("true", "false"):
            raise UserError(f"hf: streaming={self.streaming} is neither true nor false")
        files = data_files(name, self.config, self.split, self.revision, self.streaming == "true")
        given = {
            "text": self.text,
            "speaker": self.speaker,
            "language": self.language_column,
            "id": self.id,
        }
        listing = _Listing(Path(name).absolute(), self.audio, given, self.language)
        counts = {}
        for split, paths in files.items():
            before = len(listing.utterances)
            for path in paths:
                listing.add_file(split, path)
            counts[split] = len(listing.utterances) - before
        if not listing.utterances and not listing.failures:
            raise UserError(f"{name} holds no rows")
        said = ", ".join(f"{split} {count}{_fate(split)}" for split, count in counts.items())
        print(f"{name}: rows of {said}", file=sys.stderr)
        utterances, failures = checked(listing.utterances, listing.failures)
        report_speakers(utterances, "the dataset's own column", "name it as ?speaker=COLUMN")
        return utterances, failures


@dataclass
class _Listing:
    root: Path
    audio: str
    given: Mapping[str, str]
    language: str
    utterances: list[Utterance] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add_file(self, split: str, path: str) -> None:
        """Adds the rows of a file; what cannot be read of it is one failure."""
        try:
            columns = Columns.find(path, schema_of(path), self.audio, self.given)
            for block in blocks(path, columns.audio, columns.others):
                self._add(split, path, columns, block)
        except AudioError as error:
            self._fail(f"{split}/{Path(path).stem}", path, error.reason)

    def _add(self, split: str, path: str, columns: Columns, block: Block) -> None:
        folders: Sequence[Path] = (Path(path).parent, self.root, Path(os.curdir).absolute())
        stem = Path(path).stem
        for number, row in enumerate(block.rows):
            place = block.first + number
            name = f"{split}/{stem}-{place:06d}"
            try:
                name = f"{split}/{columns.value(row, 'id')}" if columns.has("id") else name
                where = self._audio(path, columns.audio, place, block, number, folders)
                self.utterances.append(
                    Utterance(
                        id=name,
                        path=where[0],
                        speaker=columns.value(row, "speaker") or UNKNOWN_SPEAKER,
                        language=columns.value(row, "language") or self.language,
                        text=columns.value(row, "text") or None,
                        split=_split(split),
                        member=where[1],
                    )
                )
            except ValueError as error:
                self._fail(name, path, f"row {place}: {error}")

    def _audio(
        self,
        path: str,
        column: str,
        place: int,
        block: Block,
        number: int,
        folders: Sequence[Path],
    ) -> tuple[str, str]:
        """Path and member of a row's audio; the ValueError of a row without has the reason."""
        if block.stored[number]:
            return path, encode_member(row=place, column=column)
        given = block.paths[number]
        if not given:
            raise ValueError(f"no audio in {column}")
        found = resolve(given, folders)
        if not found.name.lower().endswith(AUDIO_SUFFIXES):
            which = f"not one of {', '.join(AUDIO_SUFFIXES)}"
            raise ValueError(f"{found.name}: {unreadable(found.name) or which}")
        if not found.is_file():
            raise ValueError(f"names a file that does not exist: {given}")
        return str(found), ""

    def _fail(self, name: str, path: str, reason: str) -> None:
        self.failures.append(Failure(printable(name), path, "list", printable(reason)))


def _split(name: str) -> str:
    found = canonical({"split": name})["split"]
    return found if found in SPLITS else ""  # others are left to `assign_splits`


def _fate(name: str) -> str:
    ours: Any = _split(name)
    if ours == name:
        return ""
    return f" ({ours})" if ours else " (split anew: name others as ?split= to leave it out)"
