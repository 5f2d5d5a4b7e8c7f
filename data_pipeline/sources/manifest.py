"""Manifests of recordings: CSV, TSV or JSONL, plain or gzipped.

The columns are `path`, and optionally `id`, `speaker`, `text`, `language`, `split`, `start` and
`end` (seconds). The column names of Audiocraft (`data.jsonl.gz`), NeMo, Common Voice and others are
accepted too. Other columns are ignored.
"""

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import SPLITS, Failure, Utterance, checked, encode_member
from data_pipeline.sources.folder import SpeakerNames, identifier, resolve

_NAMES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "audio_filepath", "audio_path", "audio", "wav"),
    "id": ("id", "utt_id", "key"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "text": ("text", "transcript", "sentence"),
    "language": ("language", "lang", "locale"),
    "split": ("split",),
    "start": ("start", "offset"),
    "end": ("end",),
    "duration": ("duration",),
}
_SPLIT_NAMES = {"dev": "valid", "validation": "valid", "": ""} | {name: name for name in SPLITS}
_FORMATS = (".csv", ".tsv", ".jsonl", ".json")


@dataclass(frozen=True)
class ManifestSource:
    """A manifest of recordings.

    Attributes:
        manifest: the file; its suffix determines the format.
        audio_dir: base of paths that are not relative to the manifest's folder.
        speaker_pattern: for rows without a speaker, see `folder.FolderSource`.
        language: of rows that do not specify theirs.
    """

    manifest: str | os.PathLike[str]
    audio_dir: str | os.PathLike[str] | None = None
    speaker_pattern: str = "auto"
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`."""
        table = Path(self.manifest).absolute()
        folders = [table.parent]
        if self.audio_dir is not None:
            folders.append(Path(self.audio_dir).absolute())
        rows: list[tuple[str, _Row]] = []
        failures: list[Failure] = []
        for line, cells in _read_rows(table):
            where = f"line {line} of {table.name}"
            try:
                rows.append((where, _Row.parse(cells, folders)))
            except ValueError as error:
                failures.append(Failure(where, str(table), "list", f"{where}: {error}"))
        if not rows and not failures:
            raise UserError(f"manifest {table} names no recordings")
        root = folders[-1]
        speakers = SpeakerNames(self.speaker_pattern, root, [row.path for _, row in rows])
        utterances = []
        for where, row in rows:
            # `identifier` gives a stable id even for paths outside the folder.
            name = row.id or identifier(row.path, root) + row.suffix
            if not row.path.is_file():
                reason = f"{where} names a file that does not exist"
                failures.append(Failure(name, str(row.path), "list", reason))
                continue
            utterances.append(
                Utterance(
                    id=name,
                    path=str(row.path),
                    speaker=row.speaker or speakers(row.path),
                    language=row.language or self.language,
                    text=row.text,
                    split=row.split,
                    member=row.member,
                )
            )
        return checked(utterances, failures)


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

    @classmethod
    def parse(cls, row: Mapping[str, Any], folders: list[Path]) -> "_Row":
        """Parses a row; the ValueError of an invalid row holds the reason."""
        cells = {name: _cell(row, aliases) for name, aliases in _NAMES.items()}
        if not cells["path"]:
            raise ValueError("no path")
        path = resolve(cells["path"], folders)
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            raise ValueError(f"{path.name} is not one of {', '.join(AUDIO_SUFFIXES)}")
        split = _SPLIT_NAMES.get(cells["split"])
        if split is None:
            raise ValueError(f"split {cells['split']!r} is not one of {', '.join(SPLITS)}")
        member = suffix = ""
        if cells["start"] or cells["end"]:
            start = float(cells["start"] or 0.0)
            given = cells["end"] or cells["duration"]
            if not given:
                raise ValueError("start without end or duration")
            end = float(given) + (0.0 if cells["end"] else start)
            if not 0.0 <= start < end < float("inf"):
                raise ValueError(f"a segment from {start} to {end} s")
            # Manifests that always have the column list complete files with an offset of 0.
            if start > 0 or cells["end"]:
                member = encode_member(start=start, end=end)
                suffix = f"@{start:.3f}"
        return cls(
            path=path,
            id=cells["id"],
            speaker=cells["speaker"],
            language=cells["language"],
            text=cells["text"] or None,
            split=split,
            member=member,
            suffix=suffix,
        )


def _cell(row: Mapping[str, Any], aliases: tuple[str, ...]) -> str:
    """The value of the first column that exists, as text."""
    for name in aliases:
        value = row.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value).strip()
    return ""


def _read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields the line number and the cells of every row; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if zipped else suffixes[-1:]) or [""]
    if kind[0] not in _FORMATS:
        raise UserError(f"manifest {path}: not one of {', '.join(_FORMATS)}, or those with .gz")
    try:
        data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        if kind[0] in (".csv", ".tsv"):
            reader = csv.DictReader(text, delimiter="\t" if kind[0] == ".tsv" else ",", restval="")
            if not set(_NAMES["path"]) & set(reader.fieldnames or ()):
                raise UserError(f"manifest {path}: no column 'path' in its header")
            for row in reader:
                yield reader.line_num, row
            return
    except (OSError, EOFError) as error:
        raise UserError(f"manifest {path}: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"manifest {path} is not a UTF-8 table: {error}") from error
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"manifest {path}: line {number} is not a JSON object on one line: {error}"
            ) from error
        if not isinstance(value, dict):
            raise UserError(f"manifest {path}: line {number} is not a JSON object")
        yield number, value
