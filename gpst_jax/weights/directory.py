"""Exports a model to a new directory, atomically.

`safetensors` and `hf` hold tensors and a `config.json`, `params` a parameters-only checkpoint; all
of them hold the dataset contract, the tokenizers and a model card.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.tokenizers.storage import load_tokenizer
from data_pipeline.tokenizers.text import load_text_tokenizer
from gpst_jax.checkpoints.manager import Checkpoints
from gpst_jax.checkpoints.storage import storing
from gpst_jax.config import ConfigError
from gpst_jax.weights import loading, model_card, shards
from gpst_jax.weights.layouts import get_family
from gpst_jax.weights.safetensors_source import CONFIG_FILE, SECTION, VERSION
from gpst_jax.weights.shards import ShardWriter
from gpst_jax.weights.sources import (
    DATASET_DIRECTORY,
    EVALUATION_FILE,
    Description,
    Source,
    read_whole,
)

FORMATS = ("safetensors", "hf", "params")
CARD_FILE = "README.md"
# Parts of an evaluation's results that are exported: none of them names a path or a machine.
_RESULTS = ("modes", "ceilings", "floors", "differences", "recipes")


def export(
    source: Source,
    output: str | os.PathLike[str],
    format: str,
    *,
    dtype: str = "float32",
    shard_bytes: int = shards.SHARD_BYTES,
    results: dict[str, Any] | None = None,
    tokenizers: Path | None = None,
    licence: str = model_card.NO_LICENCE,
) -> dict[str, Any]:
    """Exports a model.

    Args:
        source: the model.
        output: directory; it must not exist yet.
        format: one of FORMATS.
        dtype: of the tensors; `params` are always float32.
        shard_bytes: largest file of tensors; pieces of up to a quarter of it are held in memory.
        results: of experiments.evaluate, for the model card; None: those of the source.
        tokenizers: directory of dataset.json and the tokenizers, where the source's own are gone.
        licence: of the weights, as an SPDX identifier.

    Returns:
        `output`, `format`, `parameters`, `bytes`, `files`.

    Raises:
        UserError: the directory exists, or the tokenizers are not those of the model.
        ConfigError: the model family cannot be exported in this format.
        CheckpointError: an array is corrupt or not finite.
        StorageError: writing failed.
    """
    output = Path(output)
    if format not in FORMATS:
        raise UserError(f"--format={format}: choose one of {', '.join(FORMATS)}")
    if output.exists():
        raise UserError(f"{output} exists: name another --output or remove it")
    results = source.evaluation if results is None else {key: results[key] for key in _RESULTS}
    partial = output.with_name(f".{output.name}.part")
    with storing(output):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        if format == "params":
            _write_checkpoint(source, partial)
        else:
            _write_tensors(source, partial, format, dtype, shard_bytes)
        inner = partial / DATASET_DIRECTORY if format == "params" else partial
        _copy_dataset(source, inner, tokenizers)
        if results is not None:
            write_json(partial / EVALUATION_FILE, results)
        parameters = sum(leaf.size for leaf in source.shapes().values())
        card = model_card.render(source.description, parameters, format, results, licence)
        write_text(partial / CARD_FILE, card)
        with storing(output):
            partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    return {
        "output": str(output),
        "format": format,
        "parameters": parameters,
        "bytes": sum(path.stat().st_size for path in files),
        "files": len(files),
    }


def _write_tensors(
    source: Source, directory: Path, format: str, dtype: str, shard_bytes: int
) -> None:
    about = source.description
    family = get_family(about.config.model)
    if format == "hf" and family.architecture is None:
        pattern = getattr(about.config.model, "pattern", None)
        of = f" with model.pattern {pattern!r}" if pattern else ""
        raise ConfigError(
            f"--format=hf: there is no torch class for {family.name!r}{of}; use safetensors"
        )
    tensors = family.tensors(source.shapes())
    by_path: dict[str, list[Any]] = {}
    for tensor in tensors:
        by_path.setdefault(tensor.path, []).append(tensor)
    with ShardWriter(directory, tensors, dtype, shard_bytes) as writer:
        for path, group in by_path.items():
            if group[0].layer is None:
                writer.write(group[0], read_whole(source, path, shard_bytes // 4))
                continue
            for first, rows in source.stream(path, shard_bytes // 4):
                for tensor, row in zip(group[first:], rows, strict=False):
                    writer.write(tensor, row)
    config: dict[str, Any] = {"model_type": family.model_type, "dtype": dtype}
    if format == "hf":
        config = {"architectures": [family.architecture]} | config
    config |= family.config(about.config, about.dataset, source.shapes())
    write_json(directory / CONFIG_FILE, config | {SECTION: _section(about)})


def _section(about: Description) -> dict[str, Any]:
    """The section of config.json that `SafetensorsSource` reads back."""
    return {
        "version": VERSION,
        "family": about.family,
        "step": about.step,
        "weights": about.weights,
        "code_version": about.code_version,
        "jax_version": about.jax_version,
        "run": json.loads(about.portable_config().to_json()),
    }


def _write_checkpoint(source: Source, directory: Path) -> None:
    about = source.description
    about = dataclasses.replace(about, config=about.portable_config())
    save_params(directory, loading.load(source).params, about)


def save_params(directory: Path, params: Any, about: Description) -> None:
    """Writes a parameters-only checkpoint, which can be sampled and fine-tuned like a run's.

    Args:
        directory: `checkpoints/<step>` is written below it.
        params: nested dict of jax arrays.
        about: their description.
    """
    record = {
        "config": json.loads(about.config.to_json()),
        "family": about.family,
        "dataset": about.dataset,
        "dataset_fingerprint": about.dataset["fingerprint"],
        "code_version": about.code_version,
        "jax_version": about.jax_version,
        "weights": about.weights,
        "step": about.step,
    }
    checkpoints = Checkpoints(directory)
    try:
        checkpoints.save(about.step, {"params": params}, record)
    finally:
        checkpoints.close()


def _copy_dataset(source: Source, target: Path, tokenizers: Path | None) -> None:
    """Writes dataset.json and copies its tokenizers, checked against the model's sha256."""
    found = tokenizers or source.files
    spec = source.description.spec()
    if found is None:
        raise UserError(
            f"the run's dataset {source.description.config.data.path!r} is gone: name a directory "
            f"with its {SPEC_FILE} and tokenizers by --tokenizers"
        )
    target.mkdir(parents=True, exist_ok=True)
    spec.save(target)
    for part in (getattr(spec, field.name) for field in dataclasses.fields(spec)):
        if not hasattr(part, "path"):
            continue
        stored = _sha256(found / part.path)
        if stored != part.sha256:
            raise UserError(
                f"{found / part.path}: its sha256 is {stored}, the model was trained with "
                f"{part.sha256} ({part.id})"
            )
        with storing(target):
            shutil.copytree(found / part.path, target / part.path, dirs_exist_ok=True)


def _sha256(directory: Path) -> str:
    """The digest that identifies a tokenizer: its seal, or of a text tokenizer its file's."""
    if (directory / CONFIG_FILE).is_file():
        return load_tokenizer(directory).sha256
    return load_text_tokenizer(directory).sha256
