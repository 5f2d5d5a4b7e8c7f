"""Fine-tuning: the run config derived from a checkpoint, and the merging of trained adapters.

The training loop is that of pretraining. Only the initial parameters differ (`warm_start`) and,
with adapters, the objective (`objectives.lora`).
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipeline.datasets.cache import local_folder
from data_pipeline.datasets.kinds import Spec
from data_pipeline.runtime.buckets import access
from data_pipeline.runtime.contents import digest, file_digest, file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.checkpoints.record import code_version
from gpst_jax.config import MeshConfig, RunConfig
from gpst_jax.models import lora
from gpst_jax.models.lora import ADAPTERS, BASE, LoraConfig, init_adapters
from gpst_jax.objectives import Objective
from gpst_jax.parallel.sharding import path_string
from gpst_jax.warm_start.arrays import Initial
from gpst_jax.weights import peft
from gpst_jax.weights.directory import save_params
from gpst_jax.weights.safetensors_source import read_json
from gpst_jax.weights.sources import Description, OrbaxSource, Source

SETTINGS_FILE = "finetune.json"
# Full fine-tuning should stay near the pretrained weights: a tenth of the learning rate.
_FULL_RATE, _ADAPTER_RATE = 0.1, 1e-3


def make_config(
    about: Description,
    dataset: str,
    *,
    steps: int,
    adapters: bool,
    learning_rate: float | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """The config of a fine-tuning run; fields not set here are those of pretraining.

    Args:
        about: the model.
        dataset: directory of token shards.
        steps: optimiser steps.
        adapters: whether only adapters are trained, then with AdamW.
        learning_rate: of AdamW; None: a tenth of the checkpoint's, or 1e-3 for adapters. Muon's
            is scaled by the same factor.
        overrides: `section.field=value` strings, applied last.

    Raises:
        ConfigError: an override is invalid.
    """
    config = about.config
    optimizer = config.optimizer
    if learning_rate is None:
        learning_rate = _ADAPTER_RATE if adapters else _FULL_RATE * optimizer.learning_rate
    factor = learning_rate / optimizer.learning_rate
    return dataclasses.replace(
        config,
        name=f"{config.name}_finetuned",
        data=dataclasses.replace(config.data, path=dataset),
        optimizer=dataclasses.replace(
            optimizer,
            name="adamw" if adapters else optimizer.name,
            learning_rate=learning_rate,
            muon_learning_rate=factor * optimizer.muon_learning_rate,
            schedule="cosine",
            warmup_steps=max(1, min(optimizer.warmup_steps, steps // 10)),
        ),
        train=dataclasses.replace(
            config.train,
            steps=steps,
            eval_every=max(1, steps // 4),
            preview_every=0,
            ema_decay=0.0,
            checkpoint_every_steps=steps,
            keep_latest=1,
            keep_every=0,
            keep_best=0,
        ),
        mesh=MeshConfig(),  # of this machine, not of pretraining
    ).override(list(overrides))


def check_tokenizers(about: Description, spec: Spec) -> None:
    """Raises UserError unless the tokenizers are those of pretraining."""
    before = about.spec().tokenizers()
    for name, value in spec.tokenizers().items():
        if not isinstance(value, dict) or "sha256" not in value:
            continue
        known = before.get(name) or {}
        if known.get("sha256") != value["sha256"]:
            raise UserError(
                f"the dataset's {name} is {value['id']} ({value['sha256']}), the model was trained "
                f"with {known.get('id')} ({known.get('sha256')}): tokenise with the model's own, "
                "or pass --vocabulary=extend or --vocabulary=replace"
            )


def contents_of(source: Source, directory: str | Path) -> str:
    """A digest of a model's values: of its recorded checksums, else of its files of tensors.

    Args:
        source: the model.
        directory: that it was opened from.
    """
    if isinstance(source, OrbaxSource):
        return digest(json.dumps(source.checksums, sort_keys=True).encode())
    files = sorted(Path(local_folder(str(directory))).glob("*.safetensors"))
    return digest("".join(file_digest(str(path), file_state(path)) for path in files).encode())


def check_settings(workdir: Any, settings: dict[str, Any]) -> None:
    """Stores the settings of a new workdir; raises UserError where it was started with others.

    Workdirs of older versions do not say what the checkpoint held.

    Args:
        workdir: a path, or in a bucket one of the same methods, see `buckets.location`.
        settings: JSON values.
    """
    path = workdir / SETTINGS_FILE
    with access(path):
        before = read_json(path) if path.exists() else None
    if before is not None:
        before.setdefault("checkpoint_contents", settings.get("checkpoint_contents"))
        changed = sorted(k for k in before.keys() | settings if before.get(k) != settings.get(k))
        if changed:
            name = changed[0]
            raise UserError(
                f"{workdir}: started with {name}={before.get(name)!r}, now {settings.get(name)!r}; "
                "use the same value or another --workdir"
            )
    write_json(path, settings)


def finish_adapters(
    run: Any, source: Source, config: LoraConfig, merged: Path, apart: Path
) -> None:
    """Writes the adapters of a finished run twice: merged into the base, and on their own.

    Args:
        run: workdir of the run, here or in a bucket.
        source: the base.
        config: of the adapters.
        merged: directory for a parameters-only checkpoint, usable like that of a run.
        apart: directory for the adapters in PEFT's layout, see `weights.peft`.
    """
    loaded = load_params(run)
    about = dataclasses.replace(
        source.description,
        config=loaded.config,
        dataset=loaded.dataset,
        step=loaded.step,
        weights=f"adapters of rank {config.rank} added",
        code_version=code_version(),
        jax_version=jax.__version__,
    )
    base, adapters = loaded.params[BASE], loaded.params[ADAPTERS]
    leaves = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(base)}
    shapes = {p: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for p, leaf in leaves.items()}
    trained = {path: np.asarray(leaf) for path, leaf in leaves.items() if config.trains(path)}
    peft.write_adapters(apart, peft.flat(adapters), trained, shapes, config, about)
    # Atomic, also where an earlier call has written one.
    temporary = merged.with_name(f".{merged.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    save_params(temporary, lora.merged_params(loaded.params, config), about)
    shutil.rmtree(merged, ignore_errors=True)
    temporary.replace(merged)


def count(shapes: Any) -> int:
    """Number of parameters in a tree of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def count_trainable(objective: Objective, shapes: Any) -> int:
    """Number of trainable parameters."""
    return sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(shapes)
        if objective.trainable(path_string(path))
    )


def as_json(lora_config: LoraConfig | None) -> Any:
    """The adapters' config as JSON values; None without adapters."""
    if lora_config is None:
        return None
    return json.loads(json.dumps(dataclasses.asdict(lora_config)))


def with_adapters(base: Initial, config: LoraConfig, seed: int) -> Initial:
    """`base` with newly initialised adapters, for a `LoraObjective`."""

    def initial(abstract: Any) -> Any:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract[ADAPTERS])
        draw = jax.jit(
            lambda: init_adapters(abstract[BASE], config, jax.random.key(seed)),
            out_shardings=shardings,
        )
        return {BASE: base(abstract[BASE]), ADAPTERS: draw()}

    return initial
