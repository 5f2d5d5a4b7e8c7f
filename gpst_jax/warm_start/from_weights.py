"""Warm start from `train.init_from`: a run, an exported model, or Llama.

Where the number of units differs, the embedding and output rows of text and markers, which come
first, are kept and those of the units are newly initialised. From Llama the text rows are kept.
A semantic language model with another text tokenizer is refused.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.datasets.cache import local_folder
from gpst_jax.config import ConfigError, GPSTConfig, RunConfig, SemanticLMConfig
from gpst_jax.objectives import Objective
from gpst_jax.warm_start.arrays import Initial, Replace, from_source
from gpst_jax.warm_start.llama import global_net
from gpst_jax.weights import llama, loading
from gpst_jax.weights.sources import Source

_VOCABULARY_AXIS = {"embed/embedding": 0, "head/kernel": 1}


def initial_params(
    path: str | os.PathLike[str], config: RunConfig, objective: Objective, spec: Any
) -> Initial:
    """An `initial` for `training.loop.train`: the parameters of the model in a directory.

    Nothing is read before it is called, so a run that resumes from its own checkpoint does not
    need the directory any more.

    Args:
        path: of a run (the newest checkpoint, its EMA where one was kept), of an exported model,
            or of Llama in transformers' layout. Llama initialises a semantic language model, or
            the global transformer of GPST, see `llama.global_net`.
        config: of the new run.
        objective: of the new run.
        spec: of its dataset.

    Returns:
        A function of the shapes and shardings. It raises UserError where the directory cannot be
        used, CheckpointError where a checkpoint is missing, corrupt or of another model, and
        ConfigError where the architecture or the text tokenizer differs.
    """
    return lambda abstract: _initial(path, config, objective, spec)(abstract)


def _initial(path: Any, config: RunConfig, objective: Objective, spec: Any) -> Initial:
    seed = config.train.seed
    if not loading.is_run(path):
        path = local_folder(os.fspath(path))
    if llama.is_llama(path):
        text = llama.LlamaSource(path)
        if isinstance(config.model, GPSTConfig):
            return global_net(text, lambda abstract: _draw(objective, abstract, seed))
        text.check_model(config.model_as(SemanticLMConfig))
        # The table may be padded beyond the tokenizer's ids, and the tokenizer may have added ids.
        kept = min(text.vocab_size, spec.vocabulary.text_size)
        return from_source(text, _keep_rows(kept, seed))
    source = loading.open_source(path)
    if not isinstance(config.model, SemanticLMConfig):
        return from_source(source)
    _check_text(source, spec, path)
    return from_source(source, _keep_rows(spec.vocabulary.unit_start, seed))


def _keep_rows(kept: int, seed: int) -> Replace:
    """Keeps the first `kept` rows of a vocabulary axis and initialises the others anew."""

    def replace(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        axis = _VOCABULARY_AXIS.get(path)
        if array.shape == shape:
            return array
        if axis is None:
            raise ConfigError(
                f"config field model.net: {path} is {array.shape} in the model to start from, "
                f"{shape} in this one"
            )
        table = jnp.asarray(np.moveaxis(array, axis, 0)[:kept])
        key = jax.random.fold_in(jax.random.key(seed), axis)
        new = _new_rows(table, shape[axis] - kept, key)
        return np.moveaxis(np.concatenate([table, new]), 0, axis)

    return replace


def _new_rows(table: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Rows (count, D) of new ids: normal around the mean of a table (V, D).

    The standard deviation is a tenth of each column's, so that no new id is likely at first.
    """
    noise = jax.random.normal(key, (count, table.shape[1]), table.dtype)
    return table.mean(axis=0, keepdims=True) + 0.1 * table.std(axis=0, keepdims=True) * noise


def _check_text(source: Source, spec: Any, path: Any) -> None:
    old, new = source.description.dataset, spec.text_tokenizer
    text = old.get("text_tokenizer")
    found = text.get("sha256") if isinstance(text, dict) else None
    if found != new.sha256:
        raise ConfigError(
            f"config field train.init_from: the text tokenizer of {path} is "
            f"{text and text['id']} ({found}), the dataset's text tokenizer is {new.id} "
            f"({new.sha256})"
        )


def _draw(objective: Objective, abstract: Any, seed: int) -> Any:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(objective.init, out_shardings=shardings)(jax.random.key(seed))
