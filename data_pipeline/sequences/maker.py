"""From token records to sequences: one of each task and copy, or the reason why there is none."""

import dataclasses
from typing import Any

from data_pipeline.datasets.sequence_dataset import DIALOGUE
from data_pipeline.datasets.sequence_records import SequenceRecord
from data_pipeline.datasets.token_records import Record
from data_pipeline.sequences import interleaving
from data_pipeline.sequences.templates import INSTRUCTIONS, Example, Template, choose_instruction


class Unusable(Exception):
    """A record yields no sequence: `kind` is the category to count, the message the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class SequenceMaker:
    """Makes sequences.

    Attributes:
        template: builds them.
        train_on: one of `templates.TRAIN_ON`.
        max_length: ids of the longest sequence; longer ones are refused.
        seed: seeds the choice of wordings and of spans.
        span_words: mean number of words of a span of `interleaved`.
    """

    template: Template
    train_on: str
    max_length: int
    seed: int = 0
    span_words: float = 5.0

    def from_record(self, record: Record, task: str, copy: int = 0) -> SequenceRecord:
        """The sequence of a record for a task that is no dialogue; may raise Unusable."""
        units = _units(record)
        if task == "pretrain":
            return self._sequence(record.id, task, copy, answer_units=units)
        text = _text(record)
        if task == "interleaved":
            rng = interleaving.generator(task, self.seed, record.id, copy)
            try:
                spans = interleaving.interleave(text, units, self.span_words, rng)
            except ValueError as error:
                raise Unusable("unusable", str(error)) from error
            return self._sequence(record.id, task, copy, spans=spans)
        if task == "asr":
            return self._sequence(record.id, task, copy, question_units=units, transcript=text)
        return self._sequence(record.id, task, copy, question_text=text, answer_units=units)

    def from_dialogue(
        self, name: str, question: Record, answer: Record, task: str, copy: int = 0
    ) -> SequenceRecord:
        """The sequence of a question and its answer for a task of `templates.DIALOGUE`."""
        if task not in DIALOGUE:
            raise ValueError(f"{task} is not a dialogue task")
        spoken, written = task.split("_to_")
        parts: dict[str, Any] = {"answer_text": _text(answer)}
        if spoken == "speech":
            parts |= {"question_units": _units(question), "transcript": _text(question)}
        else:
            parts["question_text"] = _text(question)
        if written == "speech":
            parts["answer_units"] = _units(answer)
        return self._sequence(name, task, copy, **parts)

    def _sequence(self, name: str, task: str, copy: int, **parts: Any) -> SequenceRecord:
        if task in INSTRUCTIONS:
            parts["instruction"] = choose_instruction(task, self.seed, name, copy)
        try:
            built = self.template.build(Example(**parts))
        except ValueError as error:  # no units, a text without ids, a unit out of range
            raise Unusable("unusable", str(error)) from error
        if len(built.ids) > self.max_length:
            reason = f"longer than max_length: {len(built.ids)} ids, {self.max_length} are allowed"
            raise Unusable("too_long", reason)
        return SequenceRecord(
            id=sequence_id(name, task, copy),
            task=task,
            ids=built.ids,
            loss_mask=built.loss_mask(self.train_on),
        )


def sequence_id(name: str, task: str, copy: int) -> str:
    """Id of a sequence, unique in its dataset where the name is."""
    return f"{name}:{task}:{copy}" if copy else f"{name}:{task}"


def _units(record: Record) -> tuple[int, ...]:
    return tuple(record.units.tolist())


def _text(record: Record) -> str:
    if not (record.text and record.text.strip()):
        raise Unusable("no_transcript", f"no transcript of {record.id}")
    return record.text
