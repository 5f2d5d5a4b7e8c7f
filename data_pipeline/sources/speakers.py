"""Whose voice a recording holds: the rules that take a speaker from a table or from a path."""

import datetime
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Utterance

SPEAKER_RULES = ("auto", "folder", "parent", "prefix", "column", "none")
AUTO = "auto"

_LIBRISPEECH_NAME = re.compile(r"(\d+)-\d+-\d+")
# Folders that say what files are, or which split they are of, but not who speaks.
NO_SPEAKER = re.compile(
    r"(?:wave?|flac|mp3|ogg|opus|aiff?|m4a|pcm)s?[-_ ]?\d*(?:[-_ ].*)?"
    r"|(?:audio|sound|clip|rec|recording|speech|data|dataset|corpus|file|utterance|segment|sample)s?"
    r"|audio[-_ ]?files|raw|original|processed|resampled|\d+(?:\.\d+)?k(?:hz)?"
    r"|(?:train|training|dev|val|valid|validation|test|eval)(?:[-_ .].*)?"
    r"|(?:part|disc|disk|cd|vol|volume|chunk|shard|batch)[-_ ]?\d+|male|female",
    re.IGNORECASE,
)
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_TIME = r"(?:(?:T|at|[-_ ])+\d\d(?:[-_.:h ]?\d\d){0,2}(?:[.,]\d+)?Z?|\d{4}|\d{6})?"
_DATES = tuple(
    re.compile(date + r"(?![^\W_])", re.IGNORECASE)
    for date in (
        _YEAR + r"(?P<month>\d\d)(?P<day>\d\d)" + _TIME,
        _YEAR + r"([-_. ])(?P<month>\d\d?)\2(?P<day>\d\d?)" + _TIME,
        r"(?P<day>\d\d?)([-_. ])(?P<month>\d\d?)\2" + _YEAR + _TIME,
        r"(?P<month>\d\d?)([-_. ])(?P<day>\d\d?)\2" + _YEAR + _TIME,
        r"(?P<year>\d\d)([-_.])(?P<month>\d\d)\2(?P<day>\d\d)",
        _YEAR + r"[-_.](?P<month>\d\d)",
    )
)
_REMEDY = "choose --speaker_from or --speaker_pattern, or give a table with a column speaker"


class SpeakerNames:
    """The speaker of each recording of a corpus, by one rule.

    Args:
        pattern: "auto", or a regular expression with one group, searched in the path below `root`;
            it excludes `speaker_from`, but a speaker in the table takes precedence.
        root: the audio directory.
        files: all recordings, which are compared with each other by "auto".
        speaker_from: one of `SPEAKER_RULES`.
            "folder" is the first level below `root`, "parent" the folder that holds the file,
            "prefix" the name before its first `-` or `_`, "column" only what the table says, "none"
            nobody. "auto" is what the table says, else the first number of LibriSpeech names
            (speaker-chapter-utterance), else the first folder below `root` that tells recordings
            apart, passing over dates and names such as wavs, audio, clips or train; if there is one
            folder for everything, nobody. A date is never a speaker.
        column: whether there is a table with a speaker column.

    Raises:
        UserError: an unknown rule, one that excludes the other, an invalid pattern, or no column.
    """

    def __init__(
        self,
        pattern: str,
        root: Path,
        files: Iterable[Path],
        speaker_from: str = AUTO,
        column: bool = True,
    ):
        check_rule(pattern, speaker_from)
        if speaker_from == "column" and not column:
            raise UserError(
                "speaker_from=column needs a table with the column speaker: name it with "
                "--transcripts, or choose another rule"
            )
        self._root = root
        self._rule = speaker_from
        self._pattern = None if pattern == AUTO else re.compile(pattern)
        folders = {path.parent for path in files} if speaker_from == AUTO else set()
        self._folders = _speakers_of_folders(root, folders)
        self._used: Counter[str] = Counter()

    def __call__(self, path: Path, given: str = "") -> str:
        """The speaker; `unknown` if neither the table (`given`) nor the path says who it is."""
        label, name = self._find(path, given)
        if not name or name == UNKNOWN_SPEAKER:
            return UNKNOWN_SPEAKER
        self._used[label] += 1
        return name

    def report(self, utterances: Sequence[Utterance]) -> None:
        """Prints the rule and what it found, see `report_speakers`."""
        if self._rule == "none":
            print("speakers: none, as speaker_from=none says", file=sys.stderr)
            return
        rules = " and ".join(label for label, _ in self._used.most_common())
        unused = f"speaker_from={self._rule}" if self._pattern is None else "the pattern"
        report_speakers(utterances, rules or unused, _REMEDY)

    def _find(self, path: Path, given: str) -> tuple[str, str]:
        """(where the name is from, the name or nothing)."""
        if given and (self._pattern is not None or self._rule in (AUTO, "column")):
            return "the column speaker", given
        inside = relative(path, self._root)
        if self._pattern is not None:
            match = self._pattern.search(inside.as_posix())
            return f"the pattern {self._pattern.pattern!r}", (match[1] if match else None) or ""
        folders = inside.parts[:-1]
        if self._rule == "folder":
            return "the first folder below the audio folder", _unless_date(*folders[:1])
        if self._rule == "parent":
            return "the folder that holds the file", _unless_date(*folders[-1:])
        if self._rule == "prefix":
            return "the file name before - or _", _prefix(path.stem)
        if self._rule == AUTO:
            match = _LIBRISPEECH_NAME.fullmatch(path.stem)
            if match and not is_date(path.stem) and not is_date(match[1]):
                return "LibriSpeech names (speaker-chapter-utterance)", match[1]
            return "the folders' names", self._folders.get(path.parent, "")
        return "", ""


def report_speakers(utterances: Sequence[Utterance], rule: str, remedy: str | None) -> None:
    """Prints what named the speakers, how many there are, three of them, and what looks wrong.

    Args:
        utterances: of a corpus.
        rule: where the names are from.
        remedy: what to do if the speakers are wrong; None if nothing can be done.
    """
    first: dict[str, str] = {}
    for utterance in utterances:
        first.setdefault(utterance.speaker, utterance.id)
    known = [speaker for speaker in first if speaker != UNKNOWN_SPEAKER]
    unknown = sum(utterance.speaker == UNKNOWN_SPEAKER for utterance in utterances)
    line = f"speakers: {len(known)} found by {rule}"
    if known:
        line += ": " + ", ".join(f"{speaker} ({first[speaker]})" for speaker in known[:3])
    if unknown:
        line += f"; {unknown} of {len(utterances)} recordings have no known speaker"
    print(line, file=sys.stderr)
    doubt = _doubt(len(utterances), known, unknown)
    if doubt and remedy:
        print(f"warning: {doubt}, {remedy}", file=sys.stderr)


def check_rule(pattern: str, speaker_from: str) -> None:
    """Raises UserError for an invalid pattern or rule, or for both at once."""
    if speaker_from not in SPEAKER_RULES:
        raise UserError(
            f"speaker_from {speaker_from!r} is not one of {', '.join(SPEAKER_RULES)}; a regular "
            "expression is --speaker_pattern"
        )
    if pattern == AUTO:
        return
    if speaker_from != AUTO:
        raise UserError(
            f"speaker_pattern {pattern!r} and speaker_from {speaker_from!r} exclude each other: "
            "give one of them"
        )
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"speaker_pattern {pattern!r}: {error}") from error
    if groups != 1:
        raise UserError(f"speaker_pattern {pattern!r} needs exactly one (group)")


def parse_heldout(text: str | None) -> int | tuple[str, ...] | None:
    """Reads `--heldout_speakers`: a count, or names (`a,b,c`).

    One name that is a number is written `84,` or `name:84`.

    Raises:
        UserError: no name, or a number that is no count.
    """
    if text is None:
        return None
    if text.strip().isdecimal():
        return int(text)
    if re.fullmatch(r"[-+]?[\d.]+", text.strip()):
        raise UserError(
            f"heldout_speakers {text}: give a count from 0, or names; a speaker of that name is "
            f"written --heldout_speakers={text},"
        )
    names = [name.strip().removeprefix("name:") for name in text.split(",")]
    names = [name for name in names if name]
    if not names:
        raise UserError(f"heldout_speakers {text!r} names no one: give a count, or names a,b,c")
    return tuple(dict.fromkeys(names))


def is_date(text: str) -> bool:
    """Whether a name is a date, with or without a time: 2021-03-15, 20210315_1200, 15.03.2021."""
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match and _exists(match):
            return True
    return False


def relative(path: Path, root: Path) -> Path:
    """The path below `root`; of a path elsewhere, the one below the file system's root."""
    return path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.anchor)


def _doubt(recordings: int, known: Sequence[str], unknown: int) -> str:
    """What is unlikely about the speakers found; "" if nothing is."""
    if recordings < 2:
        return ""
    if not known:
        return f"no speaker is known, all {recordings} recordings count as one voice"
    if len(known) == 1 and not unknown:
        return f"one speaker, {known[0]}, for all {recordings} recordings: if they are of several"
    if len(known) == recordings:
        return f"as many speakers as recordings ({recordings}): if some are of the same speaker"
    return ""


def _exists(match: re.Match[str]) -> bool:
    found = {"day": "1", **match.groupdict()}
    year = int(found["year"])
    try:
        datetime.date(year if year > 99 else 2000 + year, int(found["month"]), int(found["day"]))
    except ValueError:
        return False
    return True


def _unless_date(*name: str) -> str:
    return "" if not name or is_date(name[0]) else name[0]


def _prefix(stem: str) -> str:
    """What stands before the first - or _, nothing if there is none or the name is a date's."""
    name, mark, _ = stem.replace("_", "-").partition("-")
    dated = any((match := date.match(stem)) and _exists(match) for date in _DATES)
    return "" if not mark or dated else name.strip()


def _speakers_of_folders(root: Path, folders: set[Path]) -> dict[Path, str]:
    """The rule "auto": the speaker of each folder that holds recordings and names one."""
    named = {folder: _names(relative(folder, root).parts) for folder in folders}
    named = {folder: names for folder, names in named.items() if names}
    if not named:
        return {}
    # Folders that hold everything (an extracted archive's own) say nothing, unless there is no
    # other below them.
    first, *others = named.values()
    common = 0
    for names in zip(*named.values(), strict=False):
        if len(set(names)) > 1:
            break
        common += 1
    common = min(common, min(len(names) for names in (first, *others)) - 1)
    if len(folders) == 1 and first[-1] == next(iter(folders)).name:
        return {}  # a folder that has no other beside it is a corpus
    return {folder: names[common] for folder, names in named.items()}


def _names(parts: Sequence[str]) -> list[str]:
    """The names in a path that may be speakers': no dates (2021/03/15 too), no wavs or train."""
    names, number = [], 0
    while number < len(parts):
        # A date of three folders, of two, or of one.
        size = next((n for n in (3, 2, 1) if is_date("-".join(parts[number : number + n]))), 0)
        if not size and not NO_SPEAKER.fullmatch(parts[number]):
            names.append(parts[number])
        number += size or 1
    return names
