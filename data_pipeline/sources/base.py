"""Interface of sources of recordings.

A source lists utterances without decoding audio. Unusable inputs are never dropped silently: each
is returned as a `Failure`, which ends up in the failure manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol
from urllib.parse import urlencode

from data_pipeline.sources.flaws import flaw, printable
from data_pipeline.sources.overlaps import clashes, same_files

SPLITS = ("train", "valid", "unseen")
UNKNOWN_SPEAKER = "unknown"
ON_HUB = "hf://"  # the path of a file that is read over the network


@dataclass(frozen=True)
class Utterance:
    """One utterance: a recording, or a segment of one."""

    id: str  # unique and stable: the path relative to the audio directory, without suffix
    path: str  # absolute: a file, or the directory of a dataset; hf:// is a file of the hub
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
    """Sorts utterances; duplicate ids, what cannot be stored, and seconds used twice fail."""
    ordered = sorted(utterances, key=lambda item: (item.id, item.path, item.member))
    unique, duplicates = _reject_duplicates(ordered)
    valid, unusable = _reject_unusable(unique)
    single, clashing = _reject_clashes(valid)
    return single, [*failures, *duplicates, *unusable, *clashing]


def _reject_clashes(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Keeps the first of those that hold the same seconds, see `overlaps.clashes`."""
    paths = same_files(utterance.path for utterance in utterances)
    utterances = [
        item if paths[item.path] == item.path else replace(item, path=paths[item.path])
        for item in utterances
    ]
    reasons = clashes(utterances)
    failures = [
        Failure(item.id, item.path, "list", reasons[item.id])
        for item in utterances
        if item.id in reasons
    ]
    return [item for item in utterances if item.id not in reasons], failures


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


def _reject_unusable(
    utterances: Sequence[Utterance],
) -> tuple[list[Utterance], list[Failure]]:
    """Rejects what records cannot store, and transcripts with control characters."""
    valid, failures = [], []
    for utterance in utterances:
        reason = _unusable(utterance)
        if reason:
            name, path = printable(utterance.id), printable(utterance.path)
            failures.append(Failure(name, path, "list", reason))
        else:
            valid.append(utterance)
    return valid, failures


def _unusable(utterance: Utterance) -> str:
    if flaw(utterance.path, control=False):
        return "the path is not valid UTF-8: rename the file"
    for name in ("id", "speaker", "language", "text"):
        found = flaw(getattr(utterance, name) or "", control=name == "text")
        if found:
            return f"the {name} holds {found}"
    return ""


def encode_member(**location: object) -> str:
    """Encodes a location within a file as `Utterance.member`."""
    return urlencode({name: str(value) for name, value in location.items()})
