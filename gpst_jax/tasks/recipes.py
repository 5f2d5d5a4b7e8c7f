"""Which recipes of word errors score a task: those of its source where they are at hand."""

import os

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import whisper_weights
from gpst_jax.evaluation.metrics import hf_models
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE, RECIPES, default_recipes
from gpst_jax.evaluation.transcripts.whisper_recipes import WhisperMeasurement

_HUB_MODELS = {hf_models.HUBERT_CTC_VARIABLE: hf_models.HUBERT_CTC}


def choose(wanted: tuple[str, ...], digits: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The recipes that score a task when the user names none; nothing is downloaded.

    Args:
        wanted: ids of the task's source, the main one first.
        digits: whether the texts are digit strings, which a small grammar recognises.

    Returns:
        Ids, and a line on each that is left out. Where none of the wanted is at hand, the recipes
        are those of any samples.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    for name in wanted:
        if reason := _lacking(name):
            left_out.append(f"{name}, the recipe of the task's source, is left out: {reason}")
        else:
            chosen.append(name)
    if chosen:
        return tuple(chosen), tuple(left_out)
    default, more = default_recipes()
    others = tuple(name for name in default if digits or name != DIGITS_RECIPE)
    return others or default, (*left_out, *more)


def _lacking(name: str) -> str:
    """What a recipe lacks on this machine; empty where it can be scored."""
    recipe = RECIPES.get(name)
    if not isinstance(recipe, TranscriptRecipe):
        return "this version does not have it"
    try:
        if isinstance(recipe.measurement, WhisperMeasurement):
            # First: without them the check below would fetch them.
            whisper_weights.find(recipe.measurement.name, download=False)
        recipe.measurement.check()
    except UserError as error:
        return str(error)
    variable = recipe.measurement.directory_variable
    model = _HUB_MODELS.get(variable)
    if model is not None and not os.environ.get(variable) and not _in_cache(model):
        return f"name the directory of {model} with {variable}"
    return ""


def _in_cache(model: str) -> bool:
    """Whether the hub's cache on this machine holds a model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "config.json"), str)
