"""Where recordings come from: utterances with their speaker, transcript and split, and what failed.

A source lists utterances without reading any audio. What cannot be used is never dropped in
silence: it is returned as a `Failure` that ends in the failure manifest.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipeline.audio import AUDIO_SUFFIXES
from data_pipeline.cli import UserError

SPLITS = ("train", "valid", "unseen")
UNKNOWN_SPEAKER = "unknown"

_CSV_COLUMNS = ("path", "speaker", "text", "language", "split")
_LIBRISPEECH_NAME = re.compile(r"(\d+)-\d+-\d+")
# Below this many utterances a speaker gives up none for validation on its own account.
_MIN_UTTERANCES_TO_VALIDATE = 5
# Below this many known speakers none is held out.
_MIN_SPEAKERS_TO_HOLD_OUT = 4


@dataclass(frozen=True)
class Utterance:
    """One recording."""

    id: str  # unique and stable: the path relative to the audio directory, without suffix
    path: str  # absolute
    speaker: str  # "unknown" when not known
    language: str = "und"
    text: str | None = None
    split: str = ""  # train, valid or unseen; set by assign_splits


@dataclass(frozen=True)
class Failure:
    """An input that is in no shard, and why."""

    id: str
    path: str
    stage: Literal["list", "decode", "tokenise"]
    reason: str


@dataclass(frozen=True)
class FolderSource:
    """A tree of recordings, with a table of transcripts or without.

    Attributes:
        audio_dir: searched recursively for wav, flac, ogg and mp3 files.
        transcripts: a UTF-8 CSV file with a header and the column `path` (relative to the CSV's
            folder or to `audio_dir`), and any of `speaker`, `text`, `language`, `split`; or None.
            With a file, only recordings that have a row are used. With a `text` column, a row
            without text is a failure (leave the column out when there are no transcripts).
        speaker_pattern: "auto" takes the first number of LibriSpeech names
            (speaker-chapter-utterance), else the parent folder's name where the recordings lie in
            several folders, else "unknown". Anything else is a regular expression with one group,
            searched in the path relative to `audio_dir`. A `speaker` column wins over both.
        language: of rows that do not name theirs.
    """

    audio_dir: str | os.PathLike[str]
    transcripts: str | os.PathLike[str] | None = None
    speaker_pattern: str = "auto"
    language: str = "und"

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """Returns the utterances sorted by id, and what was refused.

        Raises:
            UserError: a directory, file or pattern is unusable, or there is no recording at all.
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
        speakers = _SpeakerNames(self.speaker_pattern, root, files)
        failures: list[Failure] = []
        if self.transcripts is None:
            utterances = [
                Utterance(_identifier(path, root), str(path), speakers(path), self.language)
                for path in files
            ]
        else:
            table = Path(self.transcripts).absolute()
            utterances, failures = _join(table, root, files, speakers, self.language)
        utterances.sort(key=lambda utterance: (utterance.id, utterance.path))
        utterances, duplicates = _refuse_duplicates(utterances)
        utterances, unnameable = _refuse_unnameable(utterances)
        return utterances, failures + duplicates + unnameable


def assign_splits(
    utterances: Sequence[Utterance],
    valid_fraction: float = 0.05,
    heldout_speakers: int | Sequence[str] | None = None,
    seed: int = 0,
) -> list[Utterance]:
    """Gives every utterance its split; one that has a split keeps it.

    `unseen` takes all utterances of the held-out speakers. `valid` takes `valid_fraction` of each
    other speaker's, at least one where a speaker has five or more; speakers with fewer are pooled,
    so that a corpus of one utterance per speaker has a validation split too. The rest is `train`.
    The choice hashes names with the seed: it depends on neither order nor machine.

    Args:
        utterances: with ids that are unique.
        valid_fraction: in [0, 1).
        heldout_speakers: how many known speakers to hold out, or their names. None: one in ten and
            at least one where there are four or more, but none when the corpus names its own.
        seed: of the choice.

    Returns:
        The utterances in their order, with `split` set.

    Raises:
        UserError: the fraction, the number or a name is impossible.
    """
    if not 0.0 <= valid_fraction < 1.0:
        raise UserError(f"valid_fraction {valid_fraction} is not in [0, 1)")
    heldout = _choose_heldout(utterances, heldout_speakers, seed)
    groups: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        if not utterance.split and utterance.speaker not in heldout:
            groups.setdefault(utterance.speaker, []).append(utterance)
    small = [s for s, group in groups.items() if len(group) < _MIN_UTTERANCES_TO_VALIDATE]
    pool = [utterance for speaker in small for utterance in groups.pop(speaker)]
    groups[None] = pool
    valid: set[str] = set()
    for group in groups.values():
        count = round(valid_fraction * len(group))
        if valid_fraction > 0 and len(group) >= _MIN_UTTERANCES_TO_VALIDATE:
            count = max(1, count)
        group.sort(key=lambda utterance: _rank(seed, "valid", utterance.id))
        valid.update(utterance.id for utterance in group[:count])

    def split_of(utterance: Utterance) -> str:
        if utterance.split:
            return utterance.split
        if utterance.speaker in heldout:
            return "unseen"
        return "valid" if utterance.id in valid else "train"

    return [replace(utterance, split=split_of(utterance)) for utterance in utterances]


def _choose_heldout(
    utterances: Sequence[Utterance], heldout: int | Sequence[str] | None, seed: int
) -> set[str]:
    known = {utterance.speaker for utterance in utterances} - {UNKNOWN_SPEAKER}
    given = {utterance.speaker for utterance in utterances if utterance.split == "unseen"}
    if heldout is None:
        if given:
            return given - {UNKNOWN_SPEAKER}
        many = len(known) >= _MIN_SPEAKERS_TO_HOLD_OUT
        heldout = max(1, len(known) // 10) if many else 0
    if isinstance(heldout, int):
        if not 0 <= heldout <= max(0, len(known) - 1):
            raise UserError(
                f"heldout_speakers {heldout}: must be from 0 to {max(0, len(known) - 1)}, one less "
                f"than the {len(known)} known speakers"
            )
        return set(sorted(known, key=lambda speaker: _rank(seed, "speaker", speaker))[:heldout])
    missing = sorted(set(heldout) - known)
    if missing:
        raise UserError(f"heldout_speakers: no recordings of {', '.join(missing)}")
    return set(heldout)


def _join(
    table: Path, root: Path, files: Sequence[Path], speakers: "_SpeakerNames", language: str
) -> tuple[list[Utterance], list[Failure]]:
    """Joins the table's rows with the files found."""
    fields, rows = _read_csv(table)
    utterances, failures, mentioned = [], [], set()
    for line, row in rows:
        where = f"line {line} of {table.name}"
        given = row.get("path", "")
        path = _resolve(given, (table.parent, root))
        name = _identifier(path, root) if given else where
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
            failures.append(Failure(_identifier(path, root), str(path), "list", reason))
    return utterances, failures


class _SpeakerNames:
    """Speaker of a file from its path, see `FolderSource.speaker_pattern`."""

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
    """All recordings under a directory, sorted; hidden files and folders are passed over."""
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
                    f"{','.join(_CSV_COLUMNS)}, all but the first optional"
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


def _resolve(given: str, folders: Sequence[Path]) -> Path:
    """The first existing file of a path relative to one of the folders, else the first guess."""
    guesses = [Path(os.path.normpath(folder / given)) for folder in folders]
    return next((guess for guess in guesses if guess.is_file()), guesses[0])


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.anchor)


def _identifier(path: Path, root: Path) -> str:
    return _relative(path, root).with_suffix("").as_posix()


def _refuse_duplicates(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Keeps the first utterance of every id; they come sorted."""
    first: dict[str, Utterance] = {}
    failures = []
    for utterance in utterances:
        kept = first.setdefault(utterance.id, utterance)
        if kept is not utterance:
            reason = f"duplicate id {utterance.id!r}: the first, {kept.path}, is used"
            failures.append(Failure(utterance.id, utterance.path, "list", reason))
    return list(first.values()), failures


def _refuse_unnameable(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Refuses paths that are not valid UTF-8: no record could hold them."""
    good, failures = [], []
    for utterance in utterances:
        try:
            utterance.path.encode("utf-8")
            good.append(utterance)
        except UnicodeEncodeError:
            printable = utterance.path.encode("utf-8", "backslashreplace").decode()
            name = utterance.id.encode("utf-8", "backslashreplace").decode()
            reason = "the path is not valid UTF-8: rename the file"
            failures.append(Failure(name, printable, "list", reason))
    return good, failures


def _rank(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest()
