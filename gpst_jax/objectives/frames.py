"""Shared by the objectives over frames: batch, prompts, normalisers and dataset checks.

A row is one right-padded segment: utterances of one speaker up to the crop length, so that its
beginning can serve as the prompt of the rest.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.loading.batches import batch_shapes
from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, RunConfig, TransformerConfig
from gpst_jax.objectives.base import Batch

_GOLDEN = 0.6180339887  # golden ratio: its multiples mod 1 are evenly spread for any count
_MIN_PREDICTED = 2  # least number of frames after a prompt
_SAMPLED_RECORDS, _SAMPLED_FRAMES = 256, 16_384


class FrameObjective:
    """Batch and prompts; a family adds its parameters, loss and FLOPs.

    Args:
        config: the run; batch size and frame budget fix the batch.
        layout: vocabulary sizes, codebooks and rates of the dataset.
        codebooks: float32 (Q, N, D), the codec's vectors.
        semantics: "codebook" where units are the first codebook's ids, or "table".
        max_prompt_seconds: longest prompt sampled.
        prompt_per_item: whether each row samples its own prompt length in training.

    Raises:
        ConfigError: units, frames and codebooks do not fit together.
    """

    arrangement = "frames"  # how the loader lays rows out

    def __init__(
        self,
        config: RunConfig,
        layout: TokenLayout,
        codebooks: np.ndarray,
        *,
        semantics: str,
        max_prompt_seconds: float,
        prompt_per_item: bool,
    ):
        self.config, self.layout = config, layout
        self.codebooks = np.asarray(codebooks, np.float32)
        self.max_prompt = max(round(max_prompt_seconds * layout.frame_rate), _MIN_PREDICTED)
        self.prompt_per_item = prompt_per_item
        if layout.unit_rate != layout.frame_rate:
            raise ConfigError(
                f"dataset: units come at {layout.unit_rate:g} Hz and frames at "
                f"{layout.frame_rate:g} Hz; this model needs one unit for each frame"
            )
        if semantics == "codebook" and layout.num_units > layout.codebook_size:
            raise ConfigError(
                f"config field model.semantics: {layout.num_units} units are more than "
                f"the {layout.codebook_size} entries of the first codebook; tokenise with a "
                "unified tokenizer, or set it to 'table'"
            )
        if self.codebooks.shape[:2] != (layout.num_codebooks, layout.codebook_size):
            raise ConfigError(
                f"dataset: {layout.num_codebooks} codebooks of {layout.codebook_size} entries are "
                f"expected, the codec has vectors of shape {self.codebooks.shape}"
            )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch, "frames" in `data_pipeline.loading.batches`."""
        data = self.config.data
        arrays = batch_shapes(
            self.arrangement, B=data.batch_size, F=data.frame_budget, Q=self.layout.num_codebooks
        )
        return {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of real frames."""
        return {"frames": jnp.maximum((batch["segment_ids"] > 0).sum(), 1).astype(jnp.float32)}

    def share(self, batch: Batch, weights: Mapping[str, jax.Array]) -> jax.Array:
        """The fraction of the global batch's frames that is in these rows.

        The number of predicted frames is sampled with the loss, so it is not known for the global
        batch in advance: the mean over a micro-batch is weighted by its number of real frames.
        """
        return (batch["segment_ids"] > 0).sum() / weights["frames"]

    def sample_prompts(self, valid: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Which frames (B, T) are prompt; at least two are left to predict.

        Lengths are uniform from 0 to min(shortest row, longest prompt) - 2 and equal in all rows,
        or sampled per row with its own length. In evaluation they are fixed, and vary by row.
        """
        lengths = valid.sum(axis=1)
        if train and not self.prompt_per_item:
            present = jnp.where(lengths > 0, lengths, self.max_prompt)
            lengths = jnp.full_like(lengths, present.min())
            share = jnp.full(lengths.shape, jax.random.uniform(key))
        elif train:
            share = jax.random.uniform(key, lengths.shape)
        else:
            share = spread(len(lengths))
        limit = jnp.maximum(jnp.minimum(lengths, self.max_prompt) - _MIN_PREDICTED, 0)
        prompts = jnp.minimum((share * (limit + 1)).astype(jnp.int32), limit)
        return valid & (jnp.arange(valid.shape[1])[None] < prompts[:, None])

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Frames and seconds of audio of a batch."""
        frames = self.weights(batch)["frames"]
        return {"tokens": frames, "audio_seconds": frames / self.layout.frame_rate}

    def check_dataset(self, spec: DatasetSpec) -> None:
        """Raises ConfigError when the dataset's streams are not those of this model."""
        if spec.layout() != self.layout:
            raise ConfigError(
                f"dataset: its token layout {spec.layout()} is not the model's {self.layout}; "
                "train on the dataset that the model was made for, or start a new run"
            )

    def backbone_flops(self, net: TransformerConfig, weights: float) -> dict[str, float]:
        """Training FLOPs of a backbone over full rows: 6 per weight and frame, and attention.

        Args:
            net: dimensions.
            weights: number of weights in the matrices of one layer.
        """
        data = self.config.data
        frames, layers = data.batch_size * data.frame_budget, net.num_layers
        return {
            "backbone": 6.0 * frames * layers * weights,
            "attention": 12.0 * frames * layers * data.frame_budget * net.d_model,
        }


def sample_codes(dataset_dir: str | Path, spec: DatasetSpec) -> np.ndarray | None:
    """Codes (F, Q) of records spread over the training split; None where there are no records.

    The choice is deterministic. An export has dataset.json, but no shards.
    """
    if "train" not in spec.splits or not (Path(dataset_dir) / "dataset_info.json").exists():
        return None
    reader = RecordReader(dataset_dir, "train")
    chosen = np.linspace(0, len(reader) - 1, min(len(reader), _SAMPLED_RECORDS)).round()
    codes = np.concatenate([reader[int(index)].codes.T for index in chosen])
    return codes[:: -(-len(codes) // _SAMPLED_FRAMES)]


def spread(count: int) -> jax.Array:
    """Low-discrepancy numbers (count,) in [0, 1), always the same."""
    return (0.5 + _GOLDEN * jnp.arange(count)) % 1.0


def conformer_weights(net: TransformerConfig) -> float:
    """Matrix weights of a Conformer block: attention, two feed-forwards, convolution module."""
    return 10.0 * net.d_model**2 + 4.0 * net.d_model * net.d_ff
