"""The workload that all cases of a benchmark share: a model size and a synthetic batch.

Each row is one utterance of U semantic units and T frames of Q codebooks with random ids: speed
does not depend on them.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from data_pipeline.loading.batches import padding_arrays
from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A run config, and the length of the utterance in each of its rows.

    Attributes:
        config: of the run; without dropout, label smoothing and local-drop, with AdamW.
        layout: vocabulary sizes and codebooks.
        units: U, semantic units per row.
        frames: T, frames per row; only these count in frames per second.
        threads: CPU threads of a case; 0: all that are available.
    """

    config: RunConfig
    layout: TokenLayout
    units: int
    frames: int
    threads: int = 0

    def __post_init__(self):
        length, data = self.units + self.frames + 2, self.config.data
        if length > data.sequence_length or self.frames + 1 > data.frame_budget:
            raise ConfigError(
                f"config field data.sequence_length: {self.units} units and {self.frames} frames "
                f"take {length} positions and {self.frames + 1} predicted frames, a row holds "
                f"{data.sequence_length} and {data.frame_budget}"
            )

    @property
    def rows(self) -> int:
        """B, the batch size: one utterance per row."""
        return self.config.data.batch_size

    @property
    def frames_per_step(self) -> int:
        """Frames of a step, without end-of-speech frames and padding."""
        return self.rows * self.frames

    def with_rows(self, rows: int) -> "Workload":
        """The same with another batch size."""
        data = dataclasses.replace(self.config.data, batch_size=rows)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, data=data))

    def with_model(self, **changes: Any) -> "Workload":
        """The same with changed fields of the model config."""
        model = dataclasses.replace(self.config.model_as(GPSTConfig), **changes)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, model=model))

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Units (B, U) and codes (B, Q, T), the same in every process."""
        rng, layout = np.random.default_rng(0), self.layout
        units = rng.integers(layout.num_units, size=(self.rows, self.units))
        shape = (self.rows, layout.num_codebooks, self.frames)
        return units, rng.integers(layout.codebook_size, size=shape)

    def batch(self) -> dict[str, np.ndarray]:
        """The batch for `GPSTObjective`, with one segment per row."""
        data = self.config.data
        batch = padding_arrays(
            "interleaved",
            B=self.rows,
            L=data.sequence_length,
            F=data.frame_budget,
            Q=self.layout.num_codebooks,
        )
        for at, part in enumerate(zip(*self.tokens(), strict=True)):
            segment = segment_tokens(self.layout, [part], positions=data.positions)
            for name, values in segment.items():
                batch[name][at, : len(values)] = values
            batch["segment_ids"][at, : len(segment["tokens"])] = 1
            batch["frame_segments"][at, : len(segment["frames"])] = 1
        return batch

    def to_json(self) -> str:
        """JSON text for another process; the inverse of `from_json`."""
        tree = dataclasses.asdict(self) | {"config": self.config.to_json()}
        return json.dumps(tree)

    @classmethod
    def from_json(cls, text: str) -> "Workload":
        """Inverse of `to_json`."""
        tree = json.loads(text)
        tree["config"] = RunConfig.from_json(tree["config"])
        tree["layout"] = TokenLayout(**tree["layout"])
        return cls(**tree)


def from_config(config: RunConfig, layout: TokenLayout, rows: int, remat: str = "none") -> Workload:
    """The workload of a training run: full-length crops, `rows` of them, on one device.

    Features that a peer lacks are disabled, so that all cases do the same work: dropout, label
    smoothing, local-drop, Muon, gradient accumulation and, unless `remat` says otherwise,
    rematerialisation.
    """
    data = dataclasses.replace(config.data, batch_size=rows)
    model = dataclasses.replace(
        config.model_as(GPSTConfig), dropout=0.0, label_smoothing=0.0, local_drop=0.0, remat=remat
    )
    config = dataclasses.replace(
        config,
        model=model,
        data=data,
        optimizer=dataclasses.replace(config.optimizer, name="adamw"),
        train=dataclasses.replace(config.train, grad_accum_steps=1),
        mesh=MeshConfig(),  # whatever there is: one device
    )
    units = int(config.data.crop_seconds * layout.unit_rate)
    frames = int(config.data.crop_seconds * layout.frame_rate)
    units = min(units, data.sequence_length - frames - 2)
    return Workload(config, layout, units, min(frames, data.frame_budget - 1))


def small(name: str) -> Workload:
    """Workloads for a machine without accelerators: `cpu` (52M parameters) and `toy`."""
    layout, units, frames = TokenLayout(1000, 8, 1024), 166, 250
    wide = TransformerConfig(d_model=512, num_layers=10, num_heads=8, d_ff=1408)
    narrow = TransformerConfig(d_model=512, num_layers=2, num_heads=8, d_ff=1408)
    if name == "toy":
        layout, units, frames = TokenLayout(50, 4, 32), 20, 30
        wide = TransformerConfig(d_model=128, num_layers=2, num_heads=2, d_ff=256)
        narrow = TransformerConfig(d_model=64, num_layers=2, num_heads=2, d_ff=128)
    return Workload(
        RunConfig(
            name=name,
            model=GPSTConfig(global_net=wide, local_net=narrow),
            data=DataConfig(
                batch_size=2,
                sequence_length=units + frames + 2,
                frame_budget=frames + 1,
                crop_seconds=frames / layout.frame_rate,
            ),
            optimizer=OptimizerConfig(),
            train=TrainConfig(),
        ),
        layout,
        units,
        frames,
    )
