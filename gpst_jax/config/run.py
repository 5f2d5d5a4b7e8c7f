"""Configuration of a run: frozen, validated dataclasses with an exact JSON form.

A run is described by one `RunConfig`. Every field has one meaning and a unit in its comment;
a variant of a run is a file in `experiments/configs`, not a new field. Unknown keys are errors,
so that a misspelt option never passes silently.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from gpst_jax.config.fields import (
    ConfigError,
    choice,
    fraction,
    from_dict,
    positive,
    require,
    stored_as,
)
from gpst_jax.config.models import (
    FlowConfig,
    GPSTConfig,
    ModelConfig,
    SemanticLMConfig,
    SoundStormConfig,
    TransformerConfig,
)
from gpst_jax.config.overrides import override

__all__ = [
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "FlowConfig",
    "GPSTConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "SemanticLMConfig",
    "SoundStormConfig",
    "TrainConfig",
    "TransformerConfig",
    "from_dict",
    "parse_range",
]


Model = TypeVar("Model")
TASK = "task/"  # begins the names of metrics of generated speech


@stored_as(
    renamed={"rows": "batch_size", "row_length": "sequence_length", "workers": "num_workers"}
)
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which dataset is read, and how its records are packed into batches."""

    path: str = ""  # directory that holds dataset.json, or a mixture.json
    batch_size: int = 8  # sequences per optimiser step, over all devices
    sequence_length: int = 512  # positions of a packed sequence; on TPUs a multiple of 128
    frame_budget: int = 320  # predicted frames per sequence, end-of-speech frames included
    crop_seconds: float = 4.0  # longest segment
    units: str = "front"  # front: before the frames; none: frames alone, without units (GPST)
    deduplicate: bool = False  # collapse repeated units; positions must then be `running`
    positions: str = "time"  # time: ticks of the common multiple of both rates; running: 0, 1, 2
    join_speakers: bool = True  # fill segments with further utterances of the same speaker
    seed: int = 0  # seeds record order, crops and rows
    num_workers: int = 0  # loader processes; 0 reads in threads of this process

    def __post_init__(self):
        choice(self, "units", ("front", "none"))
        choice(self, "positions", ("time", "running"))
        positive(self, "batch_size", "sequence_length", "frame_budget", "crop_seconds")
        require(
            not (self.deduplicate and self.positions == "time"),
            "positions",
            "de-duplicated units have no durations: set positions to 'running'",
        )
        require(
            not (self.deduplicate and self.units == "none"),
            "deduplicate",
            "without units (data.units=none) there are none to collapse: set it to false",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, its schedule and its guards."""

    name: str = "adamw"  # adamw | muon (hidden matrices by Muon, the rest by AdamW)
    learning_rate: float = 5e-4  # peak, of AdamW
    muon_learning_rate: float = 1e-2  # peak, of Muon's matrices
    schedule: str = "cosine"  # inverse_sqrt | cosine | wsd
    warmup_steps: int = 100  # steps of linear rise to the peak
    decay_fraction: float = 0.2  # fraction of the steps in which wsd decays
    final_fraction: float = 0.0  # learning rate at the end over its peak (cosine, wsd)
    beta1: float = 0.9  # AdamW: decay of the mean of gradients
    beta2: float = 0.98  # AdamW: decay of the mean of their squares
    weight_decay: float = 0.01  # on matrices only
    clip_norm: float = 1.0  # gradients are scaled down to this global norm
    spike_factor: float = 0.0  # skip steps with gradient norms above this times its average; 0: off
    max_skipped: int = 20  # stop after so many skipped steps in a row

    def __post_init__(self):
        choice(self, "name", ("adamw", "muon"))
        choice(self, "schedule", ("inverse_sqrt", "cosine", "wsd"))
        fraction(self, "decay_fraction")
        require(self.learning_rate > 0, "learning_rate", "must be positive")
        require(self.warmup_steps >= 0, "warmup_steps", "must not be negative")
        require(self.clip_norm > 0, "clip_norm", "must be positive")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, which takes the remaining devices."""

    replica: int = 1  # data parallel, also between slices over the data-centre network
    fsdp: int = -1  # data parallel with sharded parameters (FSDP)
    tensor: int = 1  # tensor parallel: heads, feed-forward and vocabulary

    def __post_init__(self):
        sizes = (self.replica, self.fsdp, self.tensor)
        require(
            sum(size == -1 for size in sizes) <= 1
            and all(size == -1 or size > 0 for size in sizes),
            "mesh",
            f"sizes are positive and at most one is -1, got {sizes}",
        )


@stored_as(renamed={"accumulate": "grad_accum_steps"})
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop: its length, its intervals, and which checkpoints are kept."""

    steps: int = 1000  # optimiser steps of the run
    seed: int = 0  # seeds initial parameters, dropout and noise
    init_from: str = ""  # warm start: directory of a run or of exported weights
    grad_accum_steps: int = 1  # micro-batches per update
    log_every: int = 10  # steps between lines of metrics
    eval_every: int = 200  # 0: only at the end
    eval_batches: int = 8  # batches of an evaluation; 0: none
    preview_every: int = 0  # steps between sampled previews in TensorBoard; 0: none
    ema_decay: float = 0.0  # 0: no EMA
    checkpoint_every_steps: int = 500  # steps between checkpoints; the end has one too
    checkpoint_every_minutes: float = 10.0  # or minutes, whichever ends first
    keep_latest: int = 2  # this many of the newest checkpoints are kept
    keep_every: int = 0  # also keep each multiple of this step; 0: none
    keep_best: int = 0  # also keep this many with the smallest best_metric; 0: none
    best_metric: str = "loss"  # of the evaluation; for steps with evaluation and checkpoint
    stall_factor: float = 10.0  # a step longer than this times the median prints stack traces
    stall_seconds: float = 60.0  # shortest step that counts as a stall
    stall_abort_minutes: float = 60.0  # without a finished step the process aborts; 0: never

    def __post_init__(self):
        positive(
            self, "steps", "grad_accum_steps", "log_every", "keep_latest", "checkpoint_every_steps"
        )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Speech that is generated and scored in training, beside the held-out loss."""

    task: str = ""  # held-out: recordings of the split valid, resynthesised; empty: none
    items: int = 8  # recordings that are resynthesised
    every: int = 0  # steps between; 0: with every evaluation of the held-out loss

    def __post_init__(self):
        choice(self, "task", ("", "held-out"))
        positive(self, "items")
        require(self.every >= 0, "every", "must not be negative")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    name: str  # of the run, in logs and model cards
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self):
        require(
            bool(self.eval.task) or not self.train.best_metric.startswith(TASK),
            "train.best_metric",
            f"{self.train.best_metric!r} needs eval.task",
        )
        require(
            self.data.batch_size % self.train.grad_accum_steps == 0,
            "train.grad_accum_steps",
            f"{self.train.grad_accum_steps} micro-batches do not divide data.batch_size "
            f"{self.data.batch_size}",
        )

        if self.data.units == "none":
            require(
                self.model.family == "gpst",
                "data.units",
                f"models of family {self.model.family!r} read units: set it to 'front'",
            )
            require(
                not self.eval.task,
                "eval.task",
                "a model without units (data.units=none) renders none: leave it empty",
            )

    def model_as(self, kind: type[Model]) -> Model:
        """The model's configuration, typed; raises ConfigError if it is of another family."""
        if not isinstance(self.model, kind):
            raise ConfigError(
                f"config field model.family: {self.model.family!r} is not the family needed "
                f"here, which is configured by {kind.__name__}"
            )
        return self.model

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested dicts of JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The configuration as JSON text that `from_json` reads back to an equal object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Reads `to_json`'s text; raises ConfigError on unknown or missing keys."""
        return from_dict(cls, json.loads(text))

    def override(self, assignments: Sequence[str]) -> "RunConfig":
        """The configuration with `section.field=value` applied, see `overrides.override`."""
        return override(self, assignments)


def parse_range(flag: str, text: str | None) -> range:
    """Parses an inclusive range: `100:103` is 100 to 103; None is the empty range.

    Raises:
        ConfigError: not two positive numbers in order; the message names the flag.
    """
    if text is None:
        return range(0)
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise ConfigError(f"--{flag}={text}: give FIRST:LAST, such as 100:103")
    return range(int(first), int(last) + 1)
