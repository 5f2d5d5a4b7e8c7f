"""What the objectives over frames share: their batch, prompt lengths, normalisers and checks.

A row holds one segment: utterances of one speaker up to the crop length, so that the beginning of a
row can serve as the prompt of its rest. Padding is on the right.
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

_GOLDEN = 0.6180339887  # steps of this size spread evenly over [0, 1), however many there are
_MIN_PREDICTED = 2  # frames that a prompt leaves to predict
_SAMPLED_RECORDS, _SAMPLED_FRAMES = 256, 16_384


class FrameObjective:
    """Batch and prompts; a family adds its parameters, its loss and its FLOPs.

    Args:
        config: the run; rows and frame budget fix the batch.
        layout: vocabulary sizes, codebooks and rates of the dataset.
        codebooks: float32 (Q, N, D), the codec's vectors.
        semantics: "codebook" where units are the first codebook's ids, or "table".
        max_prompt_seconds: longest prompt drawn.
        prompt_per_item: whether each row draws its own length in training.

    Raises:
        ConfigError: the streams cannot be paired frame by frame.
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
        """The part of the whole batch's frames that stands in these rows.

        How many frames are predicted is drawn with the loss, so it cannot be known for the whole
        batch ahead: the mean over the predictions of a micro-batch counts by its real frames.
        """
        return (batch["segment_ids"] > 0).sum() / weights["frames"]

    def draw_prompts(self, valid: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Which frames (B, T) are prompt; at least two are left to predict.

        Lengths are uniform from 0 to min(shortest row, longest prompt) - 2 and equal in all rows,
        or drawn for each row from its own length. Evaluation spreads fixed lengths over the rows.
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

    def stack_flops(self, net: TransformerConfig, weights: float) -> dict[str, float]:
        """Training FLOPs of a stack over whole rows: 6 per weight and frame, and attention.

        Args:
            net: dimensions.
            weights: of the matrices of one layer.
        """
        data = self.config.data
        frames, layers = data.batch_size * data.frame_budget, net.num_layers
        return {
            "backbone": 6.0 * frames * layers * weights,
            "attention": 12.0 * frames * layers * data.frame_budget * net.d_model,
        }


def sample_codes(dataset_dir: str | Path, spec: DatasetSpec) -> np.ndarray | None:
    """Codes (F, Q) of records from all over the training split; None where there are no records.

    Every host and every start reads the same ones. An export has the contract of its dataset, but
    no shards.
    """
    if "train" not in spec.splits or not (Path(dataset_dir) / "dataset_info.json").exists():
        return None
    reader = RecordReader(dataset_dir, "train")
    chosen = np.linspace(0, len(reader) - 1, min(len(reader), _SAMPLED_RECORDS)).round()
    codes = np.concatenate([reader[int(index)].codes.T for index in chosen])
    return codes[:: -(-len(codes) // _SAMPLED_FRAMES)]


def spread(count: int) -> jax.Array:
    """Numbers (count,) in [0, 1), spread evenly and without order, the same each time."""
    return (0.5 + _GOLDEN * jnp.arange(count)) % 1.0


def conformer_weights(net: TransformerConfig) -> float:
    """Weights of the matrices of one Conformer block: attention, two feed-forwards, convolution."""
    return 10.0 * net.d_model**2 + 4.0 * net.d_model * net.d_ff
