"""Directories of recordings, with or without a table of transcripts."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import SPLITS, UNKNOWN_SPEAKER, Failure, Utterance, checked

_CSV_COLUMNS = ("path", "speaker", "text", "language", "split")
_LIBRISPEECH_NAME = re.compile(r"(\d+)-\d+-\d+")


@dataclass(frozen=True)
class FolderSource:
    """A directory tree of recordings, with or without a table of transcripts.

    Attributes:
        audio_dir: searched recursively for wav, flac, ogg and mp3 files.
        transcripts: a UTF-8 CSV file with a header, the column `path` (relative to the CSV's folder
            or to `audio_dir`), and optionally `speaker`, `text`, `language` and `split`; or None.
            With a file, only recordings that have a row are used. With a `text` column, a row
            without text is a failure (omit the column if there are no transcripts).
        speaker_pattern: "auto" is the first number of LibriSpeech names
            (speaker-chapter-utterance), else the name of the parent folder if there are several
            folders, else "unknown". Anything else is a regular expression with one group, searched
            in the path relative to `audio_dir`. A `speaker` column takes precedence.
        language: of rows that do not specify theirs.
    """

    audio_dir: str | os.PathLike[str]
    transcripts: str | os.PathLike[str] | None = None
    speaker_pattern: str = "auto"
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`.

        Raises:
            UserError: a directory, file or pattern is invalid, or there are no recordings.
        """
        root = Path(self.audio_dir).absolute()
        if not root.is_dir():
            raise UserError(f"audio_dir {self.audio_dir} is not a directory")
        files = _find_audio(root)
        if not files:
            raise UserError(
                f"no recordings under {self.audio_dir}: name a directory with "
                f"{', '.join(AUDIO_SUFFIXES)} files"
            )
        speakers = SpeakerNames(self.speaker_pattern, root, files)
        failures: list[Failure] = []
        if self.transcripts is None:
            utterances = [
                Utterance(identifier(path, root), str(path), speakers(path), self.language)
                for path in files
            ]
        else:
            table = Path(self.transcripts).absolute()
            utterances, failures = _join(table, root, files, speakers, self.language)
        return checked(utterances, failures)


def _join(
    table: Path, root: Path, files: Sequence[Path], speakers: "SpeakerNames", language: str
) -> tuple[list[Utterance], list[Failure]]:
    """Joins the rows of the table with the files found."""
    fields, rows = _read_csv(table)
    utterances, failures, mentioned = [], [], set()
    for line, row in rows:
        where = f"line {line} of {table.name}"
        given = row.get("path", "")
        path = resolve(given, (table.parent, root))
        name = identifier(path, root) if given else where
        mentioned.add(path)
        reason = None
        if not given:
            reason = f"empty path in {where}"
        elif None in row:
            reason = f"more cells than columns in {where}: quote texts that hold commas"
        elif not path.is_file():
            reason = f"{where} names a file that does not exist"
        elif path.suffix.lower() not in AUDIO_SUFFIXES:
            reason = f"{where}: not one of {', '.join(AUDIO_SUFFIXES)}"
        elif "text" in fields and not row["text"]:
            reason = f"missing transcript: empty text in {where}"
        elif row.get("split") and row["split"] not in SPLITS:
            reason = f"{where}: split {row['split']!r} is not one of {', '.join(SPLITS)}"
        if reason:
            failures.append(Failure(name, str(path) if given else "", "list", reason))
            continue
        utterances.append(
            Utterance(
                id=name,
                path=str(path),
                speaker=row.get("speaker") or speakers(path),
                language=row.get("language") or language,
                text=row.get("text") or None,
                split=row.get("split") or "",
            )
        )
    for path in files:
        if path not in mentioned:
            reason = f"missing transcript: no row in transcripts file {table.name}"
            failures.append(Failure(identifier(path, root), str(path), "list", reason))
    return utterances, failures


class SpeakerNames:
    """Extracts the speaker from a path, see `FolderSource.speaker_pattern`."""

    def __init__(self, pattern: str, root: Path, files: Iterable[Path]):
        self._root = root
        self._several_folders = len({path.parent for path in files}) > 1
        self._pattern = None
        if pattern != "auto":
            try:
                self._pattern = re.compile(pattern)
            except re.error as error:
                raise UserError(f"speaker_pattern {pattern!r}: {error}") from error
            if self._pattern.groups != 1:
                raise UserError(f"speaker_pattern {pattern!r} needs exactly one (group)")

    def __call__(self, path: Path) -> str:
        """The speaker, `unknown` if the path does not contain one."""
        if self._pattern is not None:
            match = self._pattern.search(_relative(path, self._root).as_posix())
            return (match[1] if match else None) or UNKNOWN_SPEAKER
        match = _LIBRISPEECH_NAME.fullmatch(path.stem)
        if match:
            return match[1]
        if self._several_folders and path.parent != self._root:
            return path.parent.name
        return UNKNOWN_SPEAKER


def _find_audio(root: Path) -> list[Path]:
    """All recordings under a directory, sorted; hidden files and folders are skipped."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES):
                found.append(Path(folder, name))
    return sorted(found)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict]]]:
    """Returns the column names and (line number, stripped cells) of every row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            fields = list(reader.fieldnames or ())
            if "path" not in fields:
                raise UserError(
                    f"transcripts file {path}: no column 'path' in its header; the columns are "
                    f"{','.join(_CSV_COLUMNS)}, all but the first are optional"
                )
            rows = []
            for row in reader:
                cells = {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}
                rows.append((reader.line_num, cells))
            return fields, rows
    except OSError as error:
        raise UserError(f"transcripts file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"transcripts file {path} is not a UTF-8 CSV file: {error}") from error


def resolve(given: str, folders: Sequence[Path]) -> Path:
    """The first existing file `folder / given`; if there is none, the path in the first folder."""
    candidates = [Path(os.path.normpath(folder / given)) for folder in folders]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.anchor)


def identifier(path: Path, root: Path) -> str:
    """The id of a recording: its path relative to a folder, without suffix."""
    return _relative(path, root).with_suffix("").as_posix()
