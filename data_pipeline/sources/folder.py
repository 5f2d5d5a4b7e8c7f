"""Directories of recordings, with or without a table of transcripts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import SPLITS, Failure, Utterance, checked
from data_pipeline.sources.files import (
    AudioTree,
    FileFinder,
    FoundFile,
    find_audio,
    report_respelled,
    unreadable,
)
from data_pipeline.sources.flaws import printable
from data_pipeline.sources.speakers import AUTO, SpeakerNames, check_rule, relative
from data_pipeline.sources.tables import Row, Table, read_table


@dataclass(frozen=True)
class FolderSource:
    """A directory tree of recordings, with or without a table of transcripts.

    Attributes:
        audio_dir: searched recursively for the files of `audio.io.AUDIO_SUFFIXES`, see
            `files.find_audio`.
        transcripts: a table, see `tables.read_table`, with the column `path` (relative to its
            folder or to `audio_dir`, see `files.FileFinder`) and optionally `speaker`, `text`,
            `language` and `split`; or None. With a table, only recordings that have a row are
            used. With a `text` column, a row without text is a failure (omit the column if there
            are no transcripts).
        speaker_pattern: "auto", or a regular expression with one group, searched in the path
            relative to `audio_dir`; excludes `speaker_from`. A `speaker` column takes precedence.
        language: of rows that do not specify theirs.
        speaker_from: the rule that names the speakers, see `speakers.SpeakerNames`.
        exclude: a path, or several, whose recordings are left out: outputs below `audio_dir`.
    """

    audio_dir: str | os.PathLike[str]
    transcripts: str | os.PathLike[str] | None = None
    speaker_pattern: str = AUTO
    language: str = "und"
    speaker_from: str = AUTO
    exclude: str | Sequence[str] = ()

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`.

        Raises:
            UserError: a directory, file or pattern is invalid, or there are no recordings.
        """
        check_rule(self.speaker_pattern, self.speaker_from)
        root = Path(self.audio_dir).absolute()
        if not root.is_dir():
            raise UserError(f"audio_dir {self.audio_dir} is not a directory")
        tree = find_audio(root, [self.exclude] if isinstance(self.exclude, str) else self.exclude)
        if not tree.files:
            raise UserError(f"no recordings under {self.audio_dir}: {_instead(tree)}")
        table = None if self.transcripts is None else _read(Path(self.transcripts).absolute())
        speakers = SpeakerNames(
            self.speaker_pattern,
            root,
            tree.files,
            self.speaker_from,
            column=table is not None and "speaker" in table.columns,
        )
        if self.transcripts is None or table is None:
            utterances = [
                Utterance(identifier(path, root), str(path), speakers(path), self.language)
                for path in tree.files
            ]
            failures = [_failure(path, root, reason) for path, reason in tree.refused.items()]
        else:
            path = Path(self.transcripts).absolute()
            utterances, failures = _Join(path, root, tree, speakers, self.language)(table)
        utterances, failures = checked(utterances, failures)
        speakers.report(utterances)
        return utterances, failures


class _Join:
    """Joins the rows of a table with the files found."""

    def __init__(
        self, path: Path, root: Path, tree: AudioTree, speakers: SpeakerNames, language: str
    ):
        self._name, self._root, self._tree = path.name, root, tree
        self._speakers, self._language = speakers, language
        self._find = FileFinder((path.parent, root))
        self._used: dict[str, str] = {}  # the row that uses a file, by the file's identity

    def __call__(self, table: Table) -> tuple[list[Utterance], list[Failure]]:
        """The utterances, and a failure for every other row and every file without a row."""
        utterances, failures, mentioned, respelled = [], [], set(), []
        for row in table.rows:
            where = f"line {row.line} of {self._name}"
            given = row.cells.get("path", "")
            found = self._find(given) if given else FoundFile(self._root, missing=True)
            name = identifier(found.path, self._root) if given else where
            identities = [self._tree.identity(path) for path in (found.path, *found.others)]
            mentioned.update(identities)
            reason = self._refusal(row, where, found, "text" in table.columns)
            used = self._used.get(identities[0])
            if used and not reason:
                reason = f"duplicate: {where} names the same file as {used}, which is used"
            if reason:
                shown = printable(str(found.path)) if given else ""
                failures.append(Failure(printable(name), shown, "list", reason))
                continue
            self._used[identities[0]] = where
            if found.respelled:
                respelled.append(f"{given!r} ({where}) for {identifier(found.path, self._root)!r}")
            utterances.append(
                Utterance(
                    id=name,
                    path=str(found.path),
                    speaker=self._speakers(found.path, row.cells.get("speaker", "")),
                    language=row.cells.get("language") or self._language,
                    text=row.cells.get("text") or None,
                    split=row.cells.get("split", ""),
                )
            )
        report_respelled(self._name, respelled)
        without = f"missing transcript: no row in transcripts file {self._name}"
        for path in [*self._tree.files, *self._tree.refused]:
            if self._tree.identity(path) not in mentioned:
                reason = self._tree.refused.get(path, without)
                failures.append(_failure(path, self._root, reason))
        return utterances, failures

    def _refusal(self, row: Row, where: str, found: FoundFile, needs_text: bool) -> str:
        """Why a row cannot be used, "" if it can."""
        name, split = found.path.name.lower(), row.cells.get("split", "")
        if row.problem:
            return f"{where}: {row.problem}"
        if not row.cells.get("path"):
            return f"empty path in {where}"
        if refused := self._tree.refused.get(found.path):
            return f"{where}: {refused}"
        if found.others:
            names = (str(relative(path, self._root)) for path in found.others)
            files = " and ".join(map(printable, names))
            return f"{where} may mean {files}: write the path as one of them is written"
        if found.missing:
            return f"{where} names a file that does not exist"
        if not name.endswith(AUDIO_SUFFIXES):
            return f"{where}: {unreadable(name) or 'not one of ' + ', '.join(AUDIO_SUFFIXES)}"
        if needs_text and not row.cells.get("text"):
            return f"missing transcript: empty text in {where}"
        if split and split not in SPLITS:
            return f"{where}: split {split!r} is not one of {', '.join(SPLITS)}"
        return ""


def _read(path: Path) -> Table:
    """Reads the transcripts; raises UserError also for pieces of recordings."""
    table = read_table(path, "transcripts file")
    pieces = [name for name in ("start", "end") if any(row.cells.get(name) for row in table.rows)]
    if pieces:
        raise UserError(
            f"transcripts file {path} has pieces of recordings (column {pieces[0]}): give it as "
            f"--source=manifest:{path}?audio_dir=DIR, or leave out the times"
        )
    return table


def _instead(tree: AudioTree) -> str:
    """What to do about a directory without recordings."""
    for path, reason in tree.refused.items():
        others = f" (and {len(tree.refused) - 1} others)" * (len(tree.refused) > 1)
        return f"{printable(path.name)}{others}: {reason}"
    return f"name a directory with {', '.join(AUDIO_SUFFIXES)} files"


def _failure(path: Path, root: Path, reason: str) -> Failure:
    return Failure(printable(identifier(path, root)), printable(str(path)), "list", reason)


def resolve(given: str, folders: Sequence[Path]) -> Path:
    """The first existing file `folder / given`; if there is none, the path in the first folder."""
    candidates = [Path(os.path.normpath(folder / given)) for folder in folders]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def identifier(path: Path, root: Path) -> str:
    """The id of a recording: its path relative to a folder, without suffix."""
    return relative(path, root).with_suffix("").as_posix()
