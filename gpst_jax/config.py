"""Configuration of a run: frozen, validated dataclasses with an exact JSON form.

A run is described by one `RunConfig`. Every field has one meaning and a unit in its comment;
a variant of a run is a file in `experiments/configs`, not a new field. Unknown keys are errors,
so that a misspelt option never passes silently.
"""

import dataclasses
import json
import types
import typing
from typing import Any


class ConfigError(ValueError):
    """A configuration value is unknown or inconsistent; the message names the field."""


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise ConfigError(f"config field {field}: {message}")


def _choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    _require(value in choices, name, f"{value!r} is not one of {', '.join(choices)}")


def _fraction(config: Any, name: str) -> None:
    value = getattr(config, name)
    _require(0 <= value <= 1, name, f"must lie in [0, 1], is {value}")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of one stack of transformer blocks."""

    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int

    def __post_init__(self):
        for name in ("d_model", "num_layers", "num_heads", "d_ff"):
            _require(getattr(self, name) > 0, name, f"must be positive, is {getattr(self, name)}")
        _require(
            self.d_model % self.num_heads == 0,
            "num_heads",
            f"{self.num_heads} heads do not divide d_model {self.d_model}",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads


@dataclasses.dataclass(frozen=True)
class GPSTConfig:
    """The hierarchical transformer of GPST (arXiv 2406.00976, section 3).

    Vocabulary sizes, codebooks and frame rates are not here: they come from the dataset.
    """

    global_net: TransformerConfig
    local_net: TransformerConfig
    block: str = "modern"  # modern: RoPE, RMSNorm, SwiGLU, QK-norm; paper: as published
    shared_acoustic_head: bool = False  # one head for all codebooks, or one per codebook
    semantic_loss: bool = True
    label_smoothing: float = 0.0  # the paper: 0.1
    local_drop: float = 0.0  # share of frames the local net skips in training; Hi-Res: 0.5
    dropout: float = 0.0  # the paper: 0.1
    max_positions: int = 1629  # rows of the learned position table of the `paper` block
    dtype: str = "float32"  # of activations; parameters, logits and losses stay float32
    remat: str = "none"  # none | dots | full: what the backward pass recomputes
    attention: str = "auto"  # auto | xla | cudnn | splash

    def __post_init__(self):
        _choice(self, "block", ("paper", "modern"))
        _choice(self, "dtype", ("float32", "bfloat16"))
        _choice(self, "remat", ("none", "dots", "full"))
        _choice(self, "attention", ("auto", "xla", "cudnn", "splash"))
        for name in ("label_smoothing", "local_drop", "dropout"):
            _fraction(self, name)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which shards are read and how rows are packed from them."""

    path: str = ""  # directory that holds dataset.json, or a mixture.json
    rows: int = 8  # rows of one global batch
    row_length: int = 512  # positions of one row; on TPU a multiple of 128
    frame_budget: int = 320  # predicted stacks of one row, end-of-speech stacks included
    crop_seconds: float = 4.0  # longest segment
    deduplicate: bool = False  # collapse repeated units; positions must then be `running`
    positions: str = "time"  # time: ticks of the common multiple of both rates; running: 0, 1, 2
    join_speakers: bool = True  # fill segments with further utterances of the same speaker
    seed: int = 0
    workers: int = 0  # loader processes; 0 reads in threads of this process

    def __post_init__(self):
        _choice(self, "positions", ("time", "running"))
        for name in ("rows", "row_length", "frame_budget", "crop_seconds"):
            _require(getattr(self, name) > 0, name, f"must be positive, is {getattr(self, name)}")
        _require(
            not (self.deduplicate and self.positions == "time"),
            "positions",
            "de-duplicated units have no durations: set positions to 'running'",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, its schedule and its guards."""

    name: str = "adamw"  # adamw | muon (hidden matrices by Muon, the rest by AdamW)
    learning_rate: float = 5e-4
    muon_learning_rate: float = 1e-2
    schedule: str = "cosine"  # inverse_sqrt | cosine | wsd
    warmup_steps: int = 100
    decay_fraction: float = 0.2  # share of the steps in which wsd decays
    final_fraction: float = 0.0  # learning rate at the end over its peak (cosine, wsd)
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01  # on matrices only
    clip_norm: float = 1.0
    spike_factor: float = 0.0  # skip a step whose gradient norm exceeds this many averages; 0: off
    max_skipped: int = 20  # stop after so many skipped steps in a row

    def __post_init__(self):
        _choice(self, "name", ("adamw", "muon"))
        _choice(self, "schedule", ("inverse_sqrt", "cosine", "wsd"))
        _fraction(self, "decay_fraction")
        _require(self.learning_rate > 0, "learning_rate", "must be positive")
        _require(self.warmup_steps >= 0, "warmup_steps", "must not be negative")
        _require(self.clip_norm > 0, "clip_norm", "must be positive")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices by axis; one axis may be -1, which takes the devices that are left."""

    replica: int = 1  # data parallel, across slices over the data-centre network
    fsdp: int = -1  # data parallel with sharded parameters
    tensor: int = 1  # sharded heads and feed-forward

    def __post_init__(self):
        sizes = (self.replica, self.fsdp, self.tensor)
        _require(
            sum(size == -1 for size in sizes) <= 1
            and all(size == -1 or size > 0 for size in sizes),
            "mesh",
            f"sizes are positive and at most one is -1, got {sizes}",
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how often, and what is kept."""

    steps: int = 1000
    seed: int = 0
    accumulate: int = 1  # micro-batches added up for one update
    log_every: int = 10
    eval_every: int = 200  # 0: only at the end
    eval_batches: int = 8
    preview_every: int = 0  # steps between sampled previews in TensorBoard; 0: none
    ema_decay: float = 0.0  # 0: no average is kept
    checkpoint_every_steps: int = 500
    checkpoint_every_minutes: float = 10.0
    keep_latest: int = 2
    keep_every: int = 0  # also keep each multiple of this step; 0: none
    keep_best: int = 0  # also keep this many with the smallest best_metric; 0: none
    best_metric: str = "loss"  # of the evaluation; counts for steps with evaluation and checkpoint
    stall_factor: float = 10.0  # a step longer than this times the median prints all stacks ...
    stall_seconds: float = 60.0  # ... but not before this many seconds
    stall_abort_minutes: float = 60.0  # without a finished step the process gives up; 0: never

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every", "keep_latest", "checkpoint_every_steps"):
            _require(getattr(self, name) > 0, name, f"must be positive, is {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    name: str
    model: GPSTConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        _require(
            self.data.rows % self.train.accumulate == 0,
            "train.accumulate",
            f"{self.train.accumulate} micro-batches do not divide data.rows {self.data.rows}",
        )

    def to_json(self) -> str:
        """The configuration as JSON text that `from_json` reads back to an equal object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Reads `to_json`'s text; raises ConfigError on unknown or missing keys."""
        return from_dict(cls, json.loads(text))

    def override(self, assignments: list[str]) -> "RunConfig":
        """Applies `section.field=value` strings; values are JSON, or plain text for strings."""
        tree = dataclasses.asdict(self)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            _require(bool(equals), key, "an override is written section.field=value")
            node, parts = tree, key.split(".")
            for part in parts[:-1]:
                _require(isinstance(node, dict) and part in node, key, "no such field")
                node = node[part]
            _require(isinstance(node, dict) and parts[-1] in node, key, "no such field")
            was = node[parts[-1]]
            try:
                parsed = json.loads(value)
            except json.JSONDecodeError:
                parsed = value
            # A directory may be called 2024: what was text stays text.
            text = isinstance(was, str) and not isinstance(parsed, str)
            node[parts[-1]] = value if text else parsed
        return from_dict(RunConfig, tree)


def from_dict(cls: type, tree: Any, path: str = "") -> Any:
    """Builds dataclass `cls` from nested dicts, checking names and types at every level."""
    if not isinstance(tree, dict):
        raise ConfigError(f"config field {path or cls.__name__}: expected fields, got {tree!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - set(fields))
    if unknown:
        raise ConfigError(f"config field {path}{unknown[0]}: unknown; known are {sorted(fields)}")
    values = {}
    for name, value in tree.items():
        values[name] = _convert(hints[name], value, f"{path}{name}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"config field {path}{missing[0]}: missing")
    return cls(**values)


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(arg for arg in hint.__args__ if arg is not type(None))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path + ".")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"config field {path}: expected {hint.__name__}, got {value!r}")
    return value


def parse_range(flag: str, text: str | None) -> range:
    """`100:103` as 100, 101, 102 and 103; None as nothing.

    Raises:
        ConfigError: not two positive numbers in order; the message names the flag.
    """
    if text is None:
        return range(0)
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise ConfigError(f"--{flag}={text}: give FIRST:LAST, such as 100:103")
    return range(int(first), int(last) + 1)
