"""Corpora as lhotse describes them; no audio is decoded, and no command run, to list them."""

import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import Failure, Utterance, checked
from data_pipeline.sources.flaws import printable
from data_pipeline.sources.lhotse_manifests.lines import Item, import_lhotse, read_items
from data_pipeline.sources.lhotse_manifests.pieces import (
    MALFORMED,
    Piece,
    RefusedError,
    pieces,
    utterance,
)
from data_pipeline.sources.lhotse_manifests.shar import (
    Shard,
    Stored,
    find_shards,
    read_shard,
    unused,
)
from data_pipeline.sources.speakers import report_speakers

_PER = ("supervision", "cut")


@dataclass(frozen=True)
class LhotseSource:
    """Manifests of lhotse.

    Attributes:
        manifest: cuts or recordings (`.jsonl`, `.jsonl.gz`), a glob pattern of such files, or a
            shar directory.
        supervisions: manifest of the supervisions of recordings; empty if there is none.
        per: "supervision": an utterance for each supervision, with its own seconds and channel;
            "cut": one for each cut, with all that is said in it.
        audio_dir: base of paths that are not relative to the manifest's folder; None is the
            current directory.
        language: of what has no language.
    """

    manifest: str | os.PathLike[str]
    supervisions: str | os.PathLike[str] = ""
    per: str = _PER[0]
    audio_dir: str | os.PathLike[str] | None = None
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`."""
        if self.per not in _PER:
            raise UserError(f"lhotse: per={self.per} is not one of {', '.join(_PER)}")
        import_lhotse()
        given = Path(self.manifest)
        listing = _Listing(self.per, self.language)
        if given.is_dir():
            if self.supervisions:
                raise UserError(f"{given} is a shar directory: its cuts hold the supervisions")
            for cuts, recordings in find_shards(given.absolute()):
                shard = read_shard(recordings) if recordings else Shard()
                listing.add_shard(cuts, recordings, shard)
        else:
            paths = [given] if given.is_file() else [Path(p) for p in glob.glob(str(given))]
            if not paths:
                raise UserError(f"no manifest of lhotse at {given}")
            spoken = listing.read_supervisions(self.supervisions) if self.supervisions else {}
            base = Path(self.audio_dir or os.curdir).absolute()
            for path in sorted(path.absolute() for path in paths):
                listing.add_manifest(path, [path.parent, base], spoken)
            listing.add_unspoken(self.supervisions, spoken)
        if not listing.utterances:
            first = listing.failures[0] if listing.failures else None
            why = f"; {first.id}: {first.reason}" if first else ": it is empty"
            raise UserError(f"lhotse: nothing in {given} can be used{why}")
        utterances, failures = checked(listing.utterances, listing.failures)
        report_speakers(utterances, "the supervisions", "name them in the supervisions")
        return utterances, failures


@dataclass
class _Listing:
    per: str
    language: str
    utterances: list[Utterance] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def read_supervisions(self, given: str | os.PathLike[str]) -> dict[str, list[Any]]:
        """Supervisions by the ids of their recordings."""
        lhotse, path = import_lhotse(), Path(given).absolute()
        found: dict[str, list[Any]] = defaultdict(list)
        for item in read_items(path):
            if not isinstance(item.value, lhotse.SupervisionSegment):
                self._fail(path, item.where, item.problem or "not a supervision")
            else:
                found[item.value.recording_id].append(item.value)
        return found

    def add_manifest(
        self, path: Path, folders: Sequence[Path], spoken: dict[str, list[Any]]
    ) -> None:
        """Adds cuts or recordings; takes the supervisions of the latter out of `spoken`."""
        for item in read_items(path):
            cut = _cut(item, spoken) if not item.problem else item.problem
            if isinstance(cut, str):
                self._fail(path, item.where, cut)
                continue
            self._add(path, cut, cut.recording, None, folders)

    def add_unspoken(self, given: str | os.PathLike[str], spoken: dict[str, list[Any]]) -> None:
        """A failure for every supervision whose recording was not there."""
        for name in sorted(spoken):
            for item in spoken[name]:
                self._fail(Path(given).absolute(), item.id, f"its recording {name} is not listed")

    def add_shard(self, path: Path, audio: Path | None, shard: Shard) -> None:
        """Adds the cuts of a shard, and failures for what is in it besides."""
        used = set()
        folders = [path.parent, Path(os.curdir).absolute()]
        for item in read_items(path):
            cut = _cut(item, {}) if not item.problem else item.problem
            if isinstance(cut, str):
                self._fail(path, item.where, cut)
                continue
            key = str(cut.id)
            used.add(key)
            if key in shard.problems:
                self._fail(path, key, shard.problems[key])
                continue
            recording = shard.recordings.get(key, cut.recording)
            self._add(path, cut, recording, shard.stored.get(key), folders)
        for key, reason in unused(shard, used):
            self._fail(audio or path, key, reason)

    def _add(
        self,
        manifest: Path,
        cut: Any,
        recording: Any,
        stored: Stored | None,
        folders: Sequence[Path],
    ) -> None:
        try:
            for piece in pieces(cut, self.per):
                if isinstance(piece, tuple):
                    self._fail(manifest, *piece)
                    continue
                self._add_piece(manifest, cut, piece, recording, stored, folders)
        except MALFORMED as error:
            self._fail(manifest, cut.id, f"a malformed cut: {error}")

    def _add_piece(
        self,
        manifest: Path,
        cut: Any,
        piece: Piece,
        recording: Any,
        stored: Stored | None,
        folders: Sequence[Path],
    ) -> None:
        try:
            self.utterances.append(
                utterance(piece, recording, cut.custom, stored, folders, self.language)
            )
        except RefusedError as refusal:
            self._fail(manifest, piece.id, str(refusal))
        except (*MALFORMED, OSError) as error:
            self._fail(manifest, piece.id, f"a malformed item: {error}")

    def _fail(self, path: Path, name: str, reason: str) -> None:
        self.failures.append(
            Failure(printable(str(name)), printable(str(path)), "list", printable(reason))
        )


def _cut(item: Item, spoken: dict[str, list[Any]]) -> Any:
    """The cut of an item: itself, or a complete recording; a text says why there is none."""
    lhotse, value = import_lhotse(), item.value
    if isinstance(value, lhotse.MonoCut | lhotse.MultiCut):
        return value
    if isinstance(value, lhotse.Recording):
        cut = value.to_cut()
        cut.supervisions = spoken.pop(value.id, [])
        return cut
    if isinstance(value, lhotse.SupervisionSegment):
        return "a supervision: give the recordings, and this file as ?supervisions=FILE"
    return f"a {type(value).__name__}, neither a cut nor a recording"
