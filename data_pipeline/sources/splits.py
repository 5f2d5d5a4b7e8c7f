"""Assignment of utterances to splits, by ids, speakers and a seed only."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Utterance
from data_pipeline.sources.overlaps import overlapping, recording

# Speakers with fewer utterances are pooled for validation.
_MIN_UTTERANCES_TO_VALIDATE = 5
# With fewer known speakers none is held out by default.
_MIN_SPEAKERS_TO_HOLD_OUT = 4


def assign_splits(
    utterances: Sequence[Utterance],
    valid_fraction: float = 0.05,
    heldout_speakers: int | Sequence[str] | None = None,
    seed: int = 0,
) -> list[Utterance]:
    """Assigns a split to every utterance that has none.

    `unseen` gets all utterances of the held-out speakers. `valid` gets `valid_fraction` of every
    other speaker's utterances, at least one if a speaker has five or more; speakers with fewer are
    pooled, so that a corpus of one utterance per speaker has a validation split too. The rest is
    `train`. The choice hashes names with the seed, independent of order and machine.

    No second of a recording is in two splits: the pieces of a recording count as one utterance, of
    the speaker of the first, and stay together in `train` or `valid`, or in the only split that is
    given to some of them. Pieces that overlap one of a held-out speaker are in `unseen` too.

    Args:
        utterances: with unique ids.
        valid_fraction: in [0, 1).
        heldout_speakers: number of known speakers to hold out, or their names. None: one in ten,
            at least one if there are four or more; but if the corpus assigns `unseen`, only the
            speakers it lists there.
        seed: of the choice.

    Returns:
        The utterances in the given order, with `split` set.

    Raises:
        UserError: the fraction, the number or a name is invalid.
    """
    if not 0.0 <= valid_fraction < 1.0:
        raise UserError(f"valid_fraction {valid_fraction} is not in [0, 1)")
    heldout = _choose_heldout(utterances, heldout_speakers, seed)
    splits = {utterance.id: utterance.split for utterance in utterances if utterance.split}
    for utterance in utterances:
        if utterance.speaker in heldout:
            splits.setdefault(utterance.id, "unseen")
    _spread(utterances, splits)
    recordings = _recordings(utterances, splits)
    groups: dict[str | None, list[list[Utterance]]] = {}
    for pieces in recordings:
        groups.setdefault(pieces[0].speaker, []).append(pieces)
    small = [s for s, group in groups.items() if len(group) < _MIN_UTTERANCES_TO_VALIDATE]
    groups[None] = [pieces for speaker in small for pieces in groups.pop(speaker)]
    for group in groups.values():
        count = round(valid_fraction * len(group))
        if valid_fraction > 0 and len(group) >= _MIN_UTTERANCES_TO_VALIDATE:
            count = max(1, count)
        group.sort(key=lambda pieces: _rank(seed, "valid", pieces[0].id))
        for pieces in group[:count]:
            splits.update((piece.id, "valid") for piece in pieces)
    return [replace(utterance, split=splits.get(utterance.id, "train")) for utterance in utterances]


def _spread(utterances: Sequence[Utterance], splits: dict[str, str]) -> None:
    """Gives utterances that overlap one with a split the same split: given ones come first."""
    for cluster in overlapping(utterances):
        given = [piece.split for piece in cluster if piece.split]
        taken = given or [splits[piece.id] for piece in cluster if piece.id in splits]
        if taken:
            splits.update((piece.id, piece.split or taken[0]) for piece in cluster)


def _recordings(utterances: Sequence[Utterance], splits: dict[str, str]) -> list[list[Utterance]]:
    """The pieces without a split of every recording, the first id first.

    Pieces of a recording with one given split get that split.
    """
    groups: dict[tuple[str, str], list[Utterance]] = {}
    given: dict[tuple[str, str], set[str]] = {}
    for utterance in utterances:
        key = recording(utterance)
        if utterance.id not in splits:
            groups.setdefault(key, []).append(utterance)
        if utterance.split:
            given.setdefault(key, set()).add(utterance.split)
    free = []
    for key, pieces in groups.items():
        if key in given:
            split = min(given[key]) if len(given[key]) == 1 else "train"
            splits.update((piece.id, split) for piece in pieces)
        else:
            free.append(sorted(pieces, key=lambda piece: piece.id))
    return free


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
                f"than the {len(known)} known speakers; a speaker of this name is written "
                f"--heldout_speakers={heldout}, (with a comma)"
            )
        return set(sorted(known, key=lambda speaker: _rank(seed, "speaker", speaker))[:heldout])
    missing = sorted(set(heldout) - known)
    if missing:
        examples = ", ".join(sorted(known)[:3]) or "none"
        raise UserError(
            f"heldout_speakers: no recordings of {', '.join(missing)}; the {len(known)} known "
            f"speakers are called {examples}" + ", ..." * (len(known) > 3)
        )
    return set(heldout)


def _rank(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest()
