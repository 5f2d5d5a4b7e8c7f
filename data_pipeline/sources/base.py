"""What a source of recordings is, and what it lists.

A source lists utterances without decoding any audio. What cannot be used is never dropped in
silence: it is returned as a `Failure` that ends in the failure manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlencode

SPLITS = ("train", "valid", "unseen")
UNKNOWN_SPEAKER = "unknown"


@dataclass(frozen=True)
class Utterance:
    """One recording."""

    id: str  # unique and stable: the path relative to the audio directory, without suffix
    path: str  # absolute: a file, or the directory of a dataset
    speaker: str  # "unknown" when not known
    language: str = "und"
    text: str | None = None
    split: str = ""  # train, valid or unseen; set by assign_splits
    member: str = ""  # where in the path, when it is not all of a file: see `reading`


@dataclass(frozen=True)
class Failure:
    """An input that is in no shard, and why."""

    id: str
    path: str
    stage: Literal["list", "decode", "tokenise"]
    reason: str


class Source(Protocol):
    """Where recordings come from."""

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """Returns the utterances sorted by id, which is unique, and what was refused.

        Raises:
            UserError: the source cannot be read at all, or holds nothing.
        """
        ...


def checked(
    utterances: Sequence[Utterance], failures: Sequence[Failure]
) -> tuple[list[Utterance], list[Failure]]:
    """Sorts what was listed and refuses what no dataset could hold: doubled ids, odd paths."""
    ordered = sorted(utterances, key=lambda item: (item.id, item.path, item.member))
    unique, duplicates = _refuse_duplicates(ordered)
    good, unnameable = _refuse_unnameable(unique)
    return good, [*failures, *duplicates, *unnameable]


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


def encode_member(**where: object) -> str:
    """Writes `Utterance.member`."""
    return urlencode({name: str(value) for name, value in where.items()})
