"""Pieces of one recording: which seconds of a file more than one utterance holds."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl

_ROUNDING = 0.05  # seconds: times of tables are rounded
_WITHIN = ("start=", "end=", "channel=")  # of a member: which part of the recording


class Piece(Protocol):
    """What is read of an utterance, see `base.Utterance`."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def member(self) -> str: ...  # noqa: D102


P = TypeVar("P", bound=Piece)


def span(utterance: Piece) -> tuple[float, float]:
    """Start and end within the recording, in seconds; of a complete one 0 and infinity."""
    location = dict(parse_qsl(utterance.member))
    return float(location.get("start", 0.0)), float(location.get("end", "inf"))


def recording(utterance: Piece) -> tuple[str, str]:
    """What the utterance is a piece of: a file, or a member of a container.

    The channels of a recording are one: each may hold the voices of the others too.
    """
    inside = [part for part in utterance.member.split("&") if not part.startswith(_WITHIN)]
    return utterance.path, "&".join(inside)


def _channel(utterance: Piece) -> str:
    return dict(parse_qsl(utterance.member)).get("channel", "")


def overlapping(utterances: Iterable[P]) -> Iterator[list[P]]:
    """Groups of two and more utterances with common seconds, directly or through others."""
    groups: dict[tuple[str, str], list[P]] = {}
    for utterance in utterances:
        groups.setdefault(recording(utterance), []).append(utterance)
    for pieces in groups.values():
        if len(pieces) < 2:
            continue
        cluster: list[P] = []
        reached = 0.0
        for piece in sorted(pieces, key=span):
            start, end = span(piece)
            if cluster and start > reached - _ROUNDING:
                if len(cluster) > 1:
                    yield cluster
                cluster = []
            cluster.append(piece)
            reached = max(reached, end)
        if len(cluster) > 1:
            yield cluster


def clashes(utterances: Sequence[Piece]) -> dict[str, str]:
    """Utterances that would count a recording twice, or a second in two splits.

    Of utterances of the same stretch of a file, and of overlapping pieces whose given splits
    differ, the first is used. Other overlaps, such as of two speakers at a time, are named in a
    warning.

    Args:
        utterances: in order, with unique ids; each file by one path, see `same_files`.

    Returns:
        The reasons by the ids of those that are not used.
    """
    order = {utterance.id: number for number, utterance in enumerate(utterances)}
    reasons: dict[str, str] = {}
    shared: list[list[str]] = []
    for cluster in overlapping(utterances):
        kept: dict[tuple[tuple[float, float], str], Piece] = {}
        first: Piece | None = None  # that has a split
        for piece in sorted(cluster, key=lambda item: order[item.id]):
            stretch = span(piece), _channel(piece)
            same = kept.get(stretch)
            if same is not None:
                reasons[piece.id] = f"the same recording as {same.id!r}, which is used"
            elif first is not None and piece.split not in ("", first.split):
                reasons[piece.id] = (
                    f"split {piece.split!r} would hold seconds of {first.id!r}, which is in split "
                    f"{first.split!r}: give both the same split, or end one where the other begins"
                )
            else:
                kept[stretch] = piece
                first = piece if first is None and piece.split else first
        if len(kept) > 1:
            shared.append([piece.id for piece in kept.values()])
    if shared:
        print(
            f"warning: {sum(map(len, shared))} pieces overlap others of their recording, whose "
            f"seconds count more than once: {shared[0][0]} and {shared[0][1]}, for example",
            file=sys.stderr,
        )
    return reasons


def same_files(paths: Iterable[str]) -> dict[str, str]:
    """Maps every path to the first path of its file: links are other paths of one file."""
    first: dict[tuple[int, ...], str] = {}
    known: dict[str, str] = {}
    for path in paths:
        if path in known:
            continue
        known[path] = path
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # named when it is read
            continue
        # Size and time guard against file systems that give a number twice.
        file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        known[path] = first.setdefault(file, path)
    return known
