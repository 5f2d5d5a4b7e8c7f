"""The vocabulary: the text ids extended by exactly the special tokens and units."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipeline.tokens.vocabulary import SPECIALS, Vocabulary

VOCABULARY = Vocabulary(text_size=32000, num_units=1024)


def test_grows_by_exactly_the_units_and_the_special_tokens() -> None:
    assert VOCABULARY.size == 32000 + len(SPECIALS) + 1024
    ids = np.arange(VOCABULARY.size)
    np.testing.assert_array_equal(np.flatnonzero(VOCABULARY.is_text(ids)), np.arange(32000))
    units = np.flatnonzero(VOCABULARY.is_unit(ids))
    np.testing.assert_array_equal(units, VOCABULARY.unit_start + np.arange(1024))
    markers = [VOCABULARY.id(name) for name in SPECIALS]
    assert sorted([*range(32000), *markers, *units]) == ids.tolist()


def test_special_tokens_and_units_have_inverses() -> None:
    assert [VOCABULARY.name(VOCABULARY.id(name)) for name in SPECIALS] == list(SPECIALS)
    for other in (-1, 0, 31999, VOCABULARY.unit_start, VOCABULARY.size):
        assert VOCABULARY.name(other) is None
    units = np.array([0, 5, 5, 1023], np.uint16)
    ids = VOCABULARY.units_to_ids(units)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(VOCABULARY.ids_to_units(ids), units)
    assert VOCABULARY.padding == VOCABULARY.id("padding")
    assert VOCABULARY.end == VOCABULARY.id("end")


def test_wrong_units_ids_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1024 are not all in 0 .. 1023"):
        VOCABULARY.units_to_ids(np.array([3, 1024]))
    with pytest.raises(ValueError, match="not all ids are units"):
        VOCABULARY.ids_to_units(np.array([VOCABULARY.unit_start, 5]))
    with pytest.raises(ValueError, match="music"):
        VOCABULARY.id("music")
    with pytest.raises(ValueError, match="positive"):
        Vocabulary(0, 10)
    with pytest.raises(ValueError, match="special ids"):
        dataclasses.replace(VOCABULARY, specials=(*SPECIALS, "music"))


def test_json_gives_back_an_equal_one() -> None:
    assert Vocabulary.from_json(json.loads(json.dumps(VOCABULARY.to_json()))) == VOCABULARY
