"""Requests to the decoder of GPST, its results, and the padded prefixes of a batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.tokens import EOS, PAD, SEMANTIC, TokenLayout, part_times
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.patterns.base import Sizes
from gpst_jax.models.patterns import Arrangement
from gpst_jax.models.patterns.line import Prefix, with_zero

GIVEN = "given"  # a stream ended by this had nothing to sample


@dataclasses.dataclass(frozen=True)
class Request:
    """One item to decode.

    Attributes:
        units: (S,) given units, de-duplicated if the model's are.
        codes: (Q, T) given frames, the beginning of the acoustic stream.
        max_units: 0 if the units are complete, else how many may be sampled after `units`.
        min_units: sampled units before which the end is not allowed.
        min_frames: frames before which the end is not allowed.
        max_frames: frames after which sampling stops.
        part_lengths: (raw units, frames) of the joined parts of the given streams, for positions
            in time; sampling continues the last part. None: one part.
        item: index of the item's random stream.
        seed: of the random stream; None: that of the call.
        semantic: how units are sampled; None: as the call says.
        acoustic: how codes are sampled; None: as the call says.
    """

    units: np.ndarray
    codes: np.ndarray
    max_units: int = 0
    min_units: int = 0
    min_frames: int = 0
    max_frames: int = 0
    part_lengths: Sequence[tuple[int, int]] | None = None
    item: int = 0
    seed: int | None = None
    semantic: SamplingConfig | None = None
    acoustic: SamplingConfig | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """The sampled tokens of one request.

    Attributes:
        units: (S',) sampled units, without those given.
        codes: (Q, T') sampled frames, without those given.
        units_ended_by: "end" if the semantic end was sampled, "length" at `max_units`, a guard
            ("guard:repetition", "guard:silence"), or "given" where no units were to be sampled.
        frames_ended_by: the same for the frames; "guard:collapse" is among their guards.
        log_prob_units: summed log-probability of the sampled units and of the end, in nats, under
            the model at temperature 1 with no class masked.
        log_prob_frames: the same for the sampled frames.
    """

    units: np.ndarray
    codes: np.ndarray
    units_ended_by: str
    frames_ended_by: str
    log_prob_units: float
    log_prob_frames: float

    @property
    def units_ended(self) -> bool:
        """Whether the units are complete: the semantic end was sampled, or all were given."""
        return self.units_ended_by in ("end", GIVEN)

    @property
    def frames_ended(self) -> bool:
        """Whether the acoustic end was sampled before `max_frames`; not if that is 0."""
        return self.frames_ended_by == "end"

    @property
    def ended_by(self) -> str:
        """A guard that fired in either stream, else what ended the last stream sampled."""
        both = self.units_ended_by, self.frames_ended_by
        guards = [ending for ending in both if ending.startswith("guard:")]
        last = self.units_ended_by if self.frames_ended_by == GIVEN else self.frames_ended_by
        return (guards or [last])[0]

    @property
    def mean_log_prob(self) -> float:
        """Log-probability per sampled id, in nats; 0 where nothing was sampled."""
        ids = len(self.units) + self.codes.size
        ids += self.units_ended_by == "end"
        ids += len(self.codes) * self.frames_ended
        return (self.log_prob_units + self.log_prob_frames) / max(ids, 1)


def prefix_times(layout: TokenLayout, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """End times in ticks of the given units (S,) and frames (T,)."""
    units, frames = part_times(layout, _parts(request))
    return units[: len(request.units)], frames[: request.codes.shape[1]]


def next_times(layout: TokenLayout, request: Request) -> tuple[int, int]:
    """Ticks at which the first sampled unit and the first sampled frame begin."""
    parts = _parts(request)
    before = 0
    for units, frames in parts[:-1]:
        before += max(units * layout.ticks_per_unit, frames * layout.ticks_per_frame)
    given_units = len(request.units) - sum(units for units, _ in parts[:-1])
    given_frames = request.codes.shape[1] - sum(frames for _, frames in parts[:-1])
    return (
        before + given_units * layout.ticks_per_unit,
        before + given_frames * layout.ticks_per_frame,
    )


def _parts(request: Request) -> list[tuple[int, int]]:
    return list(request.part_lengths or [(len(request.units), request.codes.shape[1])])


def sizes(arrangement: Arrangement, codebooks: int, requests: Sequence[Request]) -> Sizes:
    """Padded sizes of all requests of a call; longer than needed, so that programs are shared."""
    given = max(request.codes.shape[1] for request in requests)
    max_frames = _round_up(max(request.max_frames for request in requests))
    return Sizes(
        units=_round_up(max(len(request.units) for request in requests) + 1),
        max_units=_round_up(max(request.max_units for request in requests)),
        codes=_round_up(arrangement.given_positions(given, codebooks) + 1),
        max_frames=max_frames,
        frame_slots=arrangement.positions(max_frames, codebooks) if max_frames else 0,
    )


def length(arrangement: Arrangement, request: Request) -> int:
    """Maximum length of a request's sequence, BOS_s and BOS_a included."""
    codebooks, given = request.codes.shape
    units = len(request.units) + request.max_units
    return 1 + units + arrangement.positions(given + request.max_frames + 1, codebooks)


def prefixes(
    arrangement: Arrangement,
    layout: TokenLayout,
    positions: str,
    requests: Sequence[Request],
    padded: Sizes,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Both prefixes, right-padded: [BOS_s, units] and [BOS_a, frames].

    Args:
        arrangement: of the codes.
        layout: of the tokens.
        positions: "time" or "running", as in training.
        requests: the rows.
        padded: sizes to pad to.

    Returns:
        For each stream tokens (B, P, K), times (B, P) in ticks (of no meaning where positions are
        running), streams (B, P) and lengths (B,).

    Raises:
        ValueError: units or codes out of range.
    """
    semantic, acoustic = [], []
    for request in requests:
        tokens = np.full((len(request.units) + 1, layout.num_codebooks), PAD, np.int32)
        tokens[0, 0] = EOS
        tokens[1:, 0] = layout.units_to_ids(request.units)
        frames = layout.codes_to_ids(request.codes) + layout.semantic_vocab
        times = np.zeros(0, int), np.zeros(0, int)
        if positions == "time":
            times = prefix_times(layout, request)
        streams = np.full(len(tokens), SEMANTIC, np.int32)
        semantic.append(Prefix(tokens, with_zero(times[0]), streams))
        acoustic.append(arrangement.prefix(layout, frames, times[1]))
    return _pad_prefix(semantic, padded.units), _pad_prefix(acoustic, padded.codes)


def newest_frames(layout: TokenLayout, requests: Sequence[Request]) -> np.ndarray:
    """Local ids (B, Q - 1, Q) of the last given frames, the last one first; PAD where none is."""
    depth = layout.num_codebooks
    newest = np.full((len(requests), max(depth - 1, 1), depth), PAD, np.int32)
    for row, request in enumerate(requests):
        frames = layout.codes_to_ids(request.codes)[::-1][: depth - 1]
        newest[row, : len(frames)] = frames
    return newest


def _pad_prefix(items: list[Prefix], width: int) -> dict[str, np.ndarray]:
    """Right-pads prefixes to `width`."""
    tokens = np.full((len(items), width, items[0].tokens.shape[1]), PAD, np.int32)
    times, streams = np.zeros((2, len(items), width), np.int32)
    for row, item in enumerate(items):
        tokens[row, : len(item.tokens)] = item.tokens
        times[row, : len(item.times)] = item.times
        streams[row, : len(item.streams)] = item.streams
    lengths = np.array([len(item.tokens) for item in items], np.int32)
    return {"tokens": tokens, "times": times, "streams": streams, "lengths": lengths}


def _round_up(value: int) -> int:
    """A multiple of 64; a start alone takes 8."""
    multiple = 8 if value == 1 else 64
    return -(-value // multiple) * multiple
