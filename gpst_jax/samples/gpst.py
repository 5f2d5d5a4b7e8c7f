"""Runs GPST's inference modes over evaluation items and writes samples with their manifests."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import GPSTConfig
from gpst_jax.generation.gpst_modes import Part, RequestBuilder, check_modes
from gpst_jax.generation.gpst_requests import Request, Result
from gpst_jax.generation.gpst_sampler import Decoder, best_of
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.models import patterns
from gpst_jax.samples.gpst_config import TTS, GenerationConfig
from gpst_jax.samples.items import MAX_ITEM_SECONDS, Item, ItemSet
from gpst_jax.samples.language import Language, semantic_tasks
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.writer import SampleWriter, check_tokenizers, units_of


class GPSTSamples:
    """Generates all conditions of one model on one dataset.

    Args:
        model: a loaded checkpoint.
        dataset_dir: directory of dataset.json.
        spec: its contents; made with the tokenizers that the model was trained on.
        audio_dir: root of the recordings.
        output: directory of the samples.
        config: what is generated.
        language: a loaded checkpoint of the language model, with the directory of its sequences;
            needed for tts only.
        report: called with lines of progress.

    Raises:
        UserError: tokenizers differ, tts lacks its language model, or a mode needs units where the
            model has none.
    """

    def __init__(
        self,
        model: Loaded,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        config: GenerationConfig,
        language: Language | None = None,
        report: Callable[[str], None] = print,
    ):
        check_tokenizers(spec, dataset_dir, DatasetSpec.parse(model.dataset, "the checkpoint"))
        with_units = model.config.data.units == "front"
        check_modes("--mode", config.modes, with_units)
        self._language: SemanticTasks | None = None
        if TTS in config.modes:
            if language is None:
                raise UserError("tts needs a language model: give --lm_workdir")
            self._language = semantic_tasks(
                language,
                spec,
                dataset_dir,
                text=config.language_text,
                units=config.language_units,
                batch_size=config.batch_size,
                seed=config.seed,
                weights=config.weights,
            )
        self.config, self.report, self.layout = config, report, spec.layout()
        gpst, data = model.config.model_as(GPSTConfig), model.config.data
        silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
        self.decoder = Decoder(
            gpst, self.layout, model.params, data.positions, silence, config.weights
        )
        self.builder = RequestBuilder(self.layout, silence, data.deduplicate, with_units)
        self.writer = SampleWriter(
            dataset_dir,
            spec,
            audio_dir,
            output,
            provenance={
                "step": model.step,
                **({"lm_step": language[0].step} if self._language and language else {}),
                "dataset": spec.fingerprint,
                **config.provenance(),
            },
            models={"model": model}
            | ({"language": language[0]} if self._language and language else {}),
            seed=config.seed,
            workers=config.workers,
            max_item_seconds=self._longest_item(gpst),
            languages=config.languages,
            report=report,
        )

    def _longest_item(self, model: GPSTConfig) -> float:
        """Seconds of an item that fit the model's table of positions, where it has one."""
        if model.block != "paper":
            return MAX_ITEM_SECONDS
        frames = self.layout.frame_rate * (2 if self.builder.deduplicated else 1)
        fitting = patterns.seconds_in(model.pattern, model.max_positions, self.layout, frames)
        # A prompt and silence stand before it; half a second is for rounding.
        return min(MAX_ITEM_SECONDS, fitting - self.config.prompt_seconds - 0.5)

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition."""
        with self.writer:
            return self._conditions()

    def _conditions(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        kind = "free"
        count, sentences = self.config.items, self.config.sentences
        sentences = count // 5 if sentences is None else sentences
        for items, chosen, suffix in self.writer.splits(count, self.config.unseen_items, sentences):
            counts |= self._split(items, chosen, suffix)
            kind = kind if suffix else chosen[0].text_kind
        if "unconditional" in self.config.modes:
            counts["unconditional"] = self.writer.condition(
                "unconditional", functools.partial(self._unconditional, kind)
            )
        return counts

    def _split(self, items: ItemSet, chosen: list[Item], suffix: str) -> dict[str, int]:
        conditions: dict[str, Callable[[], list[Sample]]] = {
            "recording": functools.partial(self.writer.recording, items, chosen, suffix),
            "codec": functools.partial(self.writer.codec, chosen, suffix),
        }
        modes = {
            "semantic_to_acoustic": self._semantic_to_acoustic,
            "speaker_transfer": self._speaker_transfer,
            "continuation": self._continuation,
            "speech_continuation": self._speech_continuation,
            TTS: self._tts,
        }
        for mode, run in modes.items():
            if mode in self.config.modes:
                conditions[mode] = functools.partial(run, items, chosen, suffix)
        counts = {
            name + suffix: self.writer.condition(name + suffix, run)
            for name, run in conditions.items()
        }
        return {name: count for name, count in counts.items() if count}

    def _semantic_to_acoustic(self, items, chosen, suffix) -> list[Sample]:
        requests = [
            self.builder.semantic_to_acoustic(units_of(self.writer.parts(item)), item=index)
            for index, item in enumerate(chosen)
        ]
        self._decode("semantic_to_acoustic" + suffix, requests, [item.id for item in chosen])
        return [self.writer.sample(item, suffix) for item in chosen]

    def _continuation(self, items, chosen, suffix) -> list[Sample]:
        # At most half of an utterance is given, so that at least half is generated.
        requests, prefixes = [], {}
        for index, item in enumerate(chosen):
            seconds = min(self.config.prompt_seconds, item.seconds / 2)
            request = self.builder.continuation(self.writer.parts(item), seconds, item=index)
            requests.append(request)
            prefixes[item.id] = request.codes
        names = [item.id for item in chosen]
        self._decode("continuation" + suffix, requests, names, prefixes)
        samples = [self.writer.sample(item, suffix) for item in chosen]
        return samples if self.builder.with_units else [_of_any_text(one) for one in samples]

    def _speech_continuation(self, items, chosen, suffix) -> list[Sample]:
        """Units after the first seconds of each item, then their frames; nobody knows the words."""
        condition = "speech_continuation" + suffix
        most, beginnings = self.config.continuation_seconds, []
        for item in chosen:
            seconds = min(self.config.prompt_seconds, item.seconds / 2)
            beginnings.append(self.builder.beginning(self.writer.parts(item), seconds))
        names = [item.id for item in chosen]
        prefixes = {name: codes for name, (_, codes) in zip(names, beginnings, strict=True)}
        samples = [_of_any_text(self.writer.sample(item, suffix)) for item in chosen]
        if not self.builder.with_units:
            requests = [
                self.builder.further_frames(codes, most, item=index)
                for index, (_, codes) in enumerate(beginnings)
            ]
            results = self._decode(condition, requests, names, prefixes)
            return _ended(samples, results)
        requests = [
            self.builder.more_units([beginning], most, item=index)
            for index, beginning in enumerate(beginnings)
        ]
        sampled = self._sample(f"{condition} units", requests)
        frames = [
            self.builder.more_frames(
                [beginning],
                result.units,
                item=index,
                most_seconds=most,
            )
            for index, (beginning, result) in enumerate(zip(beginnings, sampled, strict=True))
        ]
        self._decode(condition, frames, names, prefixes)
        return _ended(samples, sampled)

    def _tts(self, items: ItemSet, chosen, suffix) -> list[Sample]:
        """The text of each item in the voice of another speaker's prompt."""
        assert self._language is not None
        texts = [item for item in chosen if item.text]
        if not texts:
            return []
        with progress(f"{TTS}{suffix} units", len(texts)) as advance:
            language = self._language.lasting(2 * max(item.seconds for item in texts))
            units = language.read_aloud([str(item.text) for item in texts], advance)
        targets = [self.builder.target_of_units(of_item) for of_item in units]
        return self._transfer(TTS, items, texts, [[target] for target in targets], suffix)

    def _speaker_transfer(self, items: ItemSet, chosen, suffix) -> list[Sample]:
        targets = [self.writer.parts(item) for item in chosen]
        return self._transfer("speaker_transfer", items, chosen, targets, suffix)

    def _transfer(
        self,
        mode: str,
        items: ItemSet,
        chosen: Sequence[Item],
        targets: Sequence[Sequence[Part]],
        suffix: str,
    ) -> list[Sample]:
        """The target of each item in the voice of another speaker's prompt."""
        condition = mode + suffix
        requests, samples = [], []
        references: dict[str, np.ndarray] = {}
        spoken: list[str] = []
        for index, (item, target) in enumerate(zip(chosen, targets, strict=True)):
            prompt = self.writer.prompt(items, item, self.config.prompt_seconds)
            if prompt is None:
                continue
            sample = self.writer.sample(item, suffix)
            if mode == TTS:  # there is no source: the speaker is the prompt's
                sample = dataclasses.replace(sample, source_audio=None, speaker=prompt.speaker)
            samples.append(self.writer.with_prompt(condition, items, prompt, sample, references))
            if not sum(len(units) for units, _ in target):
                continue  # no audio is written, which evaluation scores as a failure
            spoken.append(item.id)
            given = self.writer.join(prompt.segments)
            requests.append(self.builder.speaker_transfer(given, target, item=index))
        if len(samples) < len(chosen):
            self.report(
                f"{condition}: {len(chosen) - len(samples)} of {len(chosen)} items have no other "
                f"speaker with {self.config.prompt_seconds} s of speech for a prompt"
            )
        self.writer.vocode(condition, references)
        if requests:
            self._decode(condition, requests, spoken)
        return samples

    def _unconditional(self, kind: str) -> list[Sample]:
        """Two renderings of each sequence of sampled units; `kind` is the corpus's kind of text.

        Of a model without units one piece of speech each, with no other to compare it with.
        """
        count = self.config.items
        requests = [
            self.builder.unconditional(self.config.unconditional_seconds, item=index)
            for index in range(count)
        ]
        if not self.builder.with_units:
            names = [f"unconditional-{index:04d}" for index in range(count)]
            samples = [
                Sample(id=name, audio=Path(f"{name}.wav"), speaker="", text_kind=kind)
                for name in names
            ]
            return _ended(samples, self._decode("unconditional", requests, names))
        sampled = self._sample("unconditional units", requests)
        requests, samples = [], []
        for index, result in enumerate(sampled):
            if not len(result.units):
                self.report(f"unconditional: item {index} has no units and is skipped")
                continue
            for rendering in range(2):
                requests.append(self._render(result.units, item=count * (rendering + 1) + index))
                name = f"unconditional-{index:04d}-{rendering}"
                samples.append(
                    Sample(
                        id=name,
                        audio=Path(f"{name}.wav"),
                        speaker="",
                        pair=f"{index:04d}",
                        text_kind=kind,
                        ended_by=result.ended_by,
                    )
                )
        self._decode("unconditional", requests, [sample.id for sample in samples])
        return samples

    def _render(self, units: np.ndarray, item: int) -> Request:
        request = self.builder.semantic_to_acoustic(units, item=item)
        if self.builder.deduplicated:  # the duration of de-duplicated units is unknown
            frames = self.layout.frames_for_units(
                round(self.config.unconditional_seconds * self.layout.unit_rate)
            )
            request = dataclasses.replace(request, max_frames=frames)
        return request

    def _decode(
        self,
        condition: str,
        requests: Sequence[Request],
        names: Sequence[str],
        prefixes: dict[str, np.ndarray] | None = None,
    ) -> list[Result]:
        """Samples frames and writes the audio of each prefix, if any, and its frames."""
        results = self._sample(condition, requests)
        codes = {name: result.codes for name, result in zip(names, results, strict=True)}
        for name, prefix in (prefixes or {}).items():
            codes[name] = np.concatenate([prefix, codes[name]], axis=1)
        self.writer.vocode(condition, codes)
        return results

    def _sample(self, what: str, requests: Sequence[Request]) -> list[Result]:
        options: dict[str, Any] = {
            "seed": self.config.seed,
            "semantic": self.config.semantic,
            "acoustic": self.config.acoustic,
            "guards": self.config.guards,
            "batch_size": self.config.batch_size,
        }
        with progress(what, len(requests)) as advance:
            if self.config.best_of > 1:
                results = best_of(self.decoder, requests, self.config.best_of, **options)
                advance(len(requests))
            else:
                results = self.decoder.decode(requests, on_progress=advance, **options)
        fired = Counter(r.ended_by for r in results if r.ended_by.startswith("guard:"))
        if fired:
            kinds = ", ".join(
                f"{name.removeprefix('guard:')} {count}" for name, count in sorted(fired.items())
            )
            self.report(f"{what}: guards ended {fired.total()} of {len(results)} ({kinds})")
        return results


def _of_any_text(sample: Sample) -> Sample:
    """The sample of speech of which nobody knows the words."""
    return dataclasses.replace(sample, text=None, text_kind="free")


def _ended(samples: Sequence[Sample], results: Sequence[Result]) -> list[Sample]:
    """The samples, with what ended them."""
    return [
        dataclasses.replace(sample, ended_by=result.ended_by)
        for sample, result in zip(samples, results, strict=True)
    ]
