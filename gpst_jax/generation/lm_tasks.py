"""What the semantic language model is asked to do: read aloud, write down, answer.

Prompts are built and answers read by the templates that it was trained on; units keep their frame
rate, so that the second stage has one for every frame (arXiv 2401.13527, section 3).
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
    """A trained language model behind its templates.

    Args:
        model: a loaded checkpoint of a semantic language model.
        dataset_dir: the sequences that it was trained on, for the text tokenizer.
        text: how text is sampled.
        units: how units are sampled.
        max_seconds: of speech, after which an answer is cut off.
        batch_size: items decoded at once.
        seed: fixes what is drawn.

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
    ):
        self.spec = SequenceSpec.parse(model.dataset, "the checkpoint of the language model")
        tokenizer = load_text_tokenizer(Path(dataset_dir) / self.spec.text_tokenizer.path)
        self._template = Template(self.spec.vocabulary, tokenizer, self.spec.system)
        config = model.config.model_as(SemanticLMConfig)
        self._decoder = LMDecoder(config, self.spec.vocabulary, model.params)
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
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Units (T,) of each text; none where the model gave none."""
        examples = [
            Example(instruction=choose_instruction("tts", text), question_text=text)
            for text in texts
        ]
        answers = self._answer(examples, ("speech_answer",), on_progress)
        return [_units(answer) for answer in answers]

    def transcribe(
        self,
        speech: Sequence[np.ndarray],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """The words of each utterance's units (T,)."""
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
    ) -> list[Example]:
        """The answer to each spoken question, by chain of modality.

        Args:
            speech: units (T,) of each question.
            on_progress: called with the number of items after each batch.

        Returns:
            Examples whose `transcript` is what was understood, `answer_text` the answer in writing
            and `answer_units` in speech; what the model did not give is None.
        """
        examples = [
            Example(
                instruction=choose_instruction("speech_to_speech", index),
                question_units=tuple(units.tolist()),
            )
            for index, units in enumerate(speech)
        ]
        return self._answer(examples, PARTS, on_progress)

    def _answer(
        self,
        examples: Sequence[Example],
        parts: Sequence[str],
        on_progress: Callable[[int], None] | None,
    ) -> list[Example]:
        grammar: Grammar = answer_grammar(self.spec.vocabulary, parts)
        requests = [
            LMRequest(self._template.prompt(example), self._max_new, item=index)
            for index, example in enumerate(examples)
        ]
        results = self._decoder.decode(requests, grammar, on_progress=on_progress, **self._sampling)
        # What the model wrote is read as the assistant's turn.
        begin = [self.spec.vocabulary.id("assistant")]
        return [self._template.parse([*begin, *result.ids.tolist()]) for result in results]


def _units(answer: Example) -> np.ndarray:
    return np.array(answer.answer_units or (), np.int32)
