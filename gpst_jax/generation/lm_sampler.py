"""Batched sampling from the semantic language model, constrained by a grammar.

Each item has its own random stream, length and end, so its samples do not depend on its batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, SemanticLMConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.guards import ENDINGS, Guards, silent_ids
from gpst_jax.generation.lm_decode import (
    CHUNK,
    Ids,
    Rows,
    Sampling,
    Weights,
    decode_batch,
    prepare,
)
from gpst_jax.generation.lm_grammar import UNITS, Grammar
from gpst_jax.models import decoding

PUBLISHED = SamplingConfig(temperature=0.7, top_k=50, top_p=0.8)  # of arXiv 2305.11000's code


@dataclasses.dataclass(frozen=True)
class LMRequest:
    """One prompt to continue.

    Attributes:
        prompt: (P,) ids, at least one.
        max_new: maximum number of new ids.
        item: index of its random stream.
        min_units: new units before which a span of units may not end.
        seed: of its random stream; None: that of the call.
        text: how ids are sampled in phases of text; None: as the call says.
        units: how ids are sampled in phases of units; None: as the call says.
    """

    prompt: np.ndarray
    max_new: int
    item: int = 0
    min_units: int = 0
    seed: int | None = None
    text: SamplingConfig | None = None
    units: SamplingConfig | None = None


@dataclasses.dataclass(frozen=True)
class LMResult:
    """The continuation of one request.

    Attributes:
        ids: (n,) int32 new ids, markers and the end included.
        log_probs: (n,) float32 of each in nats, under the model at temperature 1 with no id masked.
        ended_by: "end" if the grammar's end was reached, "length" at `max_new`, or a guard.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    ended_by: str

    @property
    def ended(self) -> bool:
        """Whether the grammar's end was reached."""
        return self.ended_by == "end"


class LMDecoder:
    """Jitted decoding for one model; compiled once per batch shape.

    Args:
        config: the model.
        vocabulary: its ids.
        params: its parameters.
        silence: (S,) units of silence, for the guard against it.
        weights: "float32", "bfloat16" or "int8", as for `gpst_sampler.Decoder`.

    Raises:
        ConfigError: the parameters are of another vocabulary, or other weights.
    """

    def __init__(
        self,
        config: SemanticLMConfig,
        vocabulary: Vocabulary,
        params: dict,
        silence: np.ndarray | None = None,
        weights: str | None = None,
    ):
        self.config, self._int8 = decoding.in_weights(config, weights)
        self.vocabulary, self.params = vocabulary, params
        first = vocabulary.unit_start
        silent = None if silence is None else np.asarray(silence) + first
        self._ids = Ids(
            units=np.arange(vocabulary.size) >= first, silence=silent_ids(silent, vocabulary.size)
        )
        rows = params["embed"]["embedding"].shape[0]
        if rows != vocabulary.size:
            raise ConfigError(
                f"the model has {rows} ids, the vocabulary {vocabulary.size}: {vocabulary}"
            )

    @functools.cached_property
    def weights(self) -> Weights:
        """The parameters as the loop reads them, made at the first call."""
        return prepare(self.config, self._int8, self.params)

    def decode(
        self,
        requests: Sequence[LMRequest],
        grammar: Grammar,
        *,
        seed: int = 0,
        text: SamplingConfig = PUBLISHED,
        units: SamplingConfig = PUBLISHED,
        guards: Guards | None = None,
        unit_rate: float = 50.0,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[LMResult]:
        """Decodes requests in batches of one padded shape, shortest first.

        Args:
            requests: the items.
            grammar: what may follow their prompts.
            seed: fixes the samples, together with each request's `item`.
            text: how ids are sampled in phases of text, where a request does not say.
            units: how ids are sampled in phases of units, where a request does not say.
            guards: end items that went astray; None: none.
            unit_rate: ids a second, for the guards' durations.
            batch_size: items decoded at once.
            on_progress: called with the number of items after each batch.

        Returns:
            One result per request, in order.

        Raises:
            ValueError: no requests, an empty prompt, ids out of range, or nothing to generate.
        """
        if not requests:
            raise ValueError("decode: no requests")
        for number, request in enumerate(requests):
            self._check(number, request)
        tables = grammar.tables(self.vocabulary.size)
        kinds = [phase.kind == UNITS for phase in grammar.phases]
        kinds += [False] * (len(tables[0]) - len(kinds))
        configs = [(request.text or text, request.units or units) for request in requests]
        candidates = max(self._top_k(config) for config in {one for row in configs for one in row})
        thresholds = None if guards is None else guards.at(unit_rate)
        width = _round_up(max(len(request.prompt) for request in requests))
        max_new = _round_up(max(request.max_new for request in requests))
        order = sorted(range(len(requests)), key=lambda i: requests[i].max_new)
        results: dict[int, LMResult] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            padded = [requests[i] for i in chosen]
            if len(order) > batch_size:  # a last, smaller batch would recompile
                padded += [padded[0]] * (batch_size - len(padded))
            prompts = np.full((len(padded), width), self.vocabulary.padding, np.int32)
            for row, request in enumerate(padded):
                prompts[row, : len(request.prompt)] = request.prompt
            rows = Rows(
                seeds=np.array(
                    [(seed if one.seed is None else one.seed) % 2**32 for one in padded], np.uint32
                ),
                items=np.array([request.item for request in padded], np.int32),
                lengths=np.array([len(request.prompt) for request in padded], np.int32),
                limits=np.array([request.max_new for request in padded], np.int32),
                min_units=np.array([request.min_units for request in padded], np.int32),
            )
            outputs = decode_batch(
                self.config,
                max_new,
                candidates,
                thresholds,
                self.weights,
                prompts,
                rows,
                tables,
                self._sampling(padded, (text, units), kinds),
                self._ids,
            )
            outputs = jax.tree.map(np.asarray, outputs)
            for row, i in enumerate(chosen):
                count = outputs["count"][row]
                results[i] = LMResult(
                    ids=outputs["ids"][row, :count],
                    log_probs=outputs["log_probs"][row, :count],
                    ended_by=ENDINGS[outputs["ended_by"][row]],
                )
            if on_progress is not None:
                on_progress(len(chosen))
        return [results[i] for i in range(len(requests))]

    def _check(self, number: int, request: LMRequest) -> None:
        prompt = np.asarray(request.prompt)
        if prompt.ndim != 1 or not prompt.size or request.max_new < 1:
            raise ValueError(
                f"request {number}: a prompt (P,) of at least one id and max_new above 0 are "
                f"needed, not {prompt.shape} and {request.max_new}"
            )
        if prompt.min() < 0 or prompt.max() >= self.vocabulary.size:
            raise ValueError(
                f"request {number}: ids {prompt.min()} to {prompt.max()} are not all in "
                f"0 .. {self.vocabulary.size - 1}"
            )

    def _sampling(self, requests, defaults, kinds: Sequence[bool]) -> Sampling:
        """Settings of each request in each phase, which is one of units or not."""
        chosen = [
            [
                (request.units or defaults[1]) if kind else (request.text or defaults[0])
                for kind in kinds
            ]
            for request in requests
        ]

        def field(value: Callable[[SamplingConfig], float], dtype) -> np.ndarray:
            return np.array([[value(config) for config in row] for row in chosen], dtype)

        return Sampling(
            field(lambda config: config.temperature, np.float32),
            field(self._top_k, np.int32),
            field(lambda config: config.top_p, np.float32),
        )

    def _top_k(self, config: SamplingConfig) -> int:
        """The number of ids to sample from."""
        return min(config.top_k or self.vocabulary.size, self.vocabulary.size)


def _round_up(value: int) -> int:
    return -(-value // CHUNK) * CHUNK
