"""Manifests of recordings: CSV, TSV or JSONL, plain or gzipped.

The columns are `path`, and optionally `id`, `speaker`, `text`, `language`, `split`, `start` and
`end` or `duration` (seconds): a row with `start` or `end` is that piece of its recording. Other
names are understood too, see `columns`; other columns are ignored.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import SPLITS, Failure, Utterance, checked, encode_member
from data_pipeline.sources.files import FileFinder, report_respelled, unreadable
from data_pipeline.sources.folder import identifier
from data_pipeline.sources.speakers import AUTO, SpeakerNames
from data_pipeline.sources.tables import FORMATS, Table, read_table


@dataclass(frozen=True)
class ManifestSource:
    """A manifest of recordings.

    Attributes:
        manifest: the file; its suffix determines the format.
        audio_dir: base of paths that are not relative to the manifest's folder.
        speaker_pattern: for rows without a speaker, see `folder.FolderSource`.
        language: of rows that do not specify theirs.
        speaker_from: the rule that names the speakers, see `speakers.SpeakerNames`.
    """

    manifest: str | os.PathLike[str]
    audio_dir: str | os.PathLike[str] | None = None
    speaker_pattern: str = AUTO
    language: str = "und"
    speaker_from: str = AUTO

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`."""
        table = Path(self.manifest).absolute()
        folders = [table.parent]
        if self.audio_dir is not None:
            folders.append(Path(self.audio_dir).absolute())
        find = FileFinder(folders)
        rows: list[tuple[str, _Row]] = []
        failures: list[Failure] = []
        content = _read(table)
        for line, cells, problem in content.rows:
            where = f"line {line} of {table.name}"
            try:
                if problem:
                    raise ValueError(problem)
                rows.append((where, _Row.parse(cells, find)))
            except ValueError as error:
                failures.append(Failure(where, str(table), "list", f"{where}: {error}"))
        respelled = [
            f"{row.written!r} ({where}) for {row.path.name!r}" for where, row in rows if row.written
        ]
        report_respelled(table.name, respelled)
        if not rows and not failures:
            raise UserError(f"manifest {table} names no recordings")
        root = folders[-1]
        speakers = SpeakerNames(
            self.speaker_pattern,
            root,
            [row.path for _, row in rows],
            self.speaker_from,
            column="speaker" in content.columns,
        )
        utterances = []
        for where, row in rows:
            # `identifier` gives a stable id even for paths outside the folder.
            name = row.id or identifier(row.path, root) + row.suffix
            if not os.path.isfile(row.path):  # also of names that are too long
                reason = f"{where} names a file that does not exist"
                failures.append(Failure(name, str(row.path), "list", reason))
                continue
            utterances.append(
                Utterance(
                    id=name,
                    path=str(row.path),
                    speaker=speakers(row.path, row.speaker),
                    language=row.language or self.language,
                    text=row.text,
                    split=row.split,
                    member=row.member,
                )
            )
        utterances, failures = checked(utterances, failures)
        speakers.report(utterances)
        return utterances, failures


def _read(path: Path) -> Table:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise UserError(f"manifest {path}: not one of {', '.join(FORMATS)}, or those with .gz")
    return read_table(path)


@dataclass(frozen=True)
class _Row:
    path: Path
    id: str
    speaker: str
    language: str
    text: str | None
    split: str
    member: str
    suffix: str
    written: str  # the path, if it is not written as the file's name is

    @classmethod
    def parse(cls, row: Mapping[str, str], find: FileFinder) -> "_Row":
        """Parses a row; the ValueError of an invalid row holds the reason."""
        if not row.get("path"):
            raise ValueError("no path")
        found = find(row["path"])
        path = found.path
        if found.others:
            files = " and ".join(map(str, found.others))
            raise ValueError(f"may mean {files}: write the path as one of them is written")
        if not path.name.lower().endswith(AUDIO_SUFFIXES):
            which = f"not one of {', '.join(AUDIO_SUFFIXES)}"
            raise ValueError(f"{path.name}: {unreadable(path.name) or which}")
        split = row.get("split", "")
        if split and split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        member, suffix = _member(row)
        return cls(
            path=path,
            id=row.get("id", ""),
            speaker=row.get("speaker", ""),
            language=row.get("language", ""),
            text=row.get("text") or None,
            split=split,
            member=member,
            suffix=suffix,
            written=row["path"] if found.respelled else "",
        )


def _member(cells: Mapping[str, str]) -> tuple[str, str]:
    """Location of a row's piece within its recording, and the suffix of its id."""
    if not (cells.get("start") or cells.get("end")):
        return "", ""
    start = float(cells.get("start") or 0.0)
    given = cells.get("end") or cells.get("duration")
    if not given:
        raise ValueError("start without end or duration")
    end = float(given) + (0.0 if cells.get("end") else start)
    if not 0.0 <= start < end < float("inf"):
        raise ValueError(f"a segment from {start} to {end} s")
    # NeMo lists complete recordings as pieces from 0 for their duration: they keep plain ids.
    plain = start == 0 and not cells.get("end")
    return encode_member(start=start, end=end), "" if plain else f"@{start:.3f}"
