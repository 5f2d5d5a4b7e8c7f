"""Runs the tasks of SpeechGPT-Gen over evaluation items and writes samples with their manifests.

Content comes from the language model or from a recording, the voice from a prompt of a few seconds;
flow matching joins them (arXiv 2401.13527, section 3.4).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from data_pipeline.sequences.dialogues import read_dialogues
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import FlowConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowRequest, FlowSampler, FlowSettings
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.samples.items import Item, ItemSet, Stretch, text_kind
from gpst_jax.samples.manifest import blank_entry
from gpst_jax.samples.writer import (
    Entries,
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
    sentences: int = 20  # of text that is no digits, read aloud beside the items
    prompt_seconds: float = 3.0
    text: SamplingConfig = dataclasses.field(default_factory=lambda: SamplingConfig(top_k=1))
    units: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.7)
    )
    flow: FlowSettings = dataclasses.field(default_factory=FlowSettings)
    batch_size: int = 100
    seed: int = 0
    workers: int = 2

    def __post_init__(self):
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise UserError(f"--modes: unknown {unknown[0]!r}; choose from {', '.join(TASKS)}")


class CoIGSamples:
    """Generates all conditions of a pair of models on one dataset.

    Args:
        flow: a loaded checkpoint of flow matching.
        language: a loaded checkpoint of the language model, with the directory of its sequences;
            None where only voices are converted.
        dataset_dir: directory of dataset.json of tokens.
        spec: its contents; made with the tokenizers that both models were trained on.
        audio_dir: root of the recordings.
        output: directory of the samples.
        dialogues: file of questions and answers, see `data_pipeline.sequences.dialogues`; None
            leaves dialogues out.
        config: what is generated.
        report: called with a line of text as work goes on.

    Raises:
        UserError: tokenizers differ, or a task lacks its model.
        ConfigError: a checkpoint is of another family.
    """

    def __init__(
        self,
        flow: Loaded,
        language: tuple[Loaded, str | Path] | None,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        dialogues: str | None,
        config: CoIGConfig,
        report: Callable[[str], None] = print,
    ):
        check_tokenizers(spec, dataset_dir, DatasetSpec.parse(flow.dataset, "the checkpoint"))
        if language is None and set(config.tasks) & {"tts", "dialogue"}:
            raise UserError("tts and dialogue need a language model: give --lm_workdir")
        if "dialogue" in config.tasks and dialogues is None:
            raise UserError(
                "dialogue needs questions: give --dialogue=FILE.jsonl, or leave it out of --modes"
            )
        self.config, self.report, self.spec = config, report, spec
        self._dialogues = dialogues
        self._sampler = FlowSampler(
            flow.config.model_as(FlowConfig), spec.layout(), flow.params, config.flow
        )
        self._language: SemanticTasks | None = None
        if language is not None:
            model, directory = language
            self._language = SemanticTasks(
                model,
                directory,
                text=config.text,
                units=config.units,
                batch_size=config.batch_size,
                seed=config.seed,
            )
            ours, theirs = spec.semantic.sha256, self._language.spec.semantic.sha256
            if ours != theirs:
                raise UserError(
                    f"{dataset_dir}: its units have sha256 {ours}, those of the language model "
                    f"{theirs}: both stages must be trained on the units of one tokenizer"
                )
        self.writer = SampleWriter(
            dataset_dir,
            spec,
            audio_dir,
            output,
            provenance={
                "step": flow.step,
                "lm_step": language[0].step if language else None,
                "dataset": spec.fingerprint,
                **dataclasses.asdict(config),
            },
            seed=config.seed,
            workers=config.workers,
            report=report,
        )

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition."""
        with self.writer:
            splits = list(self.writer.splits(self.config.items, self.config.unseen_items))
            if not splits:
                raise UserError("the dataset has no items in valid or unseen")
            # A voice that training never heard, where there is one, reads what is written.
            readers = splits[-1][0]
            counts: dict[str, int] = {}
            for items, chosen, suffix in splits:
                counts |= self._split(items, chosen, suffix, readers)
            return {name: count for name, count in counts.items() if count}

    def _split(
        self, items: ItemSet, chosen: list[Item], suffix: str, readers: ItemSet
    ) -> dict[str, int]:
        conditions: dict[str, Callable[[], Entries]] = {
            "recording": functools.partial(self.writer.recording, items, chosen, suffix),
            "codec": functools.partial(self.writer.codec, chosen, suffix),
        }
        if "tts" in self.config.tasks and not suffix:
            conditions["tts"] = functools.partial(self._tts, "tts", readers, chosen, suffix)
            sentences = _sentences(items, self.config.sentences)
            if sentences and any(item.text_kind == "digits" for item in chosen):
                conditions["tts_sentences"] = functools.partial(
                    self._tts, "tts_sentences", readers, sentences, suffix
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

    def _tts(self, name: str, readers: ItemSet, chosen: Sequence[Item], suffix: str) -> Entries:
        """The words of each item in the voice of a prompt."""
        written = [item for item in chosen if item.text]
        if not written or self._language is None:
            return []
        with progress(f"{name} units", len(written)) as advance:
            units = self._language.read_aloud([str(item.text) for item in written], advance)
        jobs = []
        for item, own in zip(written, units, strict=True):
            entry = self.writer.entry(item, suffix) | {"source_audio": None}
            jobs.append(_Job(entry, own, self._prompt(readers, item)))
        return self._render(name, readers, jobs, own_speaker=True)

    def _voice_conversion(self, items: ItemSet, chosen: Sequence[Item], suffix: str) -> Entries:
        """What each item says in the voice of another speaker."""
        jobs = [
            _Job(
                self.writer.entry(item, suffix),
                units_of(self.writer.parts(item)),
                self._prompt(items, item),
            )
            for item in chosen
        ]
        return self._render("voice_conversion" + suffix, items, jobs)

    def _dialogue(self, items: ItemSet, count: int, suffix: str) -> Entries:
        """Answers to spoken questions in the voice of a prompt."""
        assert self._dialogues is not None
        assert self._language is not None
        name, split = "dialogue" + suffix, items.split
        readers: dict[str, RecordReader] = {}

        def read(place: tuple[str, int]):
            if place[0] not in readers:
                readers[place[0]] = RecordReader(self.writer.dataset_dir, place[0])
            return readers[place[0]][place[1]]

        pairs = [
            (dialogue.id, read(dialogue.question), read(dialogue.answer))
            for dialogue in read_dialogues(
                self._dialogues, str(self.writer.dataset_dir), self.spec.splits
            )
            if dialogue.split == split and dialogue.question and dialogue.answer
        ]
        pairs = _spread(pairs, count)
        if not pairs:
            return []
        with progress(f"{name} answers", len(pairs)) as advance:
            answers = self._language.converse([question.units for _, question, _ in pairs], advance)
        jobs = []
        for (id_, question, answer), said in zip(pairs, answers, strict=True):
            own = id_.replace("/", "_")
            path = f"{own}-question"
            part = (question.units, question.codes)
            asked = Stretch(question.source, question.start, question.end, part, question.text)
            self.writer.write(name, path, items.audio([asked]))
            entry = blank_entry() | {
                "id": own,
                "audio": f"{own}.wav",
                "text": answer.text,
                "text_kind": text_kind(answer.text),
                "question": question.text,
                "question_audio": f"{path}.wav",
                "question_transcript": said.transcript,
                "answer_text": said.answer_text,
            }
            units = np.array(said.answer_units or (), np.int32)
            prompt = self._prompt(items, Item(own, question.speaker, (asked,)))
            jobs.append(_Job(entry, units, prompt))
        return self._render(name, items, jobs, own_speaker=True)

    def _prompt(self, items: ItemSet, item: Item) -> Prompt | None:
        return self.writer.prompt(items, item, self.config.prompt_seconds)

    def _render(
        self, name: str, items: ItemSet, jobs: Sequence["_Job"], *, own_speaker: bool = False
    ) -> Entries:
        """Samples latents for units and prompts and writes their audio.

        Args:
            name: of the condition.
            items: that the prompts are from.
            jobs: what to render; those without a prompt are left out, with a word.
            own_speaker: the sample has no voice but the prompt's to be compared with.
        """
        prompted = [job for job in jobs if job.prompt is not None]
        if len(prompted) < len(jobs):
            self.report(
                f"{name}: {len(jobs) - len(prompted)} of {len(jobs)} items have no other speaker "
                f"with {self.config.prompt_seconds} s of speech to prompt with"
            )
        entries: Entries = []
        references: dict[str, np.ndarray] = {}
        requests: dict[str, FlowRequest] = {}
        for index, job in enumerate(prompted):
            assert job.prompt is not None
            entry = dict(job.entry)
            if own_speaker:
                entry["speaker"] = job.prompt.speaker
            entries.append(self.writer.prompted_entry(name, items, job.prompt, entry, references))
            given = self.writer.join(job.prompt.stretches)
            if len(job.units):  # else the sample's file is missing, and counts as silence
                requests[entry["id"]] = FlowRequest(
                    units=job.units,
                    prompt_units=units_of(given),
                    prompt_codes=codes_of(given),
                    item=index,
                )
        self.writer.vocode(name, references)
        self.writer.vocode(name, self._latents(name, requests))
        return entries

    def _latents(self, name: str, requests: Mapping[str, FlowRequest]) -> dict[str, np.ndarray]:
        if not requests:
            return {}
        with progress(f"{name} latents", len(requests)) as advance:
            found = self._sampler.sample(
                list(requests.values()),
                seed=self.config.seed,
                batch_size=self.config.batch_size,
                on_progress=advance,
            )
        return dict(zip(requests, found, strict=True))


@dataclasses.dataclass(frozen=True)
class _Job:
    """One sample to make."""

    entry: Mapping[str, Any]
    units: np.ndarray
    prompt: Prompt | None


def _sentences(items: ItemSet, count: int) -> list[Item]:
    """Items of whole recordings whose text is no string of digits."""
    found = [
        item
        for item in items.all
        if item.text and item.text_kind == "free" and len(item.stretches) == 1
    ]
    return _spread(found, count)


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of the items, from all over the list."""
    if len(items) <= count:
        return items
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, count)]
