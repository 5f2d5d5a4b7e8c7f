"""Runs the tasks of SpeechGPT-Gen over evaluation items and writes samples with their manifests.

Semantic units come from the language model or from a recording, speaker identity from a prompt of a
few seconds; the perceptual stage, flow matching or SoundStorm, renders the units in that voice
(arXiv 2401.13527, section 3.4).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from data_pipeline.sequences.dialogues import read_dialogues
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.frame_batches import FrameRequest
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.samples.items import Item, ItemSet, Segment
from gpst_jax.samples.language import Language, semantic_tasks
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.perceptual import PerceptualSettings, family_of, make_stage
from gpst_jax.samples.texts import text_kind
from gpst_jax.samples.writer import (
    Prompt,
    SampleWriter,
    check_tokenizers,
    codes_of,
    units_of,
)

TASKS = ("tts", "voice_conversion", "dialogue")


@dataclasses.dataclass(frozen=True)
class CoIGConfig:
    """What is generated. Durations are in seconds."""

    tasks: tuple[str, ...] = TASKS
    items: int = 200
    unseen_items: int = 60
    sentences: int = 20  # texts other than digit strings, read aloud as a condition of their own
    prompt_seconds: float = 3.0
    languages: tuple[str | None, str | None] = (None, None)  # of items and prompts; None: any
    text: SamplingConfig = dataclasses.field(default_factory=lambda: SamplingConfig(top_k=1))
    units: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.7)
    )
    perceptual: PerceptualSettings = dataclasses.field(default_factory=FlowSettings)
    batch_size: int = 100
    seed: int = 0
    workers: int = 2

    def __post_init__(self):
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise UserError(f"--mode: unknown {unknown[0]!r}; choose from {', '.join(TASKS)}")

    def provenance(self) -> dict[str, Any]:
        """The fields for settings.json; `perceptual` is stored under its family's name."""
        values = dataclasses.asdict(self)
        if not any(self.languages):
            del values["languages"]  # as before there was a choice
        family = family_of(self.perceptual)
        return {family if name == "perceptual" else name: values[name] for name in values}


class CoIGSamples:
    """Generates all conditions of a perceptual stage and a language model on one dataset.

    Args:
        stage: a loaded checkpoint of the perceptual stage.
        language: a loaded checkpoint of the language model, with the directory of its sequences;
            None if voice conversion is the only task.
        dataset_dir: directory of the token dataset's dataset.json.
        spec: its contents; made with the tokenizers that both models were trained on.
        audio_dir: root of the recordings.
        output: directory of the samples.
        dialogues: file of questions and answers, see `data_pipeline.sequences.dialogues`; needed
            for dialogue only.
        config: what is generated.
        report: called with lines of progress.

    Raises:
        UserError: tokenizers differ, or a task lacks its model or its dialogues.
        ConfigError: a checkpoint is of another family than its role or settings need.
    """

    def __init__(
        self,
        stage: Loaded,
        language: Language | None,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        dialogues: str | None,
        config: CoIGConfig,
        report: Callable[[str], None] = print,
    ):
        check_tokenizers(spec, dataset_dir, DatasetSpec.parse(stage.dataset, "the checkpoint"))
        if language is None and set(config.tasks) & {"tts", "dialogue"}:
            raise UserError("tts and dialogue need a language model: give --lm_workdir")
        if "dialogue" in config.tasks and dialogues is None:
            raise UserError(
                "dialogue needs questions: give --dialogue=FILE.jsonl, or leave it out of --mode"
            )
        self.config, self.report, self.spec = config, report, spec
        self._dialogues = dialogues
        self._stage = make_stage(stage, spec.layout(), config.perceptual)
        self._language: SemanticTasks | None = None
        if language is not None:
            self._language = semantic_tasks(
                language,
                spec,
                dataset_dir,
                text=config.text,
                units=config.units,
                batch_size=config.batch_size,
                seed=config.seed,
            )
        self.writer = SampleWriter(
            dataset_dir,
            spec,
            audio_dir,
            output,
            provenance={
                "step": stage.step,
                "lm_step": language[0].step if language else None,
                "dataset": spec.fingerprint,
                **config.provenance(),
            },
            models={"stage": stage} | ({"language": language[0]} if language else {}),
            seed=config.seed,
            workers=config.workers,
            languages=config.languages,
            report=report,
        )

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition."""
        with self.writer:
            splits = list(self.writer.splits(self.config.items, self.config.unseen_items))
            if not splits:
                raise UserError("the dataset has no items in valid or unseen")
            # Texts are read aloud by unseen speakers where there are any.
            tts_speakers = splits[-1][0]
            counts: dict[str, int] = {}
            for items, chosen, suffix in splits:
                counts |= self._split(items, chosen, suffix, tts_speakers)
            return {name: count for name, count in counts.items() if count}

    def _split(
        self, items: ItemSet, chosen: list[Item], suffix: str, tts_speakers: ItemSet
    ) -> dict[str, int]:
        conditions: dict[str, Callable[[], list[Sample]]] = {
            "recording": functools.partial(self.writer.recording, items, chosen, suffix),
            "codec": functools.partial(self.writer.codec, chosen, suffix),
        }
        if "tts" in self.config.tasks and not suffix:
            conditions["tts"] = functools.partial(self._tts, "tts", tts_speakers, chosen)
            sentences = _sentences(items, self.config.sentences)
            if sentences and any(item.text_kind == "digits" for item in chosen):
                conditions["tts_sentences"] = functools.partial(
                    self._tts, "tts_sentences", tts_speakers, sentences
                )
        if "voice_conversion" in self.config.tasks:
            conditions["voice_conversion"] = functools.partial(
                self._voice_conversion, items, chosen, suffix
            )
        if "dialogue" in self.config.tasks:
            conditions["dialogue"] = functools.partial(self._dialogue, items, len(chosen), suffix)
        return {
            name + suffix: self.writer.condition(name + suffix, run)
            for name, run in conditions.items()
        }

    def _tts(self, name: str, speakers: ItemSet, chosen: Sequence[Item]) -> list[Sample]:
        """The text of each item in the voice of a prompt."""
        texts = [item for item in chosen if item.text]
        if not texts or self._language is None:
            return []
        with progress(f"{name} units", len(texts)) as advance:
            language = self._language.lasting(2 * max(item.seconds for item in texts))
            units = language.read_aloud([str(item.text) for item in texts], advance)
        jobs = []
        for item, of_item in zip(texts, units, strict=True):
            sample = dataclasses.replace(self.writer.sample(item, ""), source_audio=None)
            jobs.append(_Job(sample, of_item, self._prompt(speakers, item)))
        return self._render(name, speakers, jobs, prompt_is_speaker=True)

    def _voice_conversion(
        self, items: ItemSet, chosen: Sequence[Item], suffix: str
    ) -> list[Sample]:
        """The units of each item in the voice of another speaker."""
        jobs = [
            _Job(
                self.writer.sample(item, suffix),
                units_of(self.writer.parts(item)),
                self._prompt(items, item),
            )
            for item in chosen
        ]
        return self._render("voice_conversion" + suffix, items, jobs)

    def _dialogue(self, items: ItemSet, count: int, suffix: str) -> list[Sample]:
        """Answers to spoken questions in the voice of a prompt."""
        assert self._language is not None
        condition = "dialogue" + suffix
        pairs = _spread(self._questions_and_answers(items.split), count)
        if not pairs:
            return []
        with progress(f"{condition} answers", len(pairs)) as advance:
            replies = self._language.converse([question.units for _, question, _ in pairs], advance)
        jobs = []
        for (dialogue_id, question, answer), reply in zip(pairs, replies, strict=True):
            name = dialogue_id.replace("/", "_")
            part = (question.units, question.codes)
            segment = Segment(question.source, question.start, question.end, part, question.text)
            self.writer.write(condition, f"{name}-question", items.audio([segment]))
            sample = Sample(
                id=name,
                audio=Path(f"{name}.wav"),
                text=answer.text,
                text_kind=text_kind(answer.text),
                language=None if answer.language == "und" else answer.language,
                speaker=question.speaker,
                question=question.text,
                question_audio=Path(f"{name}-question.wav"),
                question_transcript=reply.transcript,
                answer_text=reply.answer_text,
            )
            units = np.array(reply.answer_units or (), np.int32)
            prompt = self._prompt(items, Item(name, question.speaker, (segment,)))
            jobs.append(_Job(sample, units, prompt))
        return self._render(condition, items, jobs, prompt_is_speaker=True)

    def _questions_and_answers(self, split: str) -> list[tuple[str, Record, Record]]:
        """Id, question and answer of a split's dialogues; those that lack a record are skipped."""
        assert self._dialogues is not None
        directory = self.writer.dataset_dir
        reader = functools.cache(functools.partial(RecordReader, directory))
        pairs = []
        for dialogue in read_dialogues(self._dialogues, str(directory), self.spec.splits):
            if dialogue.split == split and dialogue.question and dialogue.answer:
                question, answer = (
                    reader(split_of_record)[number]
                    for split_of_record, number in (dialogue.question, dialogue.answer)
                )
                pairs.append((dialogue.id, question, answer))
        return pairs

    def _prompt(self, items: ItemSet, item: Item) -> Prompt | None:
        return self.writer.prompt(items, item, self.config.prompt_seconds)

    def _render(
        self,
        condition: str,
        items: ItemSet,
        jobs: Sequence["_Job"],
        *,
        prompt_is_speaker: bool = False,
    ) -> list[Sample]:
        """Runs the perceptual stage on units and prompts and writes their audio.

        Args:
            condition: name of the condition.
            items: that the prompts were taken from.
            jobs: what to render; those without a prompt are skipped and reported.
            prompt_is_speaker: there is no source utterance: the sample's speaker is the prompt's.
        """
        prompted = [job for job in jobs if job.prompt is not None]
        if len(prompted) < len(jobs):
            self.report(
                f"{condition}: {len(jobs) - len(prompted)} of {len(jobs)} items have no other "
                f"speaker with {self.config.prompt_seconds} s of speech for a prompt"
            )
        samples: list[Sample] = []
        references: dict[str, np.ndarray] = {}
        requests: dict[str, FrameRequest] = {}
        for index, job in enumerate(prompted):
            assert job.prompt is not None
            sample = job.sample
            if prompt_is_speaker:
                sample = dataclasses.replace(sample, speaker=job.prompt.speaker)
            samples.append(
                self.writer.with_prompt(condition, items, job.prompt, sample, references)
            )
            prompt = self.writer.join(job.prompt.segments)
            if len(job.units):  # else no audio is written, which evaluation scores as a failure
                requests[sample.id] = FrameRequest(
                    units=job.units,
                    prompt_units=units_of(prompt),
                    prompt_codes=codes_of(prompt),
                    item=index,
                )
        self.writer.vocode(condition, references)
        self.writer.vocode(condition, self._run_stage(condition, requests))
        return samples

    def _run_stage(
        self, condition: str, requests: Mapping[str, FrameRequest]
    ) -> dict[str, np.ndarray]:
        """What the codec decodes, by name of the request."""
        if not requests:
            return {}
        with progress(f"{condition} perceptual stage", len(requests)) as advance:
            sampled = self._stage.sample(
                list(requests.values()),
                seed=self.config.seed,
                batch_size=self.config.batch_size,
                on_progress=advance,
            )
        return dict(zip(requests, sampled, strict=True))


@dataclasses.dataclass(frozen=True)
class _Job:
    """A sample to render: its semantic units (T,) and its prompt, if one was found."""

    sample: Sample
    units: np.ndarray
    prompt: Prompt | None


def _sentences(items: ItemSet, count: int) -> list[Item]:
    """Items of one segment with a text that is not a digit string."""
    sentences = [
        item
        for item in items.all
        if item.text and item.text_kind == "free" and len(item.segments) == 1
    ]
    return _spread(sentences, count)


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced."""
    if len(items) <= count:
        return items
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, count)]
