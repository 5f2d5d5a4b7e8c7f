"""Batched sampling from the semantic language model, constrained by a grammar.

Each item has its own random stream, length and end, so its samples do not depend on its batch.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, SemanticLMConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.lm_decode import CHUNK, Sampling, decode_batch
from gpst_jax.generation.lm_grammar import UNITS, Grammar

PUBLISHED = SamplingConfig(temperature=0.7, top_k=50, top_p=0.8)  # of arXiv 2305.11000's code


@dataclasses.dataclass(frozen=True)
class LMRequest:
    """One prompt to continue.

    Attributes:
        prompt: (P,) ids, at least one.
        max_new: maximum number of new ids.
        item: index of its random stream.
    """

    prompt: np.ndarray
    max_new: int
    item: int = 0


@dataclasses.dataclass(frozen=True)
class LMResult:
    """The continuation of one request.

    Attributes:
        ids: (n,) int32 new ids, markers and the end included.
        log_probs: (n,) float32 of each in nats, under the model at temperature 1 with no id masked.
        ended: whether the grammar's end was reached.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    ended: bool


class LMDecoder:
    """Jitted decoding for one model; compiled once per batch shape.

    Args:
        config: the model.
        vocabulary: its ids.
        params: its parameters.

    Raises:
        ConfigError: the parameters are of another vocabulary.
    """

    def __init__(self, config: SemanticLMConfig, vocabulary: Vocabulary, params: dict):
        self.config, self.vocabulary, self.params = config, vocabulary, params
        rows = params["embed"]["embedding"].shape[0]
        if rows != vocabulary.size:
            raise ConfigError(
                f"the model has {rows} ids, the vocabulary {vocabulary.size}: {vocabulary}"
            )

    def decode(
        self,
        requests: Sequence[LMRequest],
        grammar: Grammar,
        *,
        seed: int = 0,
        text: SamplingConfig = PUBLISHED,
        units: SamplingConfig = PUBLISHED,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[LMResult]:
        """Decodes requests in batches of one padded shape, shortest first.

        Args:
            requests: the items.
            grammar: what may follow their prompts.
            seed: fixes the samples, together with each request's `item`.
            text: how ids are sampled in phases of text.
            units: how ids are sampled in phases of units.
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
        configs = [units if phase.kind == UNITS else text for phase in grammar.phases]
        configs += [text] * (len(tables[0]) - len(configs))
        candidates = max(self._top_k(config) for config in configs)
        sampling = Sampling(
            jnp.array([config.temperature for config in configs], jnp.float32),
            jnp.array([self._top_k(config) for config in configs], jnp.int32),
            jnp.array([config.top_p for config in configs], jnp.float32),
        )
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
            items = jnp.array([request.item for request in padded])
            outputs = decode_batch(
                self.config,
                max_new,
                candidates,
                self.params,
                jax.vmap(lambda item: jax.random.fold_in(jax.random.key(seed), item))(items),
                prompts,
                np.array([len(request.prompt) for request in padded], np.int32),
                np.array([request.max_new for request in padded], np.int32),
                tables,
                sampling,
            )
            outputs = jax.tree.map(np.asarray, outputs)
            for row, i in enumerate(chosen):
                count = outputs["count"][row]
                results[i] = LMResult(
                    ids=outputs["ids"][row, :count],
                    log_probs=outputs["log_probs"][row, :count],
                    ended=bool(outputs["ended"][row]),
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

    def _top_k(self, config: SamplingConfig) -> int:
        """The number of ids to sample from."""
        return min(config.top_k or self.vocabulary.size, self.vocabulary.size)


def _round_up(value: int) -> int:
    return -(-value // CHUNK) * CHUNK
