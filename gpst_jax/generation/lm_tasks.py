"""Tasks of the semantic language model: text-to-speech, speech recognition, spoken dialogue.

Prompts are built and answers parsed with the templates of its training; units keep their frame
rate, so that the second stage has one per frame (arXiv 2401.13527, section 3).
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.sequences.templates import Example, Template, choose_instruction
from data_pipeline.tokenizers.text import load_text_tokenizer
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import SemanticLMConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.lm_grammar import PARTS, Grammar, answer_grammar
from gpst_jax.generation.lm_sampler import LMDecoder, LMRequest


class SemanticTasks:
    """A trained language model with its templates.

    Args:
        model: a loaded checkpoint of a semantic language model.
        dataset_dir: the sequences that it was trained on, for the text tokenizer.
        text: how text is sampled.
        units: how units are sampled.
        max_seconds: limit on the ids of an answer, as seconds of speech.
        batch_size: items decoded at once.
        seed: fixes the samples.
        weights: that are decoded with, see `LMDecoder`.

    Raises:
        UserError: the dataset is missing or damaged.
        ConfigError: the checkpoint is of another family.
    """

    def __init__(
        self,
        model: Loaded,
        dataset_dir: str | Path,
        *,
        text: SamplingConfig,
        units: SamplingConfig,
        max_seconds: float = 10.0,
        batch_size: int = 100,
        seed: int = 0,
        weights: str | None = None,
    ):
        self.spec = SequenceSpec.parse(model.dataset, "the checkpoint of the language model")
        tokenizer = load_text_tokenizer(Path(dataset_dir) / self.spec.text_tokenizer.path)
        self._template = Template(self.spec.vocabulary, tokenizer, self.spec.system)
        config = model.config.model_as(SemanticLMConfig)
        self._decoder = LMDecoder(config, self.spec.vocabulary, model.params, weights=weights)
        self._sampling: dict[str, Any] = {
            "text": text,
            "units": units,
            "seed": seed,
            "batch_size": batch_size,
        }
        self._max_new = round(max_seconds * self.spec.semantic.frame_rate)

    def lasting(self, seconds: float) -> Self:
        """The same with speech that may last `seconds`, if `max_seconds` is less."""
        most = round(seconds * self.spec.semantic.frame_rate)
        if most <= self._max_new:
            return self
        longer = copy.copy(self)
        longer._max_new = most
        return longer

    def read_aloud(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        *,
        items: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Text-to-speech: units (T,) of each text; T = 0 where the model generated none.

        Args:
            texts: what is read.
            on_progress: called with the number of items after each batch.
            items: index of each text's random stream; None: its place.
        """
        examples = [
            Example(instruction=choose_instruction("tts", text), question_text=text)
            for text in texts
        ]
        answers = self._answer(examples, ("speech_answer",), on_progress, items)
        return [_units(answer) for answer in answers]

    def transcribe(
        self,
        speech: Sequence[np.ndarray],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Speech recognition: the transcript of each utterance's units (T,)."""
        examples = [
            Example(
                instruction=choose_instruction("asr", index), question_units=tuple(units.tolist())
            )
            for index, units in enumerate(speech)
        ]
        answers = self._answer(examples, ("question_transcript",), on_progress)
        return [answer.transcript or "" for answer in answers]

    def converse(
        self,
        speech: Sequence[np.ndarray],
        on_progress: Callable[[int], None] | None = None,
        *,
        items: Sequence[int] | None = None,
    ) -> list[Example]:
        """Spoken dialogue: the answer to each spoken question, by chain of modality.

        Args:
            speech: units (T,) of each question.
            on_progress: called with the number of items after each batch.
            items: index of each question's random stream and instruction; None: its place.

        Returns:
            Examples whose `transcript` is that of the question, `answer_text` the written and
            `answer_units` the spoken answer; parts that the model did not generate are None.
        """
        examples = [
            Example(
                instruction=choose_instruction("speech_to_speech", index),
                question_units=tuple(units.tolist()),
            )
            for index, units in zip(items or range(len(speech)), speech, strict=True)
        ]
        return self._answer(examples, PARTS, on_progress, items)

    def _answer(
        self,
        examples: Sequence[Example],
        parts: Sequence[str],
        on_progress: Callable[[int], None] | None,
        items: Sequence[int] | None = None,
    ) -> list[Example]:
        grammar: Grammar = answer_grammar(self.spec.vocabulary, parts)
        requests = [
            LMRequest(self._template.prompt(example), self._max_new, item=index)
            for index, example in zip(items or range(len(examples)), examples, strict=True)
        ]
        results = self._decoder.decode(requests, grammar, on_progress=on_progress, **self._sampling)
        # The new ids are parsed as the assistant's turn.
        begin = [self.spec.vocabulary.id("assistant")]
        return [self._template.parse([*begin, *result.ids.tolist()]) for result in results]


def _units(answer: Example) -> np.ndarray:
    return np.array(answer.answer_units or (), np.int32)
