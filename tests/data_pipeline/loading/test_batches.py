"""The batch contract: loader and objectives agree with the tables, array by array."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_frames

from data_pipeline import build_sequences, fit_text_tokenizer
from data_pipeline.build_sequences import SequencesConfig
from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.loading.batches import ARRANGEMENTS, batch_shapes, padding_arrays
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences import templates
from data_pipeline.tokenizers.text import MODEL_FILE
from data_pipeline.tokens import TokenLayout
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    RunConfig,
    SemanticLMConfig,
    TransformerConfig,
)
from gpst_jax.objectives import GPSTObjective, SemanticLMObjective

B, L, F, Q = 2, 600, 340, 3
SIZES = {"B": B, "L": L, "F": F, "Q": Q}
# The array that is 0 in padding, by the last axis of those that share it.
MASKS = {
    "interleaved": {"L": "segment_ids", "F": "frame_segments"},
    "frames": {"F": "segment_ids"},
    "sequences": {"L": "segment_ids"},
}


def _packing(arrangement: str) -> PackingConfig:
    return PackingConfig(L, F, crop_seconds=2.0, seed=3, arrangement=arrangement)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, write_dataset, make_token_record) -> dict:
    """A dataset for each arrangement."""
    root = tmp_path_factory.mktemp("batches")
    records = [make_token_record(number, "ab"[number % 2]) for number in range(20)]
    write_dataset(root / "interleaved", {"train": records})

    paired = [
        dataclasses.replace(record, codes=record.codes[:, : len(record.units)])
        for record in records
    ]
    spec = write_dataset(root / "frames", {"train": paired})
    silence = dataclasses.replace(spec.silence, codes=((1,) * 5, (2,) * 5, (3,) * 5))
    codec = dataclasses.replace(spec.codec, frame_rate=50.0)
    dataclasses.replace(spec, codec=codec, silence=silence).sealed().save(root / "frames")

    (root / "text").mkdir()
    (root / "text" / MODEL_FILE).write_bytes(
        fit_text_tokenizer.train(["one two three", *templates.all_texts()], 420)
    )
    settings = SequencesConfig(
        str(root / "interleaved"), str(root / "sequences"), str(root / "text"), tasks=("pretrain",)
    )
    build_sequences.build_sequences(settings)
    return {arrangement: root / arrangement for arrangement in ARRANGEMENTS}


def _padding_id(datasets, arrangement: str) -> int | None:
    if arrangement != "sequences":
        return None
    return SequenceSpec.load(datasets[arrangement]).vocabulary.padding


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_batches_of_the_loader_match_the_table(datasets, arrangement: str) -> None:
    loader = Loader(datasets[arrangement], "train", _packing(arrangement), B, repeat=False)
    batches = list(loader)
    expected = batch_shapes(arrangement, **SIZES)
    padding = padding_arrays(arrangement, _padding_id(datasets, arrangement), **SIZES)
    some = False
    for batch in batches:
        assert {name: (a.shape, a.dtype) for name, a in batch.items()} == expected
        for array in ARRANGEMENTS[arrangement]:
            letter = array.axes[1]
            unused = batch[MASKS[arrangement][letter]] == 0
            some |= bool(unused.any())
            np.testing.assert_array_equal(
                batch[array.name][unused], padding[array.name][unused], err_msg=array.name
            )
    assert some
    assert len(batches) > 1


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_row_of_padding_is_the_table_without_a_batch_axis(datasets, arrangement: str) -> None:
    loader = Loader(datasets[arrangement], "train", _packing(arrangement), B)
    row = loader._rows.row(None)
    sizes = {letter: size for letter, size in SIZES.items() if letter != "B"}
    found = {name: (array.shape, array.dtype) for name, array in row.items()}
    assert found == batch_shapes(arrangement, **sizes)
    whole = padding_arrays(arrangement, _padding_id(datasets, arrangement), **SIZES)
    for name, array in row.items():
        np.testing.assert_array_equal(array, whole[name][0], err_msg=name)


def _gpst(net: TransformerConfig) -> GPSTObjective:
    config = RunConfig("toy", GPSTConfig(global_net=net, local_net=net), DataConfig(batch_size=B))
    return GPSTObjective(config, TokenLayout(20, Q, 16))


def _semantic_lm(net: TransformerConfig) -> SemanticLMObjective:
    config = RunConfig("toy", SemanticLMConfig(net), DataConfig(batch_size=B))
    return SemanticLMObjective(config, Vocabulary(30, 20))


@pytest.mark.parametrize(
    ("arrangement", "make"),
    [
        ("interleaved", _gpst),
        ("frames", toy_frames.flow),
        ("frames", toy_frames.soundstorm),
        ("sequences", _semantic_lm),
    ],
)
def test_the_batch_spec_of_an_objective_is_the_table(arrangement: str, make) -> None:
    objective = make(TransformerConfig(16, 1, 2, 32))
    data = objective.config.data
    shapes = batch_shapes(
        arrangement, B=data.batch_size, L=data.sequence_length, F=data.frame_budget, Q=Q
    )
    expected = {name: jax.ShapeDtypeStruct(*array) for name, array in shapes.items()}
    assert objective.batch_spec() == expected
    # The arrangement that a training run asks the loader for.
    assert getattr(objective, "arrangement", "interleaved") == arrangement


def test_packing_knows_the_arrangements_and_no_other() -> None:
    for arrangement in ARRANGEMENTS:
        assert _packing(arrangement).arrangement == arrangement
    with pytest.raises(UserError, match="arrangement must be"):
        _packing("columns")


def test_every_array_says_what_its_integers_mean() -> None:
    for arrays in ARRANGEMENTS.values():
        assert len({array.name for array in arrays}) == len(arrays)
        for array in arrays:
            assert set(array.axes) <= set(SIZES)
            assert "padding" in array.meaning
            assert ("-1, no target" in array.meaning) == (array.padding == -1)


def test_padding_of_a_vocabulary_must_be_given() -> None:
    with pytest.raises(ValueError, match="tokens needs a padding_id"):
        padding_arrays("sequences", L=8)
