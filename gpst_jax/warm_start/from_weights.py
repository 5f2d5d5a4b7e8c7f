"""What `train.init_from` names: a run, an exported model, or Llama.

Where another number of units makes a vocabulary of another size, the rows of text and markers are
kept, since they come first, and those of the units are drawn. Of Llama the rows of the text are
kept. From another text tokenizer nothing can be kept, and it is refused.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpst_jax.config import ConfigError, GPSTConfig, RunConfig, SemanticLMConfig
from gpst_jax.models import semantic_lm
from gpst_jax.objectives import Objective
from gpst_jax.warm_start.arrays import Initial, Replace, from_source
from gpst_jax.warm_start.llama import global_net
from gpst_jax.weights import llama, loading
from gpst_jax.weights.sources import Source

_VOCABULARY_AXIS = {"embed/embedding": 0, "head/kernel": 1}


def initial_params(
    path: str | os.PathLike[str], config: RunConfig, objective: Objective, spec: Any
) -> Initial:
    """An `initial` for `train.train`: the parameters of the model in a directory.

    Nothing is read before it is called, so that a run that goes on from a checkpoint of its own
    does not need the directory any more.

    Args:
        path: of a run (its newest checkpoint, averaged where an average was kept), of an exported
            model, or of Llama in transformers' layout. Llama begins a semantic language model, or
            the global transformer of GPST, see `llama.global_net`.
        config: of the new run.
        objective: its model.
        spec: of its dataset.

    Returns:
        A function of the shapes and shardings. It raises UserError where what is there cannot be
        used, CheckpointError where a checkpoint is missing or damaged or of another model, and
        ConfigError where the model is built otherwise, or its text is of another tokenizer.
    """
    return lambda abstract: _initial(path, config, objective, spec)(abstract)


def _initial(path: Any, config: RunConfig, objective: Objective, spec: Any) -> Initial:
    seed = config.train.seed
    if llama.is_llama(path):
        text = llama.LlamaSource(path)
        if isinstance(config.model, GPSTConfig):
            return global_net(text, lambda abstract: _draw(objective, abstract, seed))
        text.check_model(config.model_as(SemanticLMConfig))
        # Tables are often longer than their tokenizer has ids, and tokenizers get ids of their own.
        kept = min(text.vocab_size, spec.vocabulary.text_size)
        return from_source(text, _keep_rows(kept, seed))
    source = loading.open_source(path)
    if not isinstance(config.model, SemanticLMConfig):
        return from_source(source)
    _check_text(source, spec, path)
    return from_source(source, _keep_rows(spec.vocabulary.unit_start, seed))


def _keep_rows(kept: int, seed: int) -> Replace:
    """The first `kept` ids of a table as they are, the others drawn anew."""

    def replace(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        axis = _VOCABULARY_AXIS.get(path)
        if array.shape == shape:
            return array
        if axis is None:
            raise ConfigError(
                f"config field model.net: {path} is {array.shape} in the model to begin with, "
                f"{shape} in this one"
            )
        table = jnp.asarray(np.moveaxis(array, axis, 0)[:kept])
        key = jax.random.fold_in(jax.random.key(seed), axis)
        new = semantic_lm.new_rows(table, shape[axis] - kept, key)
        return np.moveaxis(np.concatenate([table, new]), 0, axis)

    return replace


def _check_text(source: Source, spec: Any, path: Any) -> None:
    old, new = source.description.dataset, spec.text_tokenizer
    text = old.get("text_tokenizer")
    found = text.get("sha256") if isinstance(text, dict) else None
    if found != new.sha256:
        raise ConfigError(
            f"config field train.init_from: the text of {path} has the tokenizer "
            f"{text and text['id']} ({found}), the dataset's is {new.id} ({new.sha256})"
        )


def _draw(objective: Objective, abstract: Any, seed: int) -> Any:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(objective.init, out_shardings=shardings)(jax.random.key(seed))
