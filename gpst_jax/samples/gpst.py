"""Runs GPST's inference modes over evaluation items and writes samples with their manifests."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import GPSTConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder, Request
from gpst_jax.samples.items import MAX_ITEM_SECONDS, Item, ItemSet
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.writer import SampleWriter, check_tokenizers, units_of

MODES = ("unconditional", "semantic_to_acoustic", "speaker_transfer", "continuation")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """What is generated. Durations are in seconds."""

    modes: tuple[str, ...] = MODES
    items: int = 200
    unseen_items: int = 60
    prompt_seconds: float = 3.0
    unconditional_seconds: float = 4.0
    semantic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.55)
    )
    acoustic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.4)
    )
    batch_size: int = 100
    seed: int = 0
    workers: int = 2

    def __post_init__(self):
        unknown = sorted(set(self.modes) - set(MODES))
        if unknown:
            raise UserError(f"--modes: unknown {unknown[0]!r}; choose from {', '.join(MODES)}")


class GPSTSamples:
    """Generates all conditions of one model on one dataset.

    Args:
        model: a loaded checkpoint.
        dataset_dir: directory of dataset.json.
        spec: its contents; made with the tokenizers that the model was trained on.
        audio_dir: root of the recordings.
        output: directory of the samples.
        config: what is generated.
        report: called with lines of progress.
    """

    def __init__(
        self,
        model: Loaded,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        config: GenerationConfig,
        report: Callable[[str], None] = print,
    ):
        check_tokenizers(spec, dataset_dir, DatasetSpec.parse(model.dataset, "the checkpoint"))
        self.config, self.report, self.layout = config, report, spec.layout()
        gpst, data = model.config.model_as(GPSTConfig), model.config.data
        self.decoder = Decoder(gpst, self.layout, model.params, data.positions)
        silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
        self.builder = RequestBuilder(self.layout, silence, data.deduplicate)
        self.writer = SampleWriter(
            dataset_dir,
            spec,
            audio_dir,
            output,
            provenance={
                "step": model.step,
                "dataset": spec.fingerprint,
                **dataclasses.asdict(config),
            },
            models={"model": model},
            seed=config.seed,
            workers=config.workers,
            max_item_seconds=self._longest_item(gpst),
            report=report,
        )

    def _longest_item(self, model: GPSTConfig) -> float:
        """Seconds of an item that fit the model's table of positions, where it has one."""
        if model.block != "paper":
            return MAX_ITEM_SECONDS
        frames = self.layout.frame_rate * (2 if self.builder.deduplicated else 1)
        fitting = (model.max_positions - 2) / (self.layout.unit_rate + frames)
        # A prompt and silence stand before it; half a second is for rounding.
        return min(MAX_ITEM_SECONDS, fitting - self.config.prompt_seconds - 0.5)

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition."""
        with self.writer:
            return self._conditions()

    def _conditions(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        kind = "free"
        for items, chosen, suffix in self.writer.splits(
            self.config.items, self.config.unseen_items
        ):
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
        return [self.writer.sample(item, suffix) for item in chosen]

    def _speaker_transfer(self, items: ItemSet, chosen, suffix) -> list[Sample]:
        condition = "speaker_transfer" + suffix
        requests, samples = [], []
        references: dict[str, np.ndarray] = {}
        for index, item in enumerate(chosen):
            prompt = self.writer.prompt(items, item, self.config.prompt_seconds)
            if prompt is None:
                continue
            given, target = self.writer.join(prompt.segments), self.writer.parts(item)
            requests.append(self.builder.speaker_transfer(given, target, item=index))
            sample = self.writer.sample(item, suffix)
            samples.append(self.writer.with_prompt(condition, items, prompt, sample, references))
        if len(samples) < len(chosen):
            self.report(
                f"{condition}: {len(chosen) - len(samples)} of {len(chosen)} items have no other "
                f"speaker with {self.config.prompt_seconds} s of speech for a prompt"
            )
        if requests:
            self.writer.vocode(condition, references)
            self._decode(condition, requests, [sample.id for sample in samples])
        return samples

    def _unconditional(self, kind: str) -> list[Sample]:
        """Two renderings of each sequence of sampled units; `kind` is the corpus's kind of text."""
        count = self.config.items
        requests = [
            self.builder.unconditional(self.config.unconditional_seconds, item=index)
            for index in range(count)
        ]
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
    ) -> None:
        """Samples frames and writes the audio of each prefix, if any, and its frames."""
        results = self._sample(condition, requests)
        codes = {name: result.codes for name, result in zip(names, results, strict=True)}
        for name, prefix in (prefixes or {}).items():
            codes[name] = np.concatenate([prefix, codes[name]], axis=1)
        self.writer.vocode(condition, codes)

    def _sample(self, what: str, requests: Sequence[Request]) -> list[Any]:
        with progress(what, len(requests)) as advance:
            return self.decoder.decode(
                requests,
                seed=self.config.seed,
                semantic=self.config.semantic,
                acoustic=self.config.acoustic,
                batch_size=self.config.batch_size,
                on_progress=advance,
            )
