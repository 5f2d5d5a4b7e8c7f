"""Writes conditions of samples, whatever the model.

A condition is a directory with audio and a manifest, which is written last: an interrupted run
resumes at the first condition without one. Two conditions are upper bounds for every model: the
recordings, and the recordings resynthesised by the codec.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from data_pipeline.audio.io import write_audio
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.contents import digest
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import progress
from data_pipeline.tokenizers import load_codec
from gpst_jax.checkpoints.checksums import checksums
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.generation.gpst_modes import Part, join
from gpst_jax.samples.items import MAX_ITEM_SECONDS, Item, ItemSet, Segment
from gpst_jax.samples.manifest import (
    MANIFEST,
    SENTENCES,
    UNKNOWN_SPEAKER,
    UNSEEN,
    Sample,
    write_manifest,
)

MODELS_FILE = "models.json"  # what the models held that were sampled from


class SampleWriter:
    """Writes the conditions of one generation; a context manager that owns the decoding processes.

    Args:
        dataset_dir: directory of dataset.json.
        spec: its contents.
        audio_dir: root of the recordings.
        output: directory of the samples.
        provenance: everything that the samples depend on, as JSON values.
        models: that are sampled from, by their roles. Digests of their parameters are stored beside
            the provenance: two runs may have taken the same number of steps.
        seed: seeds the choice of items and prompts.
        workers: processes that run the codec's decoder.
        max_item_seconds: longest recording that is one item, see `items.ItemSet`.
        languages: of items and of prompts, as codes; None: any. Prompts in another language than
            their items tell a voice without the sounds of the target's.
        report: called with lines of progress.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        *,
        provenance: Mapping[str, Any],
        models: Mapping[str, Loaded] | None = None,
        seed: int,
        workers: int,
        max_item_seconds: float = MAX_ITEM_SECONDS,
        languages: tuple[str | None, str | None] = (None, None),
        report: Callable[[str], None] = print,
    ):
        self.dataset_dir, self.spec, self.audio_dir = Path(dataset_dir), spec, Path(audio_dir)
        self.output, self.report = Path(output), report
        self._provenance, self._seed, self._workers = provenance, seed, workers
        self._max_item_seconds, self._languages = max_item_seconds, languages
        self._prompt_items: dict[str, ItemSet] = {}  # by split, where prompts are not of the items
        self._models = {name: _parameters_digest(model) for name, model in (models or {}).items()}
        self._silence: Part = (np.array(spec.silence.units), np.array(spec.silence.codes))

    def __enter__(self) -> Self:
        """Writes settings.json and starts the processes.

        Raises:
            UserError: the directory holds samples of other settings.
        """
        self._check_settings()
        self._pool = ProcessPoolExecutor(
            self._workers,
            mp_context=get_context("spawn"),
            initializer=_load_codec,
            initargs=(str(self.dataset_dir / self.spec.codec.path),),
        )
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)

    def splits(
        self, items: int, unseen_items: int, sentences: int = 0
    ) -> Iterator[tuple[ItemSet, list[Item], str]]:
        """Yields (all items, chosen items, suffix of conditions) of seen and of unseen speakers.

        Args:
            items: number to choose of seen speakers; 0 skips them.
            unseen_items: number to choose of unseen speakers; 0 skips them.
            sentences: number of other texts to choose of seen speakers, where `items` are digit
                strings.
        """
        for split, suffix, count in (("valid", "", items), ("unseen", UNSEEN, unseen_items)):
            if count == 0:
                continue
            if split not in self.spec.splits:
                self.report(f"the dataset has no split {split}: its conditions are skipped")
                continue
            language, of_prompts = self._languages
            item_set = self._item_set(split, language)
            if of_prompts not in (None, language):
                self._prompt_items[split] = self._item_set(split, of_prompts)
            chosen = item_set.choose(count)
            if chosen:
                yield item_set, chosen, suffix
            else:
                self.report(f"{split}: no items, its conditions are skipped")
            others = [] if suffix else item_set.choose_sentences(sentences)
            if others:
                yield item_set, others, SENTENCES

    def _item_set(self, split: str, language: str | None) -> ItemSet:
        return ItemSet(
            self.dataset_dir,
            self.spec,
            split,
            self.audio_dir,
            max_item_seconds=self._max_item_seconds,
            language=language,
            seed=self._seed,
        )

    def condition(self, name: str, run: Callable[[], list[Sample]]) -> int:
        """Makes a condition unless it is complete; returns how many samples it has.

        Args:
            name: of the condition.
            run: writes the audio and returns the samples; the condition is skipped if there are
                none.
        """
        directory = self.output / name
        manifest = directory / MANIFEST
        if manifest.exists():
            count = len(manifest.read_text().splitlines())
            self.report(f"{name}: {count} samples are there")
            return count
        directory.mkdir(parents=True, exist_ok=True)
        samples = run()
        if not samples:
            self.report(f"{name}: no items to render, skipped")
            shutil.rmtree(directory)
            return 0
        write_manifest(directory, samples)
        self.report(f"{name}: {len(samples)} samples written")
        return len(samples)

    def recording(self, items: ItemSet, chosen: Sequence[Item], suffix: str) -> list[Sample]:
        """The condition `recording`: the recordings themselves."""
        for item in chosen:
            self.write("recording" + suffix, item.id, items.audio(item.segments))
        return [self._upper_bound(item, chosen, suffix) for item in chosen]

    def codec(self, chosen: Sequence[Item], suffix: str) -> list[Sample]:
        """The condition `codec`: the recordings resynthesised by the codec."""
        self.vocode("codec" + suffix, {item.id: codes_of(self.parts(item)) for item in chosen})
        return [self._upper_bound(item, chosen, suffix) for item in chosen]

    def write(self, condition: str, name: str, wav: np.ndarray) -> None:
        """Writes a waveform (N,) at the dataset's sample rate."""
        write_audio(self.output / condition / f"{name}.wav", wav, self.spec.sample_rate)

    def vocode(self, condition: str, codes: Mapping[str, np.ndarray]) -> None:
        """Decodes codes (Q, T), or latents (T, D) float32, to `<name>.wav` files in parallel."""
        if not codes:
            return
        jobs = [
            (str(self.output / condition / f"{name}.wav"), value) for name, value in codes.items()
        ]
        with progress(f"{condition} audio", len(jobs)) as advance:
            for _ in self._pool.map(_write_codes, jobs, chunksize=4):
                advance(1)

    def sample(self, item: Item, suffix: str) -> Sample:
        """The sample that renders an item."""
        return Sample(
            id=item.id,
            audio=Path(f"{item.id}.wav"),
            text=item.text,
            text_kind=item.text_kind,
            language=item.language,
            speaker=item.speaker,
            source_audio=_recording(item.id, suffix),
        )

    def with_prompt(
        self,
        condition: str,
        items: ItemSet,
        prompt: "Prompt",
        sample: Sample,
        references: dict[str, np.ndarray],
    ) -> Sample:
        """Writes the audio of a prompt; returns the sample with its prompt's fields set.

        Args:
            condition: name of the condition.
            items: that the prompt was taken from.
            prompt: as `prompt` returns it.
            sample: what is rendered with the prompt.
            references: codes by file name, for the caller to vocode; those of the prompt's
                reference are added.
        """
        name = sample.id
        self.write(condition, f"{name}-prompt", items.audio(prompt.segments))
        sample = dataclasses.replace(
            sample, prompt_speaker=prompt.speaker, prompt_audio=Path(f"{name}-prompt.wav")
        )
        if prompt.reference is None:
            return sample
        self.write(condition, f"{name}-reference", items.audio(prompt.reference.segments))
        references[f"{name}-reference-codec"] = codes_of(self.parts(prompt.reference))
        return dataclasses.replace(
            sample,
            prompt_reference_audio=Path(f"{name}-reference.wav"),
            prompt_reference_codec_audio=Path(f"{name}-reference-codec.wav"),
        )

    def prompt(self, items: ItemSet, item: Item, seconds: float) -> "Prompt | None":
        """A prompt by another speaker than the item's; None if no speaker has enough speech."""
        items = self._prompt_items.get(items.split, items)
        speakers = [name for name in items.speakers if name not in (item.speaker, UNKNOWN_SPEAKER)]
        random.Random(f"{self._seed}/{item.id}").shuffle(speakers)
        for speaker in speakers:
            candidates = items.others(speaker, [], item.id)
            segments = items.prompt(candidates[1:], seconds)
            if segments:
                return Prompt(speaker, segments, candidates[0])
            segments = items.prompt(candidates, seconds)
            if segments:
                return Prompt(speaker, segments, None)
        return None

    def parts(self, item: Item) -> list[Part]:
        """Units and codes of an item's segments with silence between them."""
        return self.join(item.segments)

    def join(self, segments: Sequence[Segment]) -> list[Part]:
        """Units and codes of segments with silence between them."""
        return join([segment.part for segment in segments], self._silence)

    def _upper_bound(self, item: Item, chosen: Sequence[Item], suffix: str) -> Sample:
        """A recording's sample, whose prompt is the speaker's next chosen recording, if any."""
        sample = self.sample(item, suffix)
        ids = [other.id for other in chosen if other.speaker == item.speaker]
        if len(ids) == 1:
            return sample
        following = ids[(ids.index(item.id) + 1) % len(ids)]
        return dataclasses.replace(
            sample, prompt_speaker=item.speaker, prompt_audio=_recording(following, suffix)
        )

    def _check_settings(self) -> None:
        """Keeps samples of different settings out of one directory."""
        path = self.output / "settings.json"
        settings = json.loads(json.dumps(dict(self._provenance)))
        if path.exists():
            found = json.loads(path.read_text())
            if found != settings:
                differing = sorted(
                    key for key in settings | found if settings.get(key) != found.get(key)
                )
                raise UserError(
                    f"{path}: samples of other settings are there (they differ in "
                    f"{', '.join(differing)}); give another --output or delete it"
                )
            self._check_models()
        self.output.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(self.output / MODELS_FILE, self._models)
        write_json(path, settings)

    def _check_models(self) -> None:
        """Keeps samples of other parameters apart; directories of older versions do not say."""
        path = self.output / MODELS_FILE
        if path.exists() and (found := json.loads(path.read_text())) != self._models:
            names = sorted(k for k in found | self._models if found.get(k) != self._models.get(k))
            raise UserError(
                f"{path}: samples of other parameters are there ({', '.join(names)}), although of "
                "the same step; give another --output or delete it"
            )


class Prompt(NamedTuple):
    """A few seconds of speech that set the speaker identity of what is sampled."""

    speaker: str
    segments: list[Segment]
    reference: Item | None  # another item of the speaker, where there is one


def check_tokenizers(spec: DatasetSpec, dataset_dir: Any, trained_on: DatasetSpec) -> None:
    """Raises UserError unless a dataset has the tokenizers that the model was trained on."""
    expected = trained_on.tokenizers()
    for name, value in spec.tokenizers().items():
        if value != expected[name]:
            raise UserError(
                f"{dataset_dir}: its {name} is {value}, the model was trained on "
                f"{expected[name]}: give a dataset of the same tokenizers with --dataset"
            )


def _parameters_digest(model: Loaded) -> str:
    """A digest of a model's values."""
    return digest(json.dumps(checksums(model.params), sort_keys=True).encode())


def _recording(name: str, suffix: str) -> Path:
    """Path from any condition to a file of the condition `recording`."""
    return Path(f"../recording{suffix}/{name}.wav")


def units_of(parts: Sequence[Part]) -> np.ndarray:
    """The units (S,) of consecutive parts."""
    return np.concatenate([units for units, _ in parts])


def codes_of(parts: Sequence[Part]) -> np.ndarray:
    """The codes (Q, T) of consecutive parts."""
    return np.concatenate([codes for _, codes in parts], axis=1)


_codec: Any = None  # each worker process has its own


def _load_codec(path: str) -> None:
    global _codec
    _codec = load_codec(path)


def _write_codes(job: tuple[str, np.ndarray]) -> None:
    path, value = job
    continuous = np.issubdtype(value.dtype, np.floating)
    wav = _codec.decode_vectors(value) if continuous else _codec.decode(value)
    write_audio(path, wav, _codec.sample_rate)
