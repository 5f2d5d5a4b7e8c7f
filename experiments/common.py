"""Loads run configurations: those of `experiments/configs`, or a user's own.

A configuration is a Python file or a module whose `get_config()` returns a `RunConfig`; it is named
by `FILE` or `MODULE`, or by `FILE:ARGUMENT`, which calls `get_config("ARGUMENT")`. To be
compiled without a dataset, it also defines `get_layout()`, which returns the `TokenLayout` of its
tokens (GPST), or `get_objective(config)`, which returns its objective (any other family).
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from data_pipeline.datasets.kinds import Spec
from data_pipeline.loading.loader import Loader
from data_pipeline.loading.mixture import load_spec
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from gpst_jax.config import GPSTConfig, RunConfig
from gpst_jax.objectives import GPSTObjective, Objective, make_objective

_ROOT = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"(.*?\.py|[^:]*)(?::(.*))?", re.DOTALL)


def load_config(name: str, flag: str = "config") -> RunConfig:
    """The run that `get_config()` of a Python file or an importable module returns.

    Args:
        name: of the file or module, with an argument of `get_config` after a colon if it takes one.
        flag: that has this value, for messages.

    Raises:
        UserError: there is no such file or module, it does not define a run, or an argument is
            missing or not expected.
    """
    module = _load_module(name, flag)
    config = _call(module.get_config, name, flag) if hasattr(module, "get_config") else None
    if not isinstance(config, RunConfig):
        raise UserError(f"--{flag}={name}: needs a function get_config() -> RunConfig")
    return config


def _call(get_config: Callable[..., Any], name: str, flag: str) -> Any:
    file, argument = _split(name)
    taken = [
        parameter
        for parameter in inspect.signature(get_config).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if argument is not None:
        if not taken:
            raise UserError(
                f"--{flag}={name}: get_config() takes no argument, and {argument!r} is one: "
                f"give --{flag}={file}"
            )
        return get_config(argument)
    for parameter in taken:
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            raise UserError(
                f"--{flag}={name}: get_config({parameter.name}) needs an argument: "
                f"give --{flag}={name}:{parameter.name.upper()}"
            )
    return get_config()


def _split(name: str) -> tuple[str, str | None]:
    """File or module, and the argument after a colon if there is one."""
    match = _NAME.fullmatch(name)
    assert match is not None  # it fits any text
    return match[1], match[2]


def load_layout(name: str, config: RunConfig) -> TokenLayout:
    """The token layout of the run's dataset; without one, of the configuration's `get_layout()`.

    Raises:
        UserError: there is neither.
    """
    if config.data.path:
        return load_spec(config.data.path).layout()
    module = _load_module(name)
    layout = module.get_layout() if hasattr(module, "get_layout") else None
    if not isinstance(layout, TokenLayout):
        raise UserError(
            f"--config={name}: the token layout is unknown: give --config.data.path=DATASET, or "
            "define get_layout() -> TokenLayout in the configuration"
        )
    return layout


def load_objective(name: str, config: RunConfig) -> Objective:
    """The objective for the run's dataset; without one, as the configuration defines it.

    Raises:
        UserError: there is no dataset and the configuration defines no objective.
        ConfigError: the dataset does not fit the model.
    """
    if config.data.path:
        return make_objective(config, load_spec(config.data.path), config.data.path)
    module = _load_module(name)
    if hasattr(module, "get_objective"):
        return module.get_objective(config)
    if not isinstance(config.model, GPSTConfig):
        raise UserError(
            f"--config={name}: the training data is unknown: give "
            "--config.data.path=DATASET, or define get_objective(config) in the configuration"
        )
    return GPSTObjective(config, load_layout(name, config))


def _load_module(name: str, flag: str = "config") -> types.ModuleType:
    file, _ = _split(name)
    if file.endswith(".py"):
        # Those of this project are found from any directory.
        path = next((p for p in (Path(file), _ROOT / file) if p.is_file()), None)
        if path is None:
            raise UserError(f"--{flag}={file}: no such file")
        spec = importlib.util.spec_from_file_location("run_config", path)
        if spec is None or spec.loader is None:
            raise UserError(f"--{flag}={file}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(file)
    except ModuleNotFoundError as error:
        raise UserError(f"--{flag}={file}: {error}; give a .py file or a module") from error


class RunLoaders(contextlib.ExitStack):
    """Makes the loaders of a run's splits for `training.loop.train`, and closes them on exit.

    Args:
        config: the run.
        spec: its dataset's contract.
        objective: determines how rows are arranged.
    """

    def __init__(self, config: RunConfig, spec: Spec, objective: Objective):
        super().__init__()
        data = config.data
        self._data, self._spec = data, spec
        self._packing = PackingConfig(
            sequence_length=data.sequence_length,
            frame_budget=data.frame_budget,
            crop_seconds=data.crop_seconds,
            units=data.units,
            deduplicate=data.deduplicate,
            positions=data.positions,
            join_speakers=data.join_speakers,
            seed=data.seed,
            arrangement=getattr(objective, "arrangement", "interleaved"),
            spare_positions=getattr(objective, "spare_positions", 0),
        )

    def check_validation(self, batches: int) -> None:
        """Raises UserError if `batches` of evaluation are wanted and there is nothing to read."""
        if not batches:
            return
        loader = self.make("valid")
        if loader is None or not loader.rows_per_epoch:
            what = "has no split 'valid'" if loader is None else "has no rows in its split 'valid'"
            raise UserError(
                f"{self._data.path} {what}, which evaluation needs: tokenise at least 5 recordings "
                "(tokenize_corpus holds out --valid_fraction of them, and one of 5 or more), or "
                "train without evaluation: --config.train.eval_batches=0"
            )

    def make(self, split: str) -> Loader | None:
        """The loader of a split on this host; None where the dataset has no such split."""
        if split not in self._spec.splits:
            return None
        loader = Loader(
            self._data.path,
            split,
            self._packing,
            self._data.batch_size,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            num_workers=self._data.num_workers if split == "train" else 0,
            repeat=split == "train",  # evaluation reads every record once
        )
        self.callback(loader.close)
        return loader
