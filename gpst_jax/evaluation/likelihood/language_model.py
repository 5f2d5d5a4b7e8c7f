"""Likelihoods under the semantic language model: of its sequences, or of an utterance's units.

An utterance is a sequence of pretraining, `[prefix] speech_start UNITS speech_end end` (see
`data_pipeline.sequences.templates`): its units, and the markers around them.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.loading.sequence_rows import build_sequence_row
from data_pipeline.runtime.contents import digest
from data_pipeline.sequences.templates import Example, Template
from data_pipeline.tokenizers.text import load_text_tokenizer
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import SemanticLMConfig
from gpst_jax.evaluation.likelihood.scorer import Batch, Scorer, Shape, Sums, padded, sum_by_row
from gpst_jax.models import semantic_lm

Sequence = tuple[np.ndarray, np.ndarray]  # ids (n,) and loss mask (n,), see `SequenceRecord`


class LanguageModelScorer(Scorer[Sequence]):
    """A loaded language model; streams are `units`, and `text` with all markers.

    Args:
        loaded: the model.
        directory: that the paths of its text tokenizer are relative to.
    """

    streams = ("units", "text")

    def __init__(self, loaded: Loaded, directory: str | Path):
        self.config = loaded.config.model_as(SemanticLMConfig)
        self.spec = SequenceSpec.parse(loaded.dataset, "the checkpoint")
        self._directory = Path(directory)
        super().__init__(
            loaded.params,
            {
                "model": dataclasses.asdict(self.config),
                "vocabulary": self.spec.vocabulary.to_json(),
                "text_tokenizer": self.spec.text_tokenizer.sha256,
            },
        )

    @functools.cached_property
    def _template(self) -> Template:
        tokenizer = load_text_tokenizer(self._directory / self.spec.text_tokenizer.path)
        return Template(self.spec.vocabulary, tokenizer, self.spec.system)

    def sequence(self, units: np.ndarray) -> Sequence:
        """The sequence of an utterance of units (S,), S > 0.

        Raises:
            ValueError: there are none, or one is out of range.
            UserError: the text tokenizer is not there.
        """
        built = self._template.build(Example(answer_units=tuple(units.tolist())))
        return built.ids, built.loss_mask("all")

    def digest(self, item: Sequence) -> str:
        """A digest of ids and loss mask."""
        ids, mask = np.ascontiguousarray(item[0], "<i4"), np.ascontiguousarray(item[1], np.uint8)
        return digest(f"{ids.shape}".encode() + ids.tobytes() + mask.tobytes())

    def refusal(self, item: Sequence) -> str | None:
        """Every sequence can be scored."""
        return None

    def shape(self, item: Sequence) -> Shape:
        """Padded number of ids."""
        return (padded(len(item[0])),)

    def row(self, item: Sequence | None, shape: Shape) -> dict[str, np.ndarray]:
        """A row of the arrangement "sequences", of one sequence or none."""
        return build_sequence_row(self.spec.vocabulary, shape[0], [] if item is None else [item])

    def _sums(self, params: Any, batch: Batch) -> Sums:
        model = semantic_lm.bind(self.config, params)
        hidden = model.hidden(batch["tokens"], batch["positions"], batch["segment_ids"])
        targets, first = batch["targets"], self.spec.vocabulary.unit_start
        units = (targets >= first) & (targets < first + self.spec.vocabulary.num_units)
        mask = jnp.stack([units, (targets >= 0) & ~units], axis=-1)
        nats, counts = sum_by_row(hidden, model.output_kernel(), targets, mask), mask.sum(axis=1)
        return {name: (nats[:, i], counts[:, i]) for i, name in enumerate(self.streams)}
