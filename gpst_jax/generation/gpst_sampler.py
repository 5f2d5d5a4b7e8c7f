"""Decoding GPST with a static KV cache: semantic units, then frames code by code.

A batch of requests runs in four phases: prefill of the semantic prefix, sampling of units (unless
they are complete), prefill of the acoustic prefix, sampling of frames. Each item has its own random
stream, lengths, end and settings, so its samples do not depend on its batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence

import jax
import numpy as np

from data_pipeline.tokens import NUM_SPECIALS, TokenLayout
from gpst_jax.config import ConfigError, GPSTConfig
from gpst_jax.generation import gpst_decode, gpst_requests, sampling
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_requests import GIVEN, Request, Result
from gpst_jax.generation.guards import ENDINGS, Guards, silent_ids
from gpst_jax.generation.patterns.base import (
    Limits,
    Model,
    Rows,
    Sampled,
    Sizes,
    Variant,
    Weights,
)
from gpst_jax.models import decoding, patterns
from gpst_jax.models.patterns.delay import undelayed

__all__ = ["Decoder", "Request", "Result", "best_of"]


class Decoder:
    """Jitted decoding for one model; compiled once per batch shape.

    Args:
        config: the model.
        layout: token layout of its dataset.
        params: its parameters; sharded ones need their mesh at decoding (`jax.set_mesh`).
        positions: "time" or "running", as in training.
        silence: units (S,) and codes (Q, T) of encoded silence, for the guard against silence.
        weights: "float32" or "bfloat16", the dtype of weights, activations and cache, or "int8":
            kernels in int8 and activations quantised for every product (needs qwix). None: the
            dtype of the configuration.

    Raises:
        ConfigError: other weights.
    """

    def __init__(
        self,
        config: GPSTConfig,
        layout: TokenLayout,
        params: dict,
        positions: str,
        silence: tuple[np.ndarray, np.ndarray] | None = None,
        weights: str | None = None,
    ):
        self.config, self._int8 = decoding.in_weights(config, weights)
        self.layout, self.params = layout, params
        self.positions = positions
        self.arrangement = patterns.arrangement(config.pattern)
        units, codes = (None, None) if silence is None else (silence[0], silence[1][0])
        self.silence = tuple(
            silent_ids(None if ids is None else np.asarray(ids) + NUM_SPECIALS, size)
            for ids, size in ((units, layout.semantic_vocab), (codes, layout.acoustic_classes))
        )

    @functools.cached_property
    def weights(self) -> Weights:
        """The parameters as the loops read them, made at the first call."""
        return gpst_decode.prepare(self.config, self.layout, self._int8, self.params)

    def decode(
        self,
        requests: Sequence[Request],
        *,
        seed: int = 0,
        semantic: SamplingConfig = SamplingConfig(),
        acoustic: SamplingConfig = SamplingConfig(),
        guards: Guards | None = None,
        batch_size: int = 100,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """Decodes requests in batches of one padded shape, shortest first.

        Args:
            requests: the items.
            seed: fixes the samples, together with each request's `item`.
            semantic: how units are sampled, where a request does not say.
            acoustic: how codes are sampled, where a request does not say.
            guards: end items that went astray; None: none.
            batch_size: items decoded at once.
            on_progress: called with the number of items after each batch.

        Returns:
            One result per request, in order.

        Raises:
            ValueError: units or codes out of range, or no requests.
            ConfigError: a request exceeds the model's position table.
        """
        sizes = self._sizes(requests)
        order = sorted(range(len(requests)), key=lambda i: _work(requests[i]))
        results: dict[int, Result] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            padded = [requests[i] for i in chosen]
            if len(order) > batch_size:  # a last, smaller batch would recompile
                padded += [padded[0]] * (batch_size - len(padded))
            batch = _Batch(self, padded, sizes, seed, (semantic, acoustic), guards)
            batch.sample_frames(sizes.max_frames)
            results |= zip(chosen, batch.results(), strict=False)
            if on_progress is not None:
                on_progress(len(chosen))
        return [results[i] for i in range(len(requests))]

    def stream(
        self, request: Request, *, chunk_frames: int = 25, **options
    ) -> Generator[np.ndarray, None, Result]:
        """Decodes one request and hands its frames on as they are made.

        Args:
            request: the item; its units, where they are sampled, come first.
            chunk_frames: frames made at once.
            **options: `seed`, `semantic`, `acoustic` and `guards` of `decode`.

        Yields:
            Codes (Q, n), 0 < n <= chunk_frames. Joined they equal those of `decode`, bit for bit.

        Returns:
            The result (the value of `yield from`).
        """
        chunks = self.stream_batch([request], chunk_frames=chunk_frames, **options)
        while True:
            try:
                (codes,) = next(chunks)
            except StopIteration as stopped:
                return stopped.value[0]
            if codes.shape[1]:
                yield codes

    def stream_batch(
        self,
        requests: Sequence[Request],
        *,
        chunk_frames: int = 25,
        seed: int = 0,
        semantic: SamplingConfig = SamplingConfig(),
        acoustic: SamplingConfig = SamplingConfig(),
        guards: Guards | None = None,
    ) -> Generator[list[np.ndarray], None, list[Result]]:
        """`stream` for several requests in one batch.

        Yields:
            Codes (Q, n) of each request; n = 0 where one has ended.

        Returns:
            One result per request, as of `decode` of the same requests in one batch.

        Raises:
            ValueError, ConfigError: as `decode`; also chunk_frames below 1.
        """
        if chunk_frames < 1:
            raise ValueError(f"stream: chunk_frames must be positive, got {chunk_frames}")
        sizes = self._sizes(requests)
        batch = _Batch(self, requests, sizes, seed, (semantic, acoustic), guards)
        given = np.zeros(len(requests), int)
        for stop in range(chunk_frames, sizes.max_frames + chunk_frames, chunk_frames):
            running = batch.sample_frames(stop)
            codes = batch.codes()
            yield [one[:, start:] for one, start in zip(codes, given, strict=True)]
            given = np.array([one.shape[1] for one in codes])
            if not running:
                break
        return batch.results()

    def _sizes(self, requests: Sequence[Request]) -> Sizes:
        if not requests:
            raise ValueError("decode: no requests")
        longest = max(gpst_requests.length(self.arrangement, request) for request in requests)
        if self.config.block == "paper" and longest > self.config.max_positions:
            raise ConfigError(
                f"decode: {longest} positions are more than the model's table of "
                f"{self.config.max_positions}; shorten the prompt or max_frames"
            )
        return gpst_requests.sizes(self.arrangement, self.layout.num_codebooks, requests)


class _Batch:
    """One padded batch on its way through the programs.

    Units are sampled at once, frames up to any step at a time.
    """

    def __init__(
        self,
        decoder: Decoder,
        requests: Sequence[Request],
        sizes: Sizes,
        seed: int,
        configs: tuple[SamplingConfig, SamplingConfig],
        guards: Guards | None,
    ):
        self._layout, self._weights, self._requests = decoder.layout, decoder.weights, requests
        self._model = Model(decoder.config, decoder.layout, decoder.positions, sizes)
        self._arrangement = decoder.arrangement
        prefixes = gpst_requests.prefixes(
            decoder.arrangement, decoder.layout, decoder.positions, requests, sizes
        )
        semantic, acoustic = self._streams(decoder, seed, configs, guards)
        state = gpst_decode.prefill_units(self._model, self._weights, prefixes[0])
        units: Sampled | None = None
        if sizes.max_units:
            rows, variant = semantic
            units = gpst_decode.sample_units(
                self._model,
                variant,
                self._weights,
                gpst_decode.start(variant, sizes.max_units, 1, state, rows.limits),
                rows,
                np.int32(sizes.max_units),
            )
            state = units.state
        self._units = _fetched(units)
        self._frames: Sampled | None = None
        self._acoustic = acoustic
        if sizes.max_frames:
            rows, variant = acoustic
            state = gpst_decode.prefill_codes(self._model, self._weights, state, prefixes[1])
            depth = decoder.layout.num_codebooks
            steps = self._arrangement.decode_steps(sizes.max_frames, depth)
            self._frames = gpst_decode.start(variant, steps, depth, state, rows.limits)

    def _streams(self, decoder, seed, configs, guards) -> list[tuple[Rows, Variant]]:
        """What differs between rows, and what is compiled for them, of both streams."""
        layout, requests = decoder.layout, self._requests
        starts = [gpst_requests.next_times(layout, request) for request in requests]
        seeds = [seed if request.seed is None else request.seed for request in requests]
        rates = (layout.unit_rate, 1), (layout.frame_rate, layout.num_codebooks)
        streams = []
        for number, (stream, tokens) in enumerate((("semantic", "units"), ("acoustic", "frames"))):
            chosen = [getattr(request, stream) or configs[number] for request in requests]
            settings, variant = _settings(chosen)
            limits = Limits(
                self._field(f"min_{tokens}"),
                self._field(f"max_{tokens}"),
                np.array([start[number] for start in starts], np.int32),
            )
            rows = Rows(
                np.array([one % 2**32 for one in seeds], np.uint32),
                self._field("item"),
                limits,
                settings,
                decoder.silence[number],
                gpst_requests.newest_frames(layout, requests) if number else None,
            )
            thresholds = None if guards is None else guards.at(*rates[number])
            streams.append((rows, Variant(variant, thresholds)))
        return streams

    def _field(self, name: str) -> np.ndarray:
        return np.array([getattr(request, name) for request in self._requests], np.int32)

    def sample_frames(self, stop: int) -> bool:
        """Completes the first `stop` frames; whether any row goes on after them."""
        longest = self._model.sizes.max_frames
        if self._frames is None:
            return False
        rows, variant = self._acoustic
        steps = self._arrangement.decode_steps(min(stop, longest), self._layout.num_codebooks)
        self._frames = gpst_decode.sample_frames(
            self._model, variant, self._weights, self._frames, rows, np.int32(steps)
        )
        return stop < longest and not np.asarray(self._frames.ended_by).all()

    def codes(self) -> list[np.ndarray]:
        """Codes (Q, n) of each row so far."""
        return [codes for codes, _, _ in self._rows(self._fetched_frames())]

    def _fetched_frames(self) -> dict[str, np.ndarray]:
        fetched = _fetched(self._frames)
        if fetched and self._model.config.pattern == "delay":
            fetched["tokens"] = undelayed(fetched["tokens"])
        return fetched

    def _rows(self, fetched: dict[str, np.ndarray]) -> list[tuple[np.ndarray, str, float]]:
        layout = self._layout
        rows = []
        for row, request in enumerate(self._requests):
            if not request.max_frames:
                rows.append((np.zeros((layout.num_codebooks, 0), np.int32), GIVEN, 0.0))
                continue
            ids, ending, log_prob = _row(fetched, row)
            rows.append((layout.ids_to_codes(ids), ending, log_prob))
        return rows

    def results(self) -> list[Result]:
        """The result of each row."""
        results = []
        for row, frames in enumerate(self._rows(self._fetched_frames())):
            ids, ending, log_prob = np.full((0, 1), NUM_SPECIALS, np.int32), GIVEN, 0.0
            if self._requests[row].max_units:
                ids, ending, log_prob = _row(self._units, row)
            codes, frames_ending, log_prob_frames = frames
            results.append(
                Result(
                    units=ids[:, 0] - NUM_SPECIALS,
                    codes=codes,
                    units_ended_by=ending,
                    frames_ended_by=frames_ending,
                    log_prob_units=log_prob,
                    log_prob_frames=log_prob_frames,
                )
            )
        return results


def best_of(
    decoder: Decoder,
    requests: Sequence[Request],
    count: int,
    *,
    score: Callable[[Request, Result], float] | None = None,
    **options,
) -> list[Result]:
    """The best of several samples of each request.

    The samples of a request have random streams of their own; the first is that of `decode`.

    Args:
        decoder: of the model.
        requests: the items; of those that share a seed, items lie below 2^24.
        count: samples of each.
        score: of a result, higher is better; None: the mean log-probability of its ids.
        **options: of `Decoder.decode`.

    Returns:
        One result per request. One that a guard ended is taken only where a guard ended all.
    """
    if count < 1:
        raise ValueError(f"best_of: count must be positive, got {count}")
    copies = [
        dataclasses.replace(request, item=request.item + (number << 24))
        for request in requests
        for number in range(count)
    ]
    results = decoder.decode(copies, **options)

    def value(pair: tuple[Request, Result]) -> tuple[bool, float]:
        request, result = pair
        likelihood = result.mean_log_prob if score is None else score(request, result)
        return not result.ended_by.startswith("guard:"), likelihood

    pairs = list(zip(copies, results, strict=True))
    return [
        max(pairs[start : start + count], key=value)[1] for start in range(0, len(pairs), count)
    ]


def _settings(configs: Sequence[SamplingConfig]) -> tuple[sampling.Settings, sampling.Variant]:
    """Settings of each row, and the program that knows them."""
    largest = max(config.top_k for config in configs)
    greedy = all(config.top_k == 1 for config in configs)
    variant = sampling.Variant(
        greedy=greedy,
        # Powers of two, so that few programs are compiled.
        candidates=0 if greedy or not largest else 1 << (largest - 1).bit_length(),
        nucleus=not greedy and any(config.top_p < 1 for config in configs),
    )
    settings = sampling.Settings(
        np.array([config.temperature for config in configs], np.float32),
        np.array([config.top_k for config in configs], np.int32),
        np.array([config.top_p for config in configs], np.float32),
    )
    return settings, variant


def _fetched(sampled: Sampled | None) -> dict[str, np.ndarray]:
    """The results of a stream so far; none where it is not sampled."""
    if sampled is None:
        return {}
    names = ("tokens", "num_tokens", "ended_by", "log_prob")
    return jax.tree.map(np.asarray, {name: getattr(sampled, name) for name in names})


def _row(fetched: dict[str, np.ndarray], row: int) -> tuple[np.ndarray, str, float]:
    """Ids (n, depth) of a row, why its sampling ended, and their log-probability."""
    ids = fetched["tokens"][row, : fetched["num_tokens"][row]]
    return ids, ENDINGS[fetched["ended_by"][row]], float(fetched["log_prob"][row])


def _work(request: Request) -> int:
    return request.max_units + request.max_frames
