"""What a language model says: units of texts that it reads aloud, and of answers to questions."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers.text import load_text_tokenizer
from gpst_jax.samples.language import semantic_tasks
from gpst_jax.synthesis.models import Model
from gpst_jax.synthesis.requests import SpeechRequest

_CHARACTERS_PER_SECOND = 15.0  # of speech
# A limit for speech that does not end: four times what is usual, in steps, so that few programs
# are compiled.
_SECONDS_PER_CHARACTER, _STEP_SECONDS = 4 / _CHARACTERS_PER_SECOND, 10.0
_STREAMS, _NEXT_STREAM = 2**31 - 1, 7919  # random streams of the parts of a text


@dataclasses.dataclass(frozen=True)
class Said:
    """What is said: units (T,), and the words that were read, understood or written."""

    units: np.ndarray
    words: dict[str, str | None]


class Writer:
    """A language model that decides what is said.

    Args:
        model: the language model.
        spec: contract of the tokens of the model that renders its units.
        second: that model, for messages.
        batch_size: requests decoded at once.
        options: how text and units are sampled, see `SemanticTasks`.
        report: called with lines about what is done to inputs.

    Raises:
        UserError: the two were trained on different units.
    """

    def __init__(
        self,
        model: Model,
        spec: DatasetSpec,
        second: Model,
        batch_size: int,
        options: Mapping[str, Any],
        report: Callable[[str], None],
    ):
        self._tasks = semantic_tasks(
            (model.loaded, model.directory),
            spec,
            second.directory,
            batch_size=batch_size,
            max_seconds=_STEP_SECONDS / 100,  # `lasting` says how long
            **options,
        )
        contract = self._tasks.spec
        self._tokenizer = load_text_tokenizer(Path(model.directory) / contract.text_tokenizer.path)
        self._trained_seconds = contract.max_length / contract.semantic.frame_rate
        self._report, self.step = report, model.loaded.step

    def check(self, request: SpeechRequest) -> None:
        """Raises UserError for characters of a text that the vocabulary lacks."""
        if lacking := self._tokenizer.lacking(request.text or ""):
            raise UserError(
                f"{request.name('text')}: the vocabulary of the language model "
                f"({self._tokenizer.id}) lacks {', '.join(map(repr, lacking))}: write it in other "
                "characters"
            )

    def say(self, wanted: Mapping[int, tuple[SpeechRequest, np.ndarray | None]]) -> dict[int, Said]:
        """Reads texts aloud and answers questions, in batches.

        Args:
            wanted: by number, requests and the units (S,) of their questions.

        Returns:
            By number; a text that is longer than what was trained on is read in parts.
        """
        said: dict[int, Said] = {}
        groups: dict[tuple[str, float], list[int]] = {}
        for number, (request, _) in wanted.items():
            groups.setdefault((request.mode, _longest(request)), []).append(number)
        for (mode, seconds), numbers in groups.items():
            if mode == "tts":
                said |= self._read([(number, wanted[number][0]) for number in numbers], seconds)
            else:
                said |= self._answer([(number, *wanted[number]) for number in numbers], seconds)
        return said

    def _read(self, texts: Sequence[tuple[int, SpeechRequest]], seconds: float) -> dict[int, Said]:
        most = round(self._trained_seconds * _CHARACTERS_PER_SECOND / 2)
        parts = [
            (number, part, (request.seed + _NEXT_STREAM * turn) % _STREAMS)
            for number, request in texts
            for turn, part in enumerate(split_text(request.text or "", most))
        ]
        if len(parts) > len(texts):
            self._report(f"texts of more than {most} characters are read in parts")
        units = self._tasks.lasting(seconds).read_aloud(
            [part for _, part, _ in parts], items=[stream for *_, stream in parts]
        )
        joined: dict[int, list[np.ndarray]] = {}
        for (number, *_), of_part in zip(parts, units, strict=True):
            joined.setdefault(number, []).append(of_part)
        return {
            number: Said(np.concatenate(joined[number]), {"text": request.text})
            for number, request in texts
        }

    def _answer(
        self, questions: Sequence[tuple[int, SpeechRequest, np.ndarray | None]], seconds: float
    ) -> dict[int, Said]:
        units = [np.asarray(asked) for *_, asked in questions]
        longest = max(map(len, units)) / self._tasks.spec.semantic.frame_rate
        if longest > self._trained_seconds:
            self._report(
                f"a question lasts {longest:.1f} s, the language model was trained on "
                f"{self._trained_seconds:.1f} s of question and answer"
            )
        replies = self._tasks.lasting(seconds).converse(
            units, items=[request.seed for _, request, _ in questions]
        )
        return {
            number: Said(
                np.array(reply.answer_units or (), np.int32),
                {"understood": reply.transcript, "written": reply.answer_text},
            )
            for (number, *_), reply in zip(questions, replies, strict=True)
        }


def split_text(text: str, most: int) -> list[str]:
    """Parts of a text of at most `most` characters, cut after sentences, clauses or words."""
    text = " ".join(text.split())
    for pattern in (r"(?<=[.!?])\s", r"(?<=[,;:])\s", r"\s"):
        if len(text) <= most:
            return [text]
        pieces = re.split(pattern, text)
        if max(map(len, pieces)) <= most:
            break
    parts = [pieces[0]]
    for piece in pieces[1:]:
        if len(parts[-1]) + 1 + len(piece) <= most:
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
    return parts


def _longest(request: SpeechRequest) -> float:
    """How long the language model may speak, in seconds."""
    if request.seconds is not None:
        return request.seconds
    steps = -(-len(request.text or "") * _SECONDS_PER_CHARACTER // _STEP_SECONDS)
    return max(1.0, steps) * _STEP_SECONDS
