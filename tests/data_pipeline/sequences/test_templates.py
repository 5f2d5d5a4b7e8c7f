"""Templates: parse inverts build and accepts any ids; the loss mask covers the right turns."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import fit_text_tokenizer
from data_pipeline.datasets.sequence_dataset import DIALOGUE, TASKS
from data_pipeline.sequences import templates
from data_pipeline.sequences.templates import (
    ANSWER,
    INSTRUCTIONS,
    PREFIX,
    USER,
    Example,
    Template,
    choose_instruction,
)
from data_pipeline.tokenizers.text import SentencePieceTokenizer
from data_pipeline.tokens.vocabulary import SPECIALS, Vocabulary

UNITS = 50


@functools.cache
def _template(directory: str) -> Template:
    return Template(Vocabulary(_tokenizer(directory).vocab_size, UNITS), _tokenizer(directory))


@functools.cache
def _tokenizer(directory: str) -> SentencePieceTokenizer:
    path = f"{directory}/tokenizer.model"
    with open(path, "wb") as file:
        file.write(fit_text_tokenizer.train(["one two", *templates.all_texts()], 400))
    return SentencePieceTokenizer(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Template:
    return _template(str(tmp_path_factory.mktemp("text")))


# Any text without sentencepiece's symbol for a space, and not only white space.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0"), max_size=20
)
texts = texts.filter(lambda text: text.strip())
units = st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=12).map(tuple)


@st.composite
def examples(draw, tasks=tuple(task for task in TASKS if task != "interleaved")) -> Example:
    task = draw(st.sampled_from(tasks))
    parts = {name: draw(texts if "units" not in name else units) for name in templates._PARTS[task]}
    if "instruction" in parts:
        parts["instruction"] = choose_instruction(task, draw(st.integers()))
    return Example(**parts)


@settings(max_examples=150)
@given(example=examples())
def test_what_is_built_is_parsed(template: Template, example: Example) -> None:
    built = template.build(example)
    assert built.ids.dtype == np.int32
    assert built.ids.shape == built.roles.shape
    assert template.parse(built.ids) == example
    assert template.parse(built.ids).task == example.task
    # The answer can be parsed from a continuation alone, without its prompt.
    prompt = template.prompt(example)
    if example.task != "pretrain":
        np.testing.assert_array_equal(built.ids[: len(prompt)], prompt)
        answer = template.parse(built.ids[len(prompt) :])
        asked = template.parse(prompt)
        for name in ("transcript", "answer_text", "answer_units"):
            assert getattr(answer, name) == getattr(example, name)
            assert getattr(asked, name) is None
        for name in ("instruction", "question_text", "question_units"):
            assert getattr(asked, name) == getattr(example, name)


@settings(max_examples=150)
@given(example=examples(), data=st.data())
def test_truncated_and_tagless_sequences_parse_into_what_is_there(
    template: Template, example: Example, data: st.DataObject
) -> None:
    ids = template.build(example).ids
    cut = ids[: data.draw(st.integers(0, len(ids)))]
    found = template.parse(cut)
    for name in ("question_units", "answer_units"):  # what is there is a beginning
        whole = getattr(example, name) or ()
        part = getattr(found, name) or ()
        assert whole[: len(part)] == part
    tags = [place for place, token in enumerate(ids) if template.vocabulary.name(int(token))]
    lost = data.draw(st.sets(st.sampled_from(tags)))
    without = template.parse(np.delete(ids, sorted(lost)))
    total = len(example.question_units or ()) + len(example.answer_units or ())
    assert len(without.question_units or ()) + len(without.answer_units or ()) == total


@settings(max_examples=200)
@given(data=st.data())
def test_anything_at_all_can_be_parsed(template: Template, data: st.DataObject) -> None:
    vocabulary = template.vocabulary
    markers = st.sampled_from([vocabulary.id(name) for name in SPECIALS])
    anything = st.integers(-3, vocabulary.size + 3)
    ids = data.draw(st.lists(st.one_of(markers, anything), max_size=30))
    assert isinstance(template.parse(ids), Example)


def test_units_keep_their_number_and_repeats(template: Template) -> None:
    spoken = (7, 7, 7, 1, 1, 7)
    example = Example(instruction="Say this aloud.", question_text="one", answer_units=spoken)
    ids = template.build(example).ids
    found = ids[template.vocabulary.is_unit(ids)]
    np.testing.assert_array_equal(template.vocabulary.ids_to_units(found), spoken)


@pytest.mark.parametrize("task", TASKS)
def test_the_prefix_is_never_trained_and_the_answer_always(template: Template, task: str) -> None:
    values = {"instruction": INSTRUCTIONS.get(task, ("",))[0], "spans": ("one", (1, 2))}
    values |= {name: "one two" for name in ("question_text", "transcript", "answer_text")}
    parts = {name: values.get(name, (1, 2)) for name in templates._PARTS[task]}
    instructed = task in INSTRUCTIONS
    tokenizer = _WithStart(template.tokenizer)
    built = dataclasses.replace(template, tokenizer=tokenizer).build(Example(**parts))
    everything, answer = built.loss_mask("all"), built.loss_mask("answer")
    system = tokenizer.encode(template.system) if instructed else []
    prefix = [*tokenizer.prefix, *system]
    assert built.ids[: len(prefix)].tolist() == prefix
    np.testing.assert_array_equal(everything, np.arange(len(built.ids)) >= len(prefix))
    assert set(built.roles.tolist()) == {PREFIX, ANSWER} | ({USER} if instructed else set())
    begin = 0
    if instructed:
        begin = built.ids.tolist().index(template.vocabulary.id("assistant")) + 1
    np.testing.assert_array_equal(
        answer == 1, (everything == 1) & (np.arange(len(answer)) >= begin)
    )
    with pytest.raises(ValueError, match="train_on"):
        built.loss_mask("human")


class _WithStart:
    """A tokenizer whose sequences begin with an id of their own, as Llama's do."""

    prefix = (1,)

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)


def test_speech_to_speech_answers_in_a_chain(template: Template) -> None:
    example = Example(
        instruction=INSTRUCTIONS["speech_to_speech"][0],
        question_units=(1, 2),
        transcript="one",
        answer_text="two",
        answer_units=(3, 4, 4),
    )
    ids = template.build(example).ids.tolist()
    names = [name for token in ids if (name := template.vocabulary.name(token))]
    assert names == [
        "user", "input", "speech_start", "speech_end", "end_of_turn", "assistant",
        "question_transcript", "text_answer", "speech_answer", "speech_start", "speech_end", "end",
    ]  # fmt: skip


def test_wordings_are_chosen_by_a_hash(template: Template) -> None:
    for task, wordings in INSTRUCTIONS.items():
        assert len(set(wordings)) == len(wordings) >= 3
        drawn = [choose_instruction(task, 0, name, 0) for name in range(100)]
        assert drawn == [choose_instruction(task, 0, name, 0) for name in range(100)]
        assert drawn != [choose_instruction(task, 1, name, 0) for name in range(100)]
        assert set(drawn) == set(wordings)
    assert set(INSTRUCTIONS) == set(TASKS) - {"pretrain", "interleaved"}
    assert set(DIALOGUE) < set(INSTRUCTIONS)


def test_what_belongs_to_no_task_is_refused(template: Template) -> None:
    with pytest.raises(ValueError, match="not those of one task"):
        template.build(Example(question_units=(1,)))
    with pytest.raises(ValueError, match="question_text is empty"):
        template.build(Example(instruction="a", question_text="", answer_units=(1,)))
    with pytest.raises(ValueError, match="answer_units are empty"):
        template.build(Example(answer_units=()))
    with pytest.raises(ValueError, match="not all in"):
        template.build(Example(answer_units=(UNITS,)))
    with pytest.raises(ValueError, match="room for"):
        Template(Vocabulary(10, UNITS), template.tokenizer)
