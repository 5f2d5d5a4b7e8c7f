"""Assignment of utterances to splits, by ids, speakers and a seed only."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import UNKNOWN_SPEAKER, Utterance

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


def _rank(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest()
