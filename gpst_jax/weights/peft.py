"""Reads and writes LoRA adapters in PEFT's layout, and merges them into their base.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. Names are those of the
exported tensors; A is (rank, in) and B (out, rank), one pair per layer.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.checkpoints.storage import storing
from gpst_jax.models.lora import LoraConfig
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.layouts import get_family
from gpst_jax.weights.safetensors_source import TensorFiles, read_json, refuse_pickles
from gpst_jax.weights.sources import Description, Shapes, Source
from gpst_jax.weights.tensors import Family, Tensor

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def write_adapters(
    directory: Path,
    adapters: Mapping[str, np.ndarray],
    trained: Mapping[str, np.ndarray],
    shapes: Shapes,
    config: LoraConfig,
    about: Description,
) -> None:
    """Writes adapters.

    Args:
        directory: created if missing.
        adapters: arrays by path of the adapted kernel followed by `/a` or `/b`.
        trained: arrays of the base that were fully trained, by path.
        shapes: of the base.
        config: of the adapters.
        about: description of the base.
    """
    tensors: dict[str, np.ndarray] = {}
    matrices = sorted({path.rpartition("/")[0] for path in adapters})
    family = get_family(about.config.model)
    modules = []
    for path in matrices:
        for tensor in _tensors(family, path, shapes):
            module = tensor.name.removesuffix(".weight")
            modules.append(module)
            for part, name in (("a", "lora_A"), ("b", "lora_B")):
                array = _layer(adapters[f"{path}/{part}"], tensor.layer).swapaxes(-1, -2)
                tensors[f"{_PREFIX}{module}.{name}.weight"] = np.ascontiguousarray(array)
    for path, array in trained.items():
        for tensor in _tensors(family, path, shapes):
            value = _layer(array, tensor.layer)
            value = value.swapaxes(-1, -2) if tensor.transposed else value
            tensors[_PREFIX + tensor.name] = np.ascontiguousarray(value)
    saved = [t.name.rpartition(".")[0] for path in trained for t in _tensors(family, path, shapes)]
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": about.config.name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(modules),
        "modules_to_save": sorted(set(saved)) or None,
    }
    with storing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(tensors, directory / WEIGHTS_FILE, {"format": "pt"})
    write_json(directory / CONFIG_FILE, settings)


class AdaptedSource:
    """A model with LoRA adapters merged into its kernels while they are read.

    Args:
        base: the model.
        directory: written by `write_adapters`, or by PEFT for the exported torch model.

    Raises:
        UserError: tensors are missing, unexpected, misshapen or not finite; the message names
            them.
    """

    def __init__(self, base: Source, directory: str | Path):
        self._base = base
        settings, shapes = _read_settings(Path(directory)), base.shapes()
        self._scale = settings["lora_alpha"] / settings["r"]
        family = get_family(base.description.config.model)
        by_module = {t.name.removesuffix(".weight"): t for t in family.tensors(shapes)}
        files = TensorFiles(Path(directory), WEIGHTS_FILE)
        wanted = _modules(directory, by_module, settings["target_modules"])
        self._whole = _modules(directory, by_module, settings.get("modules_to_save") or [])
        expected: dict[str, tuple[int, ...]] = {}
        self._parts: dict[tuple[str, int | None], tuple[np.ndarray, np.ndarray]] = {}
        self._replaced: dict[tuple[str, int | None], np.ndarray] = {}
        for module in wanted:
            *batch, rows, columns = by_module[module].shape  # (out, in)
            expected[f"{_PREFIX}{module}.lora_A.weight"] = (*batch, settings["r"], columns)
            expected[f"{_PREFIX}{module}.lora_B.weight"] = (*batch, rows, settings["r"])
        for module in self._whole:
            expected[f"{_PREFIX}{module}.weight"] = by_module[module].shape
        files.check(expected)
        for module in wanted:
            tensor = by_module[module]
            a, b = (files.read(f"{_PREFIX}{module}.lora_{n}.weight").swapaxes(-1, -2) for n in "AB")
            self._parts[tensor.path, tensor.layer] = (a, b)
        for module in self._whole:
            tensor = by_module[module]
            value = files.read(f"{_PREFIX}{module}.weight")
            value = value.swapaxes(-1, -2) if tensor.transposed else value
            self._replaced[tensor.path, tensor.layer] = value
        files.close()
        self._stacked = {t.path for t in by_module.values() if t.layer is not None}
        weights = f"{base.description.weights}, adapters of rank {settings['r']} added"
        self.description = dataclasses.replace(base.description, weights=weights)
        self.files, self.evaluation = base.files, None

    def shapes(self) -> Shapes:
        """Those of the base."""
        return self._base.shapes()

    def stream(self, path: str, budget: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `sources.Source`."""
        if path not in self._stacked:
            budget = max(budget, self.shapes()[path].size * 4)  # the complete kernel at once
        for first, rows in self._base.stream(path, budget):
            if path not in self._stacked:
                yield first, self._adapt(path, None, rows)
                continue
            yield (
                first,
                np.stack([self._adapt(path, first + i, row) for i, row in enumerate(rows)]),
            )

    def _adapt(self, path: str, layer: int | None, value: np.ndarray) -> np.ndarray:
        if (path, layer) in self._replaced:
            return self._replaced[path, layer].astype(value.dtype)
        if (path, layer) not in self._parts:
            return value
        a, b = self._parts[path, layer]
        return value + (np.float32(self._scale) * (a @ b)).astype(value.dtype)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by path."""
    return {path_string(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def _modules(directory: str | Path, known: Mapping[str, Any], names: list[str]) -> list[str]:
    """Modules that match the names: complete names or suffixes, as PEFT allows."""
    found: list[str] = []
    for name in names:
        matches = [module for module in known if module == name or module.endswith(f".{name}")]
        if not matches:
            raise UserError(f"{directory}: the base has no module {name}")
        found += matches
    return sorted(set(found))


def _tensors(family: Family, path: str, shapes: Shapes) -> list[Tensor]:
    return family.tensors({path: shapes[path]})


def _layer(array: np.ndarray, layer: int | None) -> np.ndarray:
    return array if layer is None else array[layer]


def _read_settings(directory: Path) -> dict[str, Any]:
    refuse_pickles(directory)
    path = directory / CONFIG_FILE
    settings = read_json(path)
    supported = (
        settings.get("peft_type") == "LORA"
        and isinstance(settings.get("r"), int)
        and isinstance(settings.get("lora_alpha"), int | float)
        and isinstance(settings.get("target_modules"), list)
        and settings.get("bias", "none") == "none"
        and not settings.get("use_dora")
        and not settings.get("use_rslora")
    )
    if not supported:
        raise UserError(
            f"{path}: only plain LoRA with a list of target_modules is supported: check the keys "
            "peft_type, r, lora_alpha, target_modules, bias, use_dora and use_rslora"
        )
    return settings
