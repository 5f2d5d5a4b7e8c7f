"""The inference modes of GPST, as builders of decode requests (arXiv 2406.00976, section 3.3).

A mode defines which tokens are given and which are sampled; all share `gpst_sampler.Decoder`.
Speech is a list of parts, (units (S,), codes (Q, T)) of the same audio, in temporal order.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout, deduplicate
from gpst_jax.generation.gpst_sampler import Request

Part = tuple[np.ndarray, np.ndarray]
# Of a model that was trained without units (`data.units=none`): the others render given units.
MODES_WITHOUT_UNITS = ("unconditional", "continuation", "speech_continuation")


def check_modes(flag: str, modes: Sequence[str], with_units: bool) -> None:
    """Raises UserError for a mode that a model without units does not have; it names the flag."""
    if with_units:
        return
    for mode in modes:
        if mode not in MODES_WITHOUT_UNITS:
            raise UserError(
                f"{flag}={mode} renders units, and this model was trained without them "
                f"(data.units=none): choose from {', '.join(MODES_WITHOUT_UNITS)}"
            )


def join(parts: Sequence[Part], silence: Part) -> list[Part]:
    """The parts with silence between them."""
    joined: list[Part] = []
    for part in parts:
        if joined:
            joined.append(silence)
        joined.append(part)
    return joined


@dataclasses.dataclass(frozen=True)
class RequestBuilder:
    """Builds requests for a model.

    Attributes:
        layout: token layout of the model's dataset.
        silence: encoded 0.1 s of silence, which breaks the linguistic continuation between a
            prompt and its target (arXiv 2406.00976, section 3.3).
        deduplicated: whether the model takes de-duplicated units. Durations are then unknown: the
            model ends the speech itself, within twice the expected number of frames.
        with_units: False for a model of frames alone, which has `MODES_WITHOUT_UNITS`.
    """

    layout: TokenLayout
    silence: Part
    deduplicated: bool = False
    with_units: bool = True

    def unconditional(self, seconds: float, *, item: int) -> Request:
        """Unconditional generation: samples at most `seconds` of units, and no frames.

        `semantic_to_acoustic` makes frames of the units. Without units it samples frames at once.
        """
        empty = np.zeros((self.layout.num_codebooks, 0), np.int32)
        if not self.with_units:
            return self.further_frames(empty, seconds, item=item)
        max_units = round(seconds * self.layout.unit_rate)
        return Request(np.zeros(0, np.int32), empty, max_units=max_units, item=item)

    def semantic_to_acoustic(self, units: np.ndarray, *, item: int) -> Request:
        """Semantic-to-acoustic: raw units are given, the speaker identity is sampled.

        Args:
            units: (S,) raw units, or the units that `unconditional` sampled.
            item: index of the random stream.
        """
        empty = np.zeros((self.layout.num_codebooks, 0), np.int32)
        frames = self.layout.frames_for_units(len(units))
        return self._request([units], empty, [(len(units), frames)], frames, item)

    def speaker_transfer(
        self, prompt: Sequence[Part], target: Sequence[Part], *, item: int
    ) -> Request:
        """Speaker identity transfer: content of the target, speaker identity of the prompt.

        Given are the units of prompt, silence and target, and the frames of prompt and silence.
        The sampled frames are those of the target's units; the result holds no others.
        """
        given = [*prompt, self.silence]
        codes = np.concatenate([codes for _, codes in given], axis=1)
        units = [units for units, _ in (*given, *target)]
        lengths = [(len(units), codes.shape[1]) for units, codes in (*given, *target)]
        frames = sum(frames for _, frames in lengths[len(given) :])
        # The target is one part, which begins where the silence ends.
        lengths = [*lengths[: len(given)], (sum(u for u, _ in lengths[len(given) :]), frames)]
        return self._request(units, codes, lengths, frames, item)

    def continuation(self, target: Sequence[Part], seconds: float, *, item: int) -> Request:
        """Acoustic continuation: all units and the first `seconds` of frames are given."""
        units = [units for units, _ in target]
        codes = np.concatenate([codes for _, codes in target], axis=1)
        given = round(seconds * self.layout.frame_rate)
        if not self.with_units:
            left = codes.shape[1] - given
            return Request(units[0][:0], codes[:, :given], 0, 0, left, left, item=item)
        lengths = [(sum(map(len, units)), codes.shape[1])]
        return self._request(units, codes[:, :given], lengths, codes.shape[1] - given, item)

    def further_frames(self, codes: np.ndarray, seconds: float, *, item: int) -> Request:
        """Without units: samples at most `seconds` of frames after those given, codes (Q, T)."""
        most = round(seconds * self.layout.frame_rate)
        return Request(np.zeros(0, np.int32), codes, max_frames=most, item=item)

    def beginning(self, target: Sequence[Part], seconds: float) -> Part:
        """Units and frames of the first `seconds` of speech."""
        units = np.concatenate([units for units, _ in target])
        codes = np.concatenate([codes for _, codes in target], axis=1)
        # Both streams end at one time, so that what follows begins at it.
        step = self.layout.units_per_step
        count = min(len(units), max(step, round(seconds * self.layout.unit_rate) // step * step))
        return units[:count], codes[:, : self.layout.frames_for_units(count)]

    def more_units(self, before: Sequence[Part], seconds: float, *, item: int) -> Request:
        """Speech continuation, first half: samples at most `seconds` of units after those given."""
        units = [units for units, _ in before]
        empty = np.zeros((self.layout.num_codebooks, 0), np.int32)
        lengths = [(len(units), codes.shape[1]) for units, codes in before]
        request = self._request(units, empty, lengths, 0, item)
        return dataclasses.replace(request, max_units=round(seconds * self.layout.unit_rate))

    def more_frames(
        self,
        before: Sequence[Part],
        units: np.ndarray,
        *,
        item: int,
        most_seconds: float | None = None,
    ) -> Request:
        """Frames of further units of the same speech.

        Args:
            before: units and frames of what has been said, without a silence after it.
            units: (S,) raw units that follow, or units that `more_units` sampled.
            item: index of the random stream.
            most_seconds: how long the frames of sampled units may last where the model takes
                de-duplicated ones, whose duration is not known.
        """
        codes = np.concatenate([codes for _, codes in before], axis=1)
        frames = self.layout.frames_for_units(len(units))
        lengths = [*((len(part), its.shape[1]) for part, its in before), (len(units), frames)]
        parts = [*(part for part, _ in before), units]
        request = self._request(parts, codes, lengths, frames, item)
        if self.deduplicated and most_seconds is not None and len(units):
            most = round(most_seconds * self.layout.frame_rate)
            request = dataclasses.replace(request, max_frames=most)
        return request

    def target_of_units(self, units: np.ndarray) -> Part:
        """A part of units whose frames are to be sampled: those it has only tell their number."""
        frames = self.layout.frames_for_units(len(units))
        return units, np.zeros((self.layout.num_codebooks, frames), np.int32)

    def _request(self, units, codes, lengths, frames: int, item: int) -> Request:
        if not self.with_units:
            raise ValueError("a model without units renders none")
        if self.deduplicated:
            units = [deduplicate(part)[0] for part in units]
        return Request(
            units=np.concatenate(units),
            codes=codes,
            min_frames=0 if self.deduplicated else frames,
            max_frames=2 * frames if self.deduplicated else frames,
            part_lengths=lengths,
            item=item,
        )
