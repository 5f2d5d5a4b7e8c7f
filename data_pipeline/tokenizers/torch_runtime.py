"""PyTorch for pretrained tokenizers: imported lazily, deterministic, without gradients."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError

DTYPES = ("float32", "bfloat16")


def import_torch() -> Any:
    """Imports `torch`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(_needs("torch", error)) from error
    return torch


def import_transformers() -> Any:
    """Imports `transformers`, with its progress bars and warnings turned off.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(_needs("transformers", error)) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def load_model(class_name: str, directory: Path, dtype: str) -> Any:
    """Loads a transformers model from a local directory, in evaluation mode on `device()`.

    Raises:
        UserError: a library is missing, or the directory holds another kind of model or lacks
            weights.
    """
    torch, transformers = import_torch(), import_transformers()
    try:
        model, report = getattr(transformers, class_name).from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{directory} cannot be loaded as {class_name}: {message}") from error
    # Unused heads are ignored; the mask embedding is only used in training.
    missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} weights of {class_name} are missing, the first is "
            f"{missing[0]}: this is another kind of model"
        )
    return model.eval().requires_grad_(False).to(device())


def device() -> str:
    """`cuda` if there is a GPU, else `cpu`; hide GPUs with CUDA_VISIBLE_DEVICES=''."""
    return "cuda" if import_torch().cuda.is_available() else "cpu"


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Inference mode without TF32, and with deterministic cuDNN algorithms."""
    torch = import_torch()
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
    ):
        yield


def _needs(package: str, error: ImportError) -> str:
    return f"pretrained tokenizers need {package} ({error}): pip install 'gpst_jax[codecs]'"
