"""The batch contract: names, shapes, dtypes and integers of a batch, for every arrangement.

The one place that states them: rows are built by these tables, and the objectives take their
`batch_spec` from them. `PackingConfig.arrangement` names the table:

    interleaved   GPST: semantic units, then acoustic frames, several segments a row
    frames        flow matching and SoundStorm: unit and codes side by side, one segment a row
    sequences     the language model: text and units, several sequences a row

Axes are letters:

    B   batch size: rows of the global batch, or of one host's part of it; a single row has no B
    L   sequence length, `PackingConfig.sequence_length`
    F   frame budget, `PackingConfig.frame_budget`
    Q   codebooks of the codec, `TokenLayout.num_codebooks`

Rows are padded on the right. NumPy only: worker processes of the loader import this.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from data_pipeline.tokens import NO_TARGET, PAD


@dataclasses.dataclass(frozen=True)
class BatchArray:
    """One array of a batch.

    Attributes:
        name: its key in the batch.
        axes: a letter for each axis, see the module.
        meaning: what every integer stands for, padding included.
        padding: value where a row holds nothing; None: an id that depends on the dataset.
        dtype: NumPy name.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    padding: int | None = 0
    dtype: str = "int32"


_INTERLEAVED = (
    BatchArray(
        "tokens",
        ("B", "L", "Q"),
        "Input ids, rows of the global embedding table (`TokenLayout`): BOS_s and units in "
        "codebook 0 with PAD in the others, BOS_a and frames in all Q. PAD in padding.",
        padding=PAD,
    ),
    BatchArray(
        "positions",
        ("B", "L"),
        "Place in the segment: with `positions` 'time' the end time in ticks "
        "(`TokenLayout.tick_rate`), 0 at BOS_s and BOS_a; with 'running' a count from 0 at BOS_s. "
        "0 in padding.",
    ),
    BatchArray(
        "streams",
        ("B", "L"),
        "0 at BOS_s and units (semantic), 1 at BOS_a and frames (acoustic). 0 in padding.",
    ),
    BatchArray(
        "segment_ids",
        ("B", "L"),
        "Number of the segment in its row, from 1: attention stays within it. 0 in padding.",
    ),
    BatchArray(
        "semantic_targets",
        ("B", "L"),
        "Semantic id that follows BOS_s or a unit, EOS after the last unit. "
        "-1, no target, at acoustic positions and in padding.",
        padding=NO_TARGET,
    ),
    BatchArray(
        "frame_index",
        ("B", "F"),
        "Position 0 .. L - 1 whose hidden state predicts the frame: that of BOS_a for the first "
        "frame of a segment, else that of the frame before. 0 in padding.",
    ),
    BatchArray(
        "frames",
        ("B", "F", "Q"),
        "Predicted frames as local ids, NUM_SPECIALS + q * codebook_size + code; EOS in every "
        "codebook in the frame that ends a segment. PAD in padding.",
        padding=PAD,
    ),
    BatchArray(
        "frame_segments",
        ("B", "F"),
        "`segment_ids` of the segment that the predicted frame belongs to, from 1. 0 in padding.",
    ),
)

_FRAMES = (
    BatchArray(
        "units",
        ("B", "F"),
        "Semantic unit of the frame, 0 .. num_units - 1. 0 in padding, see `segment_ids`.",
    ),
    BatchArray(
        "codes",
        ("B", "F", "Q"),
        "Code of each codebook, 0 .. codebook_size - 1. 0 in padding, see `segment_ids`.",
    ),
    BatchArray("segment_ids", ("B", "F"), "1 on frames of the row's one segment. 0 in padding."),
)

_SEQUENCES = (
    BatchArray(
        "tokens",
        ("B", "L"),
        "Input ids of `Vocabulary`: text, special ids and units. `Vocabulary.padding` in padding.",
        padding=None,
    ),
    BatchArray("positions", ("B", "L"), "Place in the sequence, from 0. 0 in padding."),
    BatchArray(
        "segment_ids",
        ("B", "L"),
        "Number of the sequence in its row, from 1: attention stays within it. 0 in padding.",
    ),
    BatchArray(
        "targets",
        ("B", "L"),
        "Next id of the same sequence. -1, no target, where its loss mask is 0, at the end of "
        "the sequence and in padding.",
        padding=NO_TARGET,
    ),
)

ARRANGEMENTS: Mapping[str, tuple[BatchArray, ...]] = MappingProxyType(
    {"interleaved": _INTERLEAVED, "frames": _FRAMES, "sequences": _SEQUENCES}
)


def batch_shapes(arrangement: str, **sizes: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array.

    Args:
        arrangement: a key of `ARRANGEMENTS`.
        **sizes: by the letters of the axes; without B, those of a single row. Letters that the
            arrangement does not have are ignored.
    """
    return {
        array.name: (
            tuple(sizes[letter] for letter in array.axes if letter != "B" or "B" in sizes),
            np.dtype(array.dtype),
        )
        for array in ARRANGEMENTS[arrangement]
    }


def padding_arrays(
    arrangement: str, padding_id: int | None = None, **sizes: int
) -> dict[str, np.ndarray]:
    """A batch, or without B a row, of nothing but padding, for segments to be written into.

    Args:
        arrangement: a key of `ARRANGEMENTS`.
        padding_id: value of the arrays whose padding depends on the dataset.
        **sizes: see `batch_shapes`.
    """
    shapes = batch_shapes(arrangement, **sizes)
    arrays = {}
    for array in ARRANGEMENTS[arrangement]:
        value = padding_id if array.padding is None else array.padding
        if value is None:
            raise ValueError(f"{arrangement}: {array.name} needs a padding_id")
        shape, dtype = shapes[array.name]
        arrays[array.name] = np.full(shape, value, dtype)
    return arrays
