"""Text and units in turns: every word is said once, in time, and draws repeat."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import build_sequences, fit_text_tokenizer
from data_pipeline.build_sequences import SequencesConfig
from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences import templates
from data_pipeline.sequences.interleaving import generator, interleave
from data_pipeline.tokenizers.text import MODEL_FILE, load_text_tokenizer

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=30)


@given(words=WORDS, seed=st.integers(0, 9999), span_words=st.floats(1, 8))
def test_every_word_is_given_once_as_text_or_as_its_units(words, seed, span_words):
    letters = "".join(words)
    units = tuple(range(len(letters)))  # one for each letter: the time of a word is exact
    spans = interleave(" ".join(words), units, span_words, generator(seed))
    said = [span.replace(" ", "") if isinstance(span, str) else span for span in spans]
    place = 0
    for span in said:
        part = letters[place : place + len(span)]
        assert span == part or list(span) == list(range(place, place + len(part)))
        place += len(span)
    assert place == len(letters)
    kinds = [isinstance(span, str) for span in spans]
    assert all(a != b for a, b in itertools.pairwise(kinds))


def test_lengths_are_drawn_around_their_mean_and_either_begins():
    text, units = " ".join("w" * 1000), range(4000)
    drawn = [interleave(text, units, 4.0, generator(n)) for n in range(20)]
    lengths = [len(span.split()) for spans in drawn for span in spans if isinstance(span, str)]
    assert np.mean(lengths) == pytest.approx(4.0, abs=0.2)
    assert len(set(lengths)) > 5
    assert Counter(isinstance(spans[0], str) for spans in drawn).keys() == {True, False}
    assert interleave(text, units, 4.0, generator(0)) == drawn[0]
    assert {len(span) for span in interleave("a b c d", range(8), 1.0, generator(1))} == {1, 2}


def test_words_without_a_unit_are_refused():
    with pytest.raises(ValueError, match="no words"):
        interleave("  ", range(4), 2.0, generator(0))
    with pytest.raises(ValueError, match="no unit of their own"):
        interleave("a b c d e f g h", range(2), 1.0, generator(0))


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_dataset, make_token_record):
    """A token dataset `tokens` and a tokenizer `text`."""
    root = tmp_path_factory.mktemp("interleaved")
    (root / "text").mkdir()
    model = fit_text_tokenizer.train(["one two three", *templates.all_texts()], 420)
    (root / "text" / MODEL_FILE).write_bytes(model)
    made = [make_token_record(n, "ab"[n % 2], seed=0) for n in range(12)]
    made = [dataclasses.replace(record, text="one two three") for record in made]
    made[3] = dataclasses.replace(made[3], text=None)
    write_dataset(root / "tokens", {"train": made})
    return root


def _build(root, output, **changes):
    build_sequences.build_sequences(
        SequencesConfig(str(root / "tokens"), str(root / output), str(root / "text"), **changes)
    )
    return SequenceSpec.load(root / output), list(SequenceReader(root / output, "train"))


def test_the_dataset_has_text_and_units_and_its_loss_is_on_both(root):
    spec, sequences = _build(
        root, "made", tasks=("interleaved", "pretrain"), copies=3, span_words=1
    )
    assert spec.tasks == ("pretrain", "interleaved")
    found = [sequence for sequence in sequences if sequence.task == "interleaved"]
    assert len(found) == 11 * 3  # one record has no transcript
    tokenizer, vocabulary = load_text_tokenizer(root / "text"), spec.vocabulary
    for sequence in found:
        ids = np.asarray(sequence.ids)
        marked = ids[len(tokenizer.prefix) :]
        assert sequence.loss_mask[len(tokenizer.prefix) :].all()
        assert vocabulary.is_unit(marked).any()
        assert (marked < vocabulary.text_size).any()
        assert marked[-1] == vocabulary.end
        starts, ends = (marked == vocabulary.id(f"speech_{side}") for side in ("start", "end"))
        assert starts.sum() == ends.sum() >= 1
        words = tokenizer.decode(marked[marked < vocabulary.text_size].tolist()).split()
        assert set(words) < {"one", "two", "three"}  # the others are spoken
    by_record = Counter(bytes(np.asarray(sequence.ids)) for sequence in found)
    assert len(by_record) > 11  # copies differ


def test_other_tasks_do_not_depend_on_its_setting(root):
    first, _ = _build(root, "plain", tasks=("pretrain",))
    again, _ = _build(root, "plain", tasks=("pretrain",), span_words=2.0)
    assert first.fingerprint == again.fingerprint
    with pytest.raises(UserError, match=r"--span_words=0\.5"):
        _build(root, "never", tasks=("interleaved",), span_words=0.5)
