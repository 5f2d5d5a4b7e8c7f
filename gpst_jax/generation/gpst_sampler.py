"""Decoding GPST with a static KV cache: semantic units, then frames code by code.

A batch of requests runs in four phases: prefill of the semantic prefix, sampling of units (unless
they are complete), prefill of the acoustic prefix, sampling of frames. Each item has its own random
stream, lengths and end, so its samples do not depend on its batch.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from data_pipeline.tokens import EOS, NUM_SPECIALS, PAD, TokenLayout, part_times
from gpst_jax.config import ConfigError, GPSTConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_decode import decode_batch


@dataclasses.dataclass(frozen=True)
class Request:
    """One item to decode.

    Attributes:
        units: (S,) given units, de-duplicated if the model's are.
        codes: (Q, T) given frames, the beginning of the acoustic stream.
        max_units: 0 if the units are complete, else how many may be sampled after `units`.
        min_frames: frames before which the end is not allowed.
        max_frames: frames after which sampling stops.
        part_lengths: (raw units, frames) of the joined parts of the given streams, for positions
            in time; sampling continues the last part. None: one part.
        item: index of the item's random stream.
    """

    units: np.ndarray
    codes: np.ndarray
    max_units: int = 0
    min_frames: int = 0
    max_frames: int = 0
    part_lengths: Sequence[tuple[int, int]] | None = None
    item: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """The sampled tokens of one request.

    Attributes:
        units: (S',) sampled units, without those given.
        codes: (Q, T') sampled frames, without those given.
        units_ended: whether the semantic end was sampled (True when units were given complete).
        frames_ended: whether the acoustic end was sampled before `max_frames`; not if that is 0.
        log_prob_units: summed log-probability of the sampled units and of the end, in nats, under
            the model at temperature 1 with no class masked.
        log_prob_frames: the same for the sampled frames.
    """

    units: np.ndarray
    codes: np.ndarray
    units_ended: bool
    frames_ended: bool
    log_prob_units: float
    log_prob_frames: float


class Decoder:
    """Jitted decoding for one model; compiled once per batch shape.

    Args:
        config: the model.
        layout: token layout of its dataset.
        params: its parameters; sharded ones need their mesh at decoding (`jax.set_mesh`).
        positions: "time" or "running", as in training.
    """

    def __init__(self, config: GPSTConfig, layout: TokenLayout, params: dict, positions: str):
        self.config, self.layout, self.params = config, layout, params
        self.positions = positions

    def decode(
        self,
        requests: Sequence[Request],
        *,
        seed: int = 0,
        semantic: SamplingConfig = SamplingConfig(),
        acoustic: SamplingConfig = SamplingConfig(),
        batch_size: int = 100,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """Decodes requests in batches of one padded shape, shortest first.

        Args:
            requests: the items.
            seed: fixes the samples, together with each request's `item`.
            semantic: how units are sampled.
            acoustic: how codes are sampled.
            batch_size: items decoded at once.
            on_progress: called with the number of items after each batch.

        Returns:
            One result per request, in order.

        Raises:
            ValueError: units or codes out of range, or no requests.
            ConfigError: a request exceeds the model's position table.
        """
        if not requests:
            raise ValueError("decode: no requests")
        if min(semantic.top_p, acoustic.top_p) < 1:
            raise ConfigError("sampling: GPST is sampled with temperature and top_k, not top_p")
        shape = _Shape.of(requests)
        longest = max(_length(request) for request in requests)
        if self.config.block == "paper" and longest > self.config.max_positions:
            raise ConfigError(
                f"decode: {longest} positions are more than the model's table of "
                f"{self.config.max_positions}; shorten the prompt or max_frames"
            )
        order = sorted(range(len(requests)), key=lambda i: _work(requests[i]))
        results: dict[int, Result] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            padded = [requests[i] for i in chosen]
            if len(order) > batch_size:  # a last, smaller batch would recompile
                padded += [padded[0]] * (batch_size - len(padded))
            outputs = self._decode_batch(padded, shape, seed, semantic, acoustic)
            for row, i in enumerate(chosen):
                results[i] = self._result(outputs, row)
            if on_progress is not None:
                on_progress(len(chosen))
        return [results[i] for i in range(len(requests))]

    def _decode_batch(self, requests, shape, seed, semantic, acoustic) -> dict[str, np.ndarray]:
        items = np.array([request.item for request in requests], np.int32)
        units, codes = self._prefixes(requests, shape)
        starts = np.array([self.next_times(request) for request in requests], np.int32)

        def limit(name: str) -> np.ndarray:
            return np.array([getattr(request, name) for request in requests], np.int32)

        limits = {name: limit(name) for name in ("max_units", "min_frames", "max_frames")}
        limits |= {
            "unit_start": starts[:, 0],
            "frame_start": starts[:, 1],
            "temperatures": np.array([semantic.temperature, acoustic.temperature], np.float32),
        }
        static = (semantic.top_k, acoustic.top_k, shape.max_units, shape.max_frames, shape.length)
        outputs = decode_batch(
            self.config,
            self.layout,
            self.positions,
            static,
            self.params,
            np.uint32(seed % 2**32),
            items,
            units,
            codes,
            limits,
        )
        return jax.tree.map(np.asarray, outputs)

    def _prefixes(self, requests: Sequence[Request], shape: "_Shape") -> tuple[dict, dict]:
        """Both prefixes, right-padded: [BOS_s, units] and [BOS_a, frames]."""
        semantic, acoustic = [], []
        for request in requests:
            tokens = np.full((len(request.units) + 1, self.layout.num_codebooks), PAD, np.int32)
            tokens[0, 0] = EOS
            tokens[1:, 0] = self.layout.units_to_ids(request.units)
            semantic.append((tokens, np.concatenate([[0], self.prefix_times(request)[0]])))
            frames = self.layout.codes_to_ids(request.codes) + self.layout.semantic_vocab
            bos = np.full((1, self.layout.num_codebooks), self.layout.bos_acoustic, np.int32)
            times = np.concatenate([[0], self.prefix_times(request)[1]])
            acoustic.append((np.concatenate([bos, frames]), times))
        return _pad_prefix(semantic, shape.units), _pad_prefix(acoustic, shape.codes)

    def _parts(self, request: Request) -> list[tuple[int, int]]:
        return list(request.part_lengths or [(len(request.units), request.codes.shape[1])])

    def prefix_times(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """End times in ticks of the given units and frames."""
        if self.positions == "running":  # replaced by the running index on the device
            return np.zeros(len(request.units), int), np.zeros(request.codes.shape[1], int)
        units, frames = part_times(self.layout, self._parts(request))
        return units[: len(request.units)], frames[: request.codes.shape[1]]

    def next_times(self, request: Request) -> tuple[int, int]:
        """Ticks at which the first sampled unit and the first sampled frame begin."""
        layout, parts = self.layout, self._parts(request)
        before = 0
        for units, frames in parts[:-1]:
            before += max(units * layout.ticks_per_unit, frames * layout.ticks_per_frame)
        given_units = len(request.units) - sum(units for units, _ in parts[:-1])
        given_frames = request.codes.shape[1] - sum(frames for _, frames in parts[:-1])
        return (
            before + given_units * layout.ticks_per_unit,
            before + given_frames * layout.ticks_per_frame,
        )

    def _result(self, outputs: dict[str, np.ndarray], row: int) -> Result:
        num_units, num_frames = outputs["num_units"][row], outputs["num_frames"][row]
        return Result(
            units=outputs["units"][row, :num_units] - NUM_SPECIALS,
            codes=self.layout.ids_to_codes(outputs["frames"][row, :num_frames]),
            units_ended=bool(outputs["units_ended"][row]),
            frames_ended=bool(outputs["frames_ended"][row]),
            log_prob_units=float(outputs["log_prob_units"][row]),
            log_prob_frames=float(outputs["log_prob_frames"][row]),
        )


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Padded sizes that all batches of one call share."""

    units: int
    codes: int
    max_units: int
    max_frames: int

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "_Shape":
        return cls(
            units=_round_up(max(len(request.units) for request in requests) + 1),
            codes=_round_up(max(request.codes.shape[1] for request in requests) + 1),
            max_units=_round_up(max(request.max_units for request in requests)),
            max_frames=_round_up(max(request.max_frames for request in requests)),
        )

    @property
    def length(self) -> int:
        """Positions of the cache."""
        return self.units + self.codes + self.max_units + self.max_frames


def _length(request: Request) -> int:
    """Maximum length of a request's sequence, BOS_s and BOS_a included."""
    given = len(request.units) + request.codes.shape[1]
    return 2 + given + request.max_units + request.max_frames


def _work(request: Request) -> int:
    return request.max_units + request.max_frames


def _pad_prefix(items: list[tuple[np.ndarray, np.ndarray]], length: int) -> dict[str, np.ndarray]:
    """Right-pads (tokens (n, Q), times (n,)) pairs to `length`."""
    depth = items[0][0].shape[1]
    tokens = np.full((len(items), length, depth), PAD, np.int32)
    times = np.zeros((len(items), length), np.int32)
    for row, (prefix, ticks) in enumerate(items):
        tokens[row, : len(prefix)] = prefix
        times[row, : len(ticks)] = ticks
    lengths = np.array([len(prefix) for prefix, _ in items], np.int32)
    return {"tokens": tokens, "times": times, "lengths": lengths}


def _round_up(value: int, multiple: int = 64) -> int:
    return -(-value // multiple) * multiple
