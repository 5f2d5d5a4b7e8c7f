"""Other tokenizers: rows of kept ids are moved to their new indices, whatever the layout."""

import numpy as np
import pytest

from data_pipeline.tokens import NUM_SPECIALS, TokenLayout
from gpst_jax.warm_start.vocabulary import VocabularyChange

OLD = TokenLayout(num_units=5, num_codebooks=2, codebook_size=4)
LARGER = TokenLayout(num_units=7, num_codebooks=3, codebook_size=6)
SMALLER = TokenLayout(num_units=3, num_codebooks=1, codebook_size=2)


def _table(rows: int) -> np.ndarray:
    """Rows that contain their index."""
    return np.arange(rows, dtype=np.float32)[:, None] + np.array([[0.0, 0.5]], np.float32)


@pytest.mark.parametrize("new", [LARGER, SMALLER])
def test_units_and_codes_keep_their_rows(new):
    change = VocabularyChange(OLD, new, keep=True)
    units = min(OLD.num_units, new.num_units)
    books, codes = min(2, new.num_codebooks), min(4, new.codebook_size)
    found = change("global_net/embed/embedding", _table(OLD.global_vocab), (new.global_vocab, 2))
    ids = [np.arange(NUM_SPECIALS), OLD.units_to_ids(np.arange(units))]
    new_ids = list(ids)
    for layout, out in ((OLD, ids), (new, new_ids)):
        out.append(layout.semantic_vocab + np.arange(NUM_SPECIALS))
        grid = layout.code_offsets()[:books, None] + np.arange(codes)
        out.append(layout.semantic_vocab + grid.ravel())
    np.testing.assert_array_equal(
        found[np.concatenate(new_ids)], _table(OLD.global_vocab)[np.concatenate(ids)]
    )
    assert found.dtype == np.float32
    local = change("local_net/embed/embedding", _table(OLD.acoustic_vocab), (new.acoustic_vocab, 2))
    place = new.code_offsets()[books - 1]
    np.testing.assert_array_equal(
        local[place : place + codes],
        _table(OLD.acoustic_vocab)[OLD.code_offsets()[books - 1] :][:codes],
    )


def test_heads_change_along_their_classes_and_codebooks():
    change = VocabularyChange(OLD, LARGER, keep=True)
    head = _table(OLD.semantic_vocab).T
    found = change("semantic_head/kernel", head, (2, LARGER.semantic_vocab))
    np.testing.assert_array_equal(found[:, : OLD.semantic_vocab], head)
    heads = np.stack([_table(OLD.acoustic_classes).T + 100 * q for q in range(2)])
    found = change("acoustic_head/kernel", heads, (3, 2, LARGER.acoustic_classes))
    np.testing.assert_array_equal(found[:2, :, : OLD.acoustic_classes], heads)
    shared = _table(OLD.acoustic_classes).T
    found = change("acoustic_head/kernel", shared, (2, LARGER.acoustic_classes))
    np.testing.assert_array_equal(found[:, : OLD.acoustic_classes], shared)
    places = change("local_net/positions/embedding", _table(2), (3, 2))
    np.testing.assert_array_equal(places[:2], _table(2))


def test_replaced_vocabularies_keep_special_ids_only():
    table = _table(OLD.semantic_vocab).T
    found = VocabularyChange(OLD, OLD, keep=False)("semantic_head/kernel", table, table.shape)
    np.testing.assert_array_equal(found[:, :NUM_SPECIALS], table[:, :NUM_SPECIALS])
    assert not np.isclose(found[:, NUM_SPECIALS:], table[:, NUM_SPECIALS:]).any()
    assert np.abs(found).max() < 3 * np.abs(table).max()  # of the size of the old rows


def test_layers_are_unchanged():
    kernel = np.ones((2, 3, 3), np.float32)
    change = VocabularyChange(OLD, LARGER, keep=False)
    assert change("global_net/layers/attn/q/kernel", kernel, kernel.shape) is kernel
