"""Generates the conditions of a listed task: every mode over every item, as files with manifests.

Speech is made in batches, and what is finished is kept: an interrupted run goes on with the next
batch. An item is what it would be alone, whatever the batch, so that it then gives the same.
"""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.audio.io import AudioError
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import read_audio
from data_pipeline.sources.reading import stored_utterance
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.texts import text_kind
from gpst_jax.samples.writer import SampleWriter
from gpst_jax.synthesis.files import RESULTS_FILE, write_speech
from gpst_jax.synthesis.inputs import SpeechEncoder
from gpst_jax.synthesis.models import Model
from gpst_jax.synthesis.requests import MODES, SpeechRequest
from gpst_jax.synthesis.synthesizer import Speech, SynthesisSettings, Synthesizer
from gpst_jax.tasks.base import Item, ItemList, ListedTask

PROMPTS = "prompts"  # folder of the recordings of voices; no condition
_STREAMS = 2**31 - 1


class ListedSamples:
    """Writes the conditions of a task on one model.

    Args:
        task: what is rendered how.
        chosen: its items.
        model: GPST, or a perceptual stage.
        language: the language model, which reading aloud needs.
        output: directory of the samples.
        settings: how speech is sampled.
        workers: processes that run the codec's decoder for the ceiling.
        report: called with lines of progress.

    Raises:
        UserError: the task is not for models of this family, or lacks the language model.
    """

    def __init__(
        self,
        task: ListedTask,
        chosen: ItemList,
        model: Model,
        language: Model | None,
        output: str | Path,
        settings: SynthesisSettings,
        workers: int,
        report: Callable[[str], None] = print,
    ):
        self._task, self._chosen, self._output = task, chosen, Path(output)
        self._model, self._report, self._settings = model, report, settings
        family = model.loaded.config.model.family
        self.modes = task.modes.get(family, ())
        if not self.modes:
            raise UserError(
                f"--task={task.name} is for models of family {' or '.join(task.modes)}, "
                f"--workdir={model.path} is of family {family!r}"
            )
        if language is None and any(MODES[family][mode].language_model for mode in self.modes):
            raise UserError(
                f"--task={task.name} has texts read aloud: give the language model as --lm_workdir"
            )
        self._inputs = MODES[family]
        self._synthesizer = Synthesizer(model, language, settings, lambda line: None)
        self._writer = SampleWriter(
            model.directory,
            self._synthesizer.spec,
            chosen.root,
            self._output,
            provenance={
                "task": task.name,
                "items": chosen.sha256,
                "modes": self.modes,
                "given_seconds": task.given_seconds,
                "recipe": self._synthesizer.recipe(),
            },
            models={"model": model.loaded}
            | ({} if language is None else {"language": language.loaded}),
            seed=0,
            workers=workers,
            report=report,
        )

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition.

        Raises:
            UserError: a recording cannot be read, or the directory holds samples of other settings.
        """
        spoken = [item for item in self._chosen.items if item.source]
        if 0 < len(spoken) < len(self._chosen.items):
            self._report(f"{len(spoken)} of {len(self._chosen.items)} items have recordings")
        counts = {}
        with self._writer as writer:
            self._write_prompts()
            if spoken:
                run = functools.partial(self._recording, spoken)
                counts["recording"] = writer.condition("recording", run)
                run = functools.partial(self._codec, spoken)
                counts["codec"] = writer.condition("codec", run)
            for mode in self.modes:
                counts[mode] = writer.condition(mode, functools.partial(self._render, mode))
        return {name: count for name, count in counts.items() if count}

    def describe(self) -> dict[str, Any]:
        """Why speech ended, by condition, and which items could not be rendered, as JSON values."""
        ended: dict[str, dict[str, int]] = {}
        refused: dict[str, dict[str, str]] = {}
        for mode in self.modes:
            lines = list(read_results(self._output / mode / RESULTS_FILE).values())
            reasons = {line["id"]: line["failure"] for line in lines if line.get("failure")}
            made = [str(line["ended_by"]) for line in lines if "ended_by" in line]
            ended[mode] = dict(sorted(Counter(made).items()))
            if reasons:
                refused[mode] = reasons
        return {"ended_by": ended} | ({"refused": refused} if refused else {})

    # Recordings.

    def _write_prompts(self) -> None:
        folder = self._output / PROMPTS
        folder.mkdir(parents=True, exist_ok=True)
        for item in self._chosen.items:
            if item.prompt:
                self._copy(item.prompt, folder / f"{item.id}.wav")

    def _recording(self, items: Sequence[Item]) -> list[Sample]:
        with progress("recordings", len(items)) as advance:
            for item in items:
                self._copy(str(item.source), self._output / "recording" / f"{item.id}.wav")
                advance(1)
        return self._ceilings(items)

    def _codec(self, items: Sequence[Item]) -> list[Sample]:
        """The recordings resynthesised; one that the tokenizers refuse has no audio."""
        encoder = SpeechEncoder(self._model.directory, self._synthesizer.spec, lambda line: None)
        codes: dict[str, np.ndarray] = {}
        with progress("codec tokens", len(items)) as advance:
            for item in items:
                try:
                    path = self._output / "recording" / f"{item.id}.wav"
                    codes[item.id] = encoder.source(path, item.id)[1]
                except UserError as error:
                    self._report(f"codec: {error}")
                advance(1)
        self._writer.vocode("codec", codes)
        return self._ceilings(items)

    def _copy(self, source: str, target: Path) -> None:
        """Writes a recording at the rate of the model's dataset, unless it is there."""
        if target.exists():
            return
        rate = self._synthesizer.spec.sample_rate
        try:
            wav = read_audio(stored_utterance(source, self._chosen.root), rate)
        except AudioError as error:
            raise UserError(f"{self._chosen.root / source}: {error.reason}") from error
        write_speech(target, wav, rate)

    def _ceilings(self, items: Sequence[Item]) -> list[Sample]:
        """Samples of recordings, each beside another recording of its speaker, if there is one."""
        by_speaker: dict[str, list[str]] = {}
        for item in items:
            by_speaker.setdefault(item.speaker, []).append(item.id)
        samples = []
        for item in items:
            ids = by_speaker[item.speaker]
            prompt = None
            if item.prompt and item.prompt_speaker == item.speaker:
                prompt = Path("..", PROMPTS, f"{item.id}.wav")
            elif len(ids) > 1:
                following = ids[(ids.index(item.id) + 1) % len(ids)]
                prompt = Path("..", "recording", f"{following}.wav")
            speaker = item.speaker if prompt else None
            samples.append(
                dataclasses.replace(_sample(item), prompt_audio=prompt, prompt_speaker=speaker)
            )
        return samples

    # Generated speech.

    def _render(self, mode: str) -> list[Sample]:
        """Generates the items of a mode that are not there yet; those that fail have no audio."""
        needs = self._inputs[mode].needs
        able = [i for i in self._chosen.items if all(getattr(i, name) for name in needs)]
        if len(able) < len(self._chosen.items):
            lacking, joined = len(self._chosen.items) - len(able), " or ".join(needs)
            self._report(f"{mode}: {lacking} items of the list have no {joined}")
        done = read_results(self._output / mode / RESULTS_FILE)
        done = {name: line for name, line in done.items() if self._is_there(mode, name, line)}
        waiting = [item for item in able if item.id not in done]
        if done:
            self._report(f"{mode}: {len(done)} of {len(able)} items are there")
        size = self._settings.batch_size
        with progress(mode, len(waiting)) as advance:
            for first in range(0, len(waiting), size):
                batch = waiting[first : first + size]
                self._batch(mode, batch)
                advance(len(batch))
        return [self._rendered(mode, item) for item in able]

    def _is_there(self, mode: str, name: str, line: dict[str, Any]) -> bool:
        return not line.get("audio") or (self._output / mode / f"{name}.wav").exists()

    def _batch(self, mode: str, batch: Sequence[Item]) -> None:
        """Writes audio, then the lines that say that it is there."""
        directory = self._output / mode
        lines = []
        for item, made in zip(batch, self._generate(mode, batch), strict=True):
            if isinstance(made, str):
                lines.append({"id": item.id, "audio": None, "failure": made})
                continue
            audio = f"{item.id}.wav" if len(made.wav) else None
            if audio:
                write_speech(directory / audio, made.wav, made.sample_rate)
            about = {key: value for key, value in made.info.items() if key != "recipe"}
            lines.append(about | {"speaker": item.speaker, "audio": audio})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with (directory / RESULTS_FILE).open("a", encoding="utf-8") as file:
            file.write("\n" + text)  # a line that was cut off stays apart

    def _generate(self, mode: str, batch: Sequence[Item]) -> list[Speech | str]:
        """Speech, or why there is none; where an input is refused the others are made alone."""
        requests = [self._request(mode, item) for item in batch]
        try:
            return list(self._synthesizer.generate(requests))
        except UserError as error:
            if len(batch) == 1:
                self._report(f"{mode}: {error}")
                return [str(error)]
        return [made for item in batch for made in self._generate(mode, [item])]

    def _request(self, mode: str, item: Item) -> SpeechRequest:
        takes = (*self._inputs[mode].needs, *self._inputs[mode].takes)
        inputs: dict[str, Any] = {}
        if "source" in takes:
            inputs["source"] = self._output / "recording" / f"{item.id}.wav"
        if "prompt" in takes and item.prompt:
            inputs["prompt"] = self._output / PROMPTS / f"{item.id}.wav"
        if "text" in takes:
            inputs["text"] = item.text
        if mode == "continuation":
            inputs["seconds"] = self._task.given_seconds
        return SpeechRequest(
            mode=mode, id=item.id, seed=seed_of(item.id), where=f"item {item.id}", **inputs
        )

    def _rendered(self, mode: str, item: Item) -> Sample:
        sample = _sample(item)
        needs = self._inputs[mode].needs
        if "source" not in needs:  # nothing is rendered: the speaker is the prompt's
            speaker = item.prompt_speaker or item.speaker
            sample = dataclasses.replace(sample, source_audio=None, speaker=speaker)
        if "prompt" in (*needs, *self._inputs[mode].takes) and item.prompt:
            sample = dataclasses.replace(
                sample,
                prompt_speaker=item.prompt_speaker,
                prompt_audio=Path("..", PROMPTS, f"{item.id}.wav"),
            )
        return sample


def seed_of(name: str) -> int:
    """The seed of an item's random stream: of its id alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _STREAMS


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of results by id; one that was cut off by an interruption is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values = json.loads(line) if line.strip() else None
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            found[values["id"]] = values
    return found


def results_of(output: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and lines of each condition below a directory that has results."""
    for path in sorted(output.glob(f"*/{RESULTS_FILE}")):
        yield path.parent.name, list(read_results(path).values())


def _sample(item: Item) -> Sample:
    return Sample(
        id=item.id,
        audio=Path(f"{item.id}.wav"),
        text=item.text,
        text_kind=text_kind(item.text, item.language),
        language=item.language,
        speaker=item.speaker,
        source_audio=Path("..", "recording", f"{item.id}.wav") if item.source else None,
    )
