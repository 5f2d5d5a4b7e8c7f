"""The language model that decides what is said, checked against the model that says it."""

from pathlib import Path
from typing import Any

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.generation.lm_tasks import SemanticTasks

Language = tuple[Loaded, str | Path]  # a loaded checkpoint and the directory of its sequences


def semantic_tasks(
    language: Language, spec: DatasetSpec, dataset_dir: str | Path, **options: Any
) -> SemanticTasks:
    """The tasks of a language model whose units a second model renders.

    Args:
        language: the language model.
        spec: contract of the second model's tokens.
        dataset_dir: where it stands, for messages.
        options: of `SemanticTasks`.

    Raises:
        UserError: the two were trained on units of different tokenizers.
    """
    model, directory = language
    tasks = SemanticTasks(model, directory, **options)
    ours, theirs = spec.semantic.sha256, tasks.spec.semantic.sha256
    if ours != theirs:
        raise UserError(
            f"{dataset_dir}: its semantic tokenizer has sha256 {ours}, that of the language model "
            f"{theirs}: both stages must be trained on the same units"
        )
    return tasks
