"""Interface of sources of recordings.

A source lists utterances without decoding audio. Unusable inputs are never dropped silently: each
is returned as a `Failure`, which ends up in the failure manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlencode

SPLITS = ("train", "valid", "unseen")
UNKNOWN_SPEAKER = "unknown"


@dataclass(frozen=True)
class Utterance:
    """One utterance: a recording, or a segment of one."""

    id: str  # unique and stable: the path relative to the audio directory, without suffix
    path: str  # absolute: a file, or the directory of a dataset
    speaker: str  # "unknown" if not known
    language: str = "und"
    text: str | None = None
    split: str = ""  # train, valid or unseen; set by assign_splits
    member: str = ""  # location within the path if not the complete file, see `reading`


@dataclass(frozen=True)
class Failure:
    """An input that is in no shard, and the reason."""

    id: str
    path: str
    stage: Literal["list", "decode", "tokenise"]
    reason: str


class Source(Protocol):
    """A source of recordings."""

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """Returns the utterances, sorted by unique ids, and the failures.

        Raises:
            UserError: the source cannot be read, or is empty.
        """
        ...


def checked(
    utterances: Sequence[Utterance], failures: Sequence[Failure]
) -> tuple[list[Utterance], list[Failure]]:
    """Sorts utterances, and turns duplicate ids and paths that are not UTF-8 into failures."""
    ordered = sorted(utterances, key=lambda item: (item.id, item.path, item.member))
    unique, duplicates = _reject_duplicates(ordered)
    valid, not_utf8 = _reject_non_utf8_paths(unique)
    return valid, [*failures, *duplicates, *not_utf8]


def _reject_duplicates(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Keeps the first utterance of every id; the input is sorted."""
    first: dict[str, Utterance] = {}
    failures = []
    for utterance in utterances:
        kept = first.setdefault(utterance.id, utterance)
        if kept is not utterance:
            reason = f"duplicate id {utterance.id!r}: the first, {kept.path}, is used"
            failures.append(Failure(utterance.id, utterance.path, "list", reason))
    return list(first.values()), failures


def _reject_non_utf8_paths(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Rejects paths that are not valid UTF-8: records cannot store them."""
    valid, failures = [], []
    for utterance in utterances:
        try:
            utterance.path.encode("utf-8")
            valid.append(utterance)
        except UnicodeEncodeError:
            printable = utterance.path.encode("utf-8", "backslashreplace").decode()
            name = utterance.id.encode("utf-8", "backslashreplace").decode()
            reason = "the path is not valid UTF-8: rename the file"
            failures.append(Failure(name, printable, "list", reason))
    return valid, failures


def encode_member(**location: object) -> str:
    """Encodes a location within a file as `Utterance.member`."""
    return urlencode({name: str(value) for name, value in location.items()})
