"""Templates of sequences of text and speech: building them, and parsing a model's output.

    pretrain        [prefix] speech_start UNITS speech_end end
    interleaved     [prefix] TEXT speech_start UNITS speech_end TEXT ... end, see `interleaving`
    everything else [prefix] SYSTEM user INSTRUCTION input QUESTION end_of_turn assistant ANSWER end

QUESTION is text or a span of speech. ANSWER holds, in this order, what the task has of

    question_transcript TEXT   text_answer TEXT   speech_answer speech_start UNITS speech_end

so ASR is the first step of the chain of modality in a spoken dialogue, and TTS its last (arXiv
2305.11000, section 3.2: cross-modal and chain-of-modality instructions). Repeated units are kept:
the second stage needs one for every frame.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipeline.datasets.sequence_dataset import TRAIN_ON
from data_pipeline.sequences.interleaving import Span
from data_pipeline.tokenizers.text import TextTokenizer
from data_pipeline.tokens.vocabulary import Vocabulary

PREFIX, USER, ANSWER = 0, 1, 2  # roles of positions

SYSTEM = "This assistant listens, reads, speaks and writes."

INSTRUCTIONS = {
    "asr": (
        "Write down what you hear.",
        "Which words are spoken here?",
        "Turn this speech into text.",
        "Please note the words of this recording.",
        "Listen and give me the transcript.",
        "What does this voice say?",
    ),
    "tts": (
        "Say this aloud.",
        "Read the following text out.",
        "How does this sound when spoken?",
        "Please speak these words.",
        "Turn this text into speech.",
        "Lend your voice to this line.",
    ),
    "speech_to_speech": (
        "Note my words, write your answer, then say it.",
        "Write what I said, then your reply, and speak the reply.",
        "Hear me out: words first, then the answer, then its sound.",
    ),
    "speech_to_text": (
        "Note my words, then write your answer.",
        "Write what I said and reply to it in writing.",
        "Hear me out: words first, then a written answer.",
    ),
    "text_to_speech": (
        "Write your answer, then say it.",
        "Reply in writing and speak the reply.",
        "First the written answer, then its sound.",
    ),
    "text_to_text": (
        "Write your answer.",
        "Reply in writing.",
        "Give a written answer.",
    ),
}

# The parts of an example of each task.
_PARTS = {
    "pretrain": ("answer_units",),
    "interleaved": ("spans",),
    "asr": ("instruction", "question_units", "transcript"),
    "tts": ("instruction", "question_text", "answer_units"),
    "speech_to_speech": (
        "instruction",
        "question_units",
        "transcript",
        "answer_text",
        "answer_units",
    ),
    "speech_to_text": ("instruction", "question_units", "transcript", "answer_text"),
    "text_to_speech": ("instruction", "question_text", "answer_text", "answer_units"),
    "text_to_text": ("instruction", "question_text", "answer_text"),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """The parts of one sequence; missing parts are None.

    Attributes:
        instruction: what the assistant is to do.
        question_text: the question or input, as text.
        question_units: the question or input, as speech.
        transcript: the words of `question_units`.
        answer_text: the answer as text.
        answer_units: the answer as speech; for `pretrain` the complete record.
        spans: text and units in turns; for `interleaved`.
    """

    instruction: str | None = None
    question_text: str | None = None
    question_units: tuple[int, ...] | None = None
    transcript: str | None = None
    answer_text: str | None = None
    answer_units: tuple[int, ...] | None = None
    spans: tuple[Span, ...] | None = None

    @property
    def task(self) -> str | None:
        """The task of TASKS that has exactly these parts; None if there is none."""
        have = {name for name in _PART_NAMES if getattr(self, name) is not None}
        return next((task for task, parts in _PARTS.items() if have == set(parts)), None)


_PART_NAMES = tuple(field.name for field in dataclasses.fields(Example))


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """An example as ids.

    Attributes:
        ids: (n,) int32.
        roles: (n,) uint8, PREFIX, USER or ANSWER.
    """

    ids: np.ndarray
    roles: np.ndarray

    def loss_mask(self, train_on: str) -> np.ndarray:
        """(n,) uint8: 1 where the id is to be predicted.

        The prefix never is. "all" trains on both turns, as the published recipe does; "answer"
        on the assistant's only.
        """
        if train_on not in TRAIN_ON:
            raise ValueError(f"train_on must be one of {TRAIN_ON}, not {train_on!r}")
        return (self.roles >= (USER if train_on == "all" else ANSWER)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Template:
    """Builds sequences and parses them.

    Attributes:
        vocabulary: the ids.
        tokenizer: the text tokenizer.
        system: system text at the beginning of sequences with an instruction; may be empty.
    """

    vocabulary: Vocabulary
    tokenizer: TextTokenizer
    system: str = SYSTEM

    def __post_init__(self) -> None:
        """Raises ValueError where tokenizer and vocabulary differ in size."""
        if self.tokenizer.vocab_size != self.vocabulary.text_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the vocabulary has room for "
                f"{self.vocabulary.text_size}"
            )

    def build(self, example: Example) -> Built:
        """The sequence of an example; ValueError where a part is empty or belongs to no task."""
        if example.task is None:
            raise ValueError(f"these parts are not those of one task: {example}")
        ids, roles = [*self.tokenizer.prefix], [PREFIX] * len(self.tokenizer.prefix)
        if example.instruction is not None:
            prompt, prompt_roles = self._prompt(example)
            ids, roles = ids + prompt, roles + prompt_roles
        answer = self._answer(example)
        ids, roles = ids + answer, roles + [ANSWER] * len(answer)
        return Built(np.array(ids, np.int32), np.array(roles, np.uint8))

    def prompt(self, example: Example) -> np.ndarray:
        """Ids (n,) int32 up to the assistant's answer, whose parts are ignored.

        Without an instruction, the start of a span of speech and `question_units` as its beginning.
        """
        ids = [*self.tokenizer.prefix]
        if example.instruction is not None:
            return np.array(ids + self._prompt(example)[0], np.int32)
        units = () if example.question_units is None else example.question_units
        start = [self.vocabulary.id("speech_start")]
        return np.array(
            ids + start + self.vocabulary.units_to_ids(np.array(units)).tolist(), np.int32
        )

    def parse(self, ids: Iterable[int]) -> Example:
        """The parts of a sequence, or of any piece of one; never raises.

        Markers may be missing or repeated: text belongs to the part that the last marker opened,
        units to the question between `user` and `end_of_turn`, else to the answer. Parsing stops
        at `end` or padding. Of `interleaved` it finds the units.
        """
        return _Parser(self.vocabulary, self.tokenizer).parse(ids)

    def _prompt(self, example: Example) -> tuple[list[int], list[int]]:
        marker = self.vocabulary.id
        system = self.tokenizer.encode(self.system) if self.system else []
        question = [marker("user"), *self._text("instruction", example.instruction)]
        question.append(marker("input"))
        if example.question_units is not None:
            question += self._speech("question_units", example.question_units)
        else:
            question += self._text("question_text", example.question_text)
        question.append(marker("end_of_turn"))
        ids = [*system, *question, marker("assistant")]
        # `assistant` is part of the prompt, so it has the role of the question.
        return ids, [PREFIX] * len(system) + [USER] * (len(question) + 1)

    def _answer(self, example: Example) -> list[int]:
        ids: list[int] = []
        for span in example.spans or ():
            if isinstance(span, str):
                ids += self._text("a text", span)
            else:
                ids += self._speech("units", span)
        for name, text in (
            ("question_transcript", example.transcript),
            ("text_answer", example.answer_text),
        ):
            if text is not None:
                ids += [self.vocabulary.id(name), *self._text(name, text)]
        if example.answer_units is not None:
            if example.instruction is not None:
                ids.append(self.vocabulary.id("speech_answer"))
            ids += self._speech("answer_units", example.answer_units)
        return [*ids, self.vocabulary.end]

    def _text(self, name: str, text: str | None) -> list[int]:
        ids = self.tokenizer.encode(text) if text else []
        if not ids:
            raise ValueError(f"{name} is empty")
        return ids

    def _speech(self, name: str, units: Sequence[int]) -> list[int]:
        if not len(units):
            raise ValueError(f"{name} are empty")
        ids = self.vocabulary.units_to_ids(np.array(units)).tolist()
        return [self.vocabulary.id("speech_start"), *ids, self.vocabulary.id("speech_end")]


# The part that text after a marker belongs to; None: it is ignored.
_TEXT_AFTER = {
    "user": "instruction",
    "input": "question_text",
    "end_of_turn": None,
    "assistant": None,
    "question_transcript": "transcript",
    "text_answer": "answer_text",
    "speech_answer": None,
}
_QUESTION = ("user", "input")


class _Parser:
    """State of parsing one sequence."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: TextTokenizer):
        self._vocabulary, self._tokenizer = vocabulary, tokenizer
        self._texts: dict[str, list[int]] = {}
        self._units: dict[str, list[int]] = {}

    def parse(self, ids: Iterable[int]) -> Example:
        vocabulary = self._vocabulary
        text: str | None = None
        units = "answer_units"
        for token in map(int, ids):
            name = vocabulary.name(token)
            if name in ("end", "padding"):
                break
            if name in _TEXT_AFTER:
                text = _TEXT_AFTER[name]
                units = "question_units" if name in _QUESTION else "answer_units"
            elif vocabulary.unit_start <= token < vocabulary.size:
                self._units.setdefault(units, []).append(token - vocabulary.unit_start)
            elif 0 <= token < vocabulary.text_size and text is not None:
                self._texts.setdefault(text, []).append(token)
        parts: dict[str, Any] = {name: tuple(found) for name, found in self._units.items()}
        for name, found in self._texts.items():
            parts[name] = self._tokenizer.decode(found) or None
        return Example(**parts)


def choose_instruction(task: str, *keys: object) -> str:
    """One of a task's instructions, by a hash of the keys: the choice never changes."""
    wordings = INSTRUCTIONS[task]
    digest = hashlib.sha256("\0".join(map(str, (task, *keys))).encode()).digest()
    return wordings[int.from_bytes(digest[:8], "big") % len(wordings)]


def all_texts() -> list[str]:
    """Every text that templates put into sequences: a new tokenizer should be trained on them."""
    return [SYSTEM, *(text for wordings in INSTRUCTIONS.values() for text in wordings)]
