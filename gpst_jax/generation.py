"""Runs the inference modes over evaluation items and writes samples with their manifests.

Each condition is a directory with audio and a `manifest.jsonl`, written last: an interrupted run
goes on with the first condition that has none.
"""

import dataclasses
import functools
import json
import random
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import cli
from data_pipeline.audio import write_audio
from data_pipeline.progress import progress
from data_pipeline.spec import DatasetSpec
from data_pipeline.tokenizers import load_codec
from gpst_jax.checkpoint import Loaded
from gpst_jax.config import GPSTConfig
from gpst_jax.items import Item, ItemSet, Stretch
from gpst_jax.modes import ModeBuilder, Part
from gpst_jax.sampling import Decoder, Request, SamplingConfig

MODES = ("unconditional", "semantic_to_acoustic", "speaker_transfer", "continuation")
UNSEEN = "_unseen"


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
            raise cli.UserError(f"--modes: unknown {unknown[0]!r}; choose from {', '.join(MODES)}")


class Generator:
    """Generates all conditions of one model on one dataset.

    Args:
        model: a loaded checkpoint.
        dataset_dir: directory of dataset.json.
        spec: its contents; made with the tokenizers that the model was trained on.
        audio_dir: root of the recordings.
        output: directory of the samples.
        config: what is generated.
        report: called with a line of text as work goes on.
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
        # Whatever the records: units and codes must mean what they meant in training.
        trained_on = DatasetSpec.parse(model.dataset, "the checkpoint").tokenizers()
        for name, value in spec.tokenizers().items():
            if value != trained_on[name]:
                raise cli.UserError(
                    f"{dataset_dir}: its {name} is {value}, the model was trained on "
                    f"{trained_on[name]}: name a dataset of the same tokenizers with --dataset"
                )
        self.spec, self.config, self.output, self.report = spec, config, Path(output), report
        self.dataset_dir, self.audio_dir = Path(dataset_dir), Path(audio_dir)
        self.layout = spec.layout()
        data = model.config.data
        gpst = model.config.model_as(GPSTConfig)
        self.decoder = Decoder(gpst, self.layout, model.params, data.positions)
        silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
        self.builder = ModeBuilder(self.layout, silence, data.deduplicate)
        self.codec_path = self.dataset_dir / spec.codec.path
        self.provenance = {
            "step": model.step,
            "dataset": spec.fingerprint,
            **dataclasses.asdict(config),
        }

    def run(self) -> dict[str, int]:
        """Writes every condition; returns the number of samples by condition."""
        self._check_settings()
        with ProcessPoolExecutor(
            self.config.workers,
            mp_context=get_context("spawn"),
            initializer=_load_codec,
            initargs=(str(self.codec_path),),
        ) as self._pool:
            return self._conditions()

    def _conditions(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        kind = "free"
        for split, suffix, count in (
            ("valid", "", self.config.items),
            ("unseen", UNSEEN, self.config.unseen_items),
        ):
            if count == 0:
                continue
            if split not in self.spec.splits:
                self.report(f"the dataset has no split {split}: its rows are left out")
                continue
            items = ItemSet(
                self.dataset_dir, self.spec, split, self.audio_dir, seed=self.config.seed
            )
            chosen = items.choose(count)
            if not chosen:
                self.report(f"{split}: no item, its rows are left out")
                continue
            counts |= self._split(items, chosen, suffix)
            kind = chosen[0].text_kind if not suffix else kind
        if "unconditional" in self.config.modes:
            counts["unconditional"] = self._condition(
                "unconditional", functools.partial(self._unconditional, kind)
            )
        return counts

    def _split(self, items: ItemSet, chosen: list[Item], suffix: str) -> dict[str, int]:
        conditions: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "recording": functools.partial(self._recording, items, chosen, suffix),
            "codec": functools.partial(self._codec, chosen, suffix),
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
            name + suffix: self._condition(name + suffix, run) for name, run in conditions.items()
        }
        return {name: count for name, count in counts.items() if count}

    def _condition(self, name: str, run: Callable[[], list[dict[str, Any]]]) -> int:
        manifest = self.output / name / "manifest.jsonl"
        if manifest.exists():
            lines = manifest.read_text().splitlines()
            self.report(f"{name}: {len(lines)} samples are there")
            return len(lines)
        (self.output / name).mkdir(parents=True, exist_ok=True)
        entries = run()
        if not entries:
            self.report(f"{name}: no item can be made, its rows are left out")
            shutil.rmtree(manifest.parent)
            return 0
        cli.write_text(manifest, "".join(json.dumps(entry) + "\n" for entry in entries))
        self.report(f"{name}: {len(entries)} samples written")
        return len(entries)

    def _recording(self, items: ItemSet, chosen, suffix) -> list[dict[str, Any]]:
        entries = []
        for item in chosen:
            self._write("recording" + suffix, item.id, items.audio(item.stretches))
            entries.append(self._entry(item, suffix) | _same_voice(item, chosen, suffix))
        return entries

    def _codec(self, chosen, suffix) -> list[dict[str, Any]]:
        codes = {item.id: _codes(self._parts(item)) for item in chosen}
        self._vocode("codec" + suffix, codes)
        return [self._entry(item, suffix) | _same_voice(item, chosen, suffix) for item in chosen]

    def _semantic_to_acoustic(self, items, chosen, suffix) -> list[dict[str, Any]]:
        requests = [
            self.builder.semantic_to_acoustic(_units(self._parts(item)), item=index)
            for index, item in enumerate(chosen)
        ]
        self._decode("semantic_to_acoustic" + suffix, requests, [item.id for item in chosen])
        return [self._entry(item, suffix) for item in chosen]

    def _continuation(self, items, chosen, suffix) -> list[dict[str, Any]]:
        # Half of a short utterance is given, so that half is left to generate.
        requests, prefixes = [], {}
        for index, item in enumerate(chosen):
            seconds = min(self.config.prompt_seconds, item.seconds / 2)
            request = self.builder.continuation(self._parts(item), seconds, item=index)
            requests.append(request)
            prefixes[item.id] = request.codes
        names = [item.id for item in chosen]
        self._decode("continuation" + suffix, requests, names, prefixes)
        return [self._entry(item, suffix) for item in chosen]

    def _speaker_transfer(self, items: ItemSet, chosen, suffix) -> list[dict[str, Any]]:
        name = "speaker_transfer" + suffix
        requests, names, entries, reference_codes = [], [], [], {}
        for index, item in enumerate(chosen):
            prompt = self._prompt(items, item)
            if prompt is None:
                continue
            speaker, stretches, reference = prompt
            requests.append(
                self.builder.speaker_transfer(self._join(stretches), self._parts(item), item=index)
            )
            names.append(item.id)
            self._write(name, f"{item.id}-prompt", items.audio(stretches))
            entry = self._entry(item, suffix) | {
                "prompt_speaker": speaker,
                "prompt_audio": f"{item.id}-prompt.wav",
            }
            if reference is not None:
                self._write(name, f"{item.id}-reference", items.audio(reference.stretches))
                reference_codes[f"{item.id}-reference-codec"] = _codes(self._parts(reference))
                entry |= {
                    "prompt_reference_audio": f"{item.id}-reference.wav",
                    "prompt_reference_codec_audio": f"{item.id}-reference-codec.wav",
                }
            entries.append(entry)
        if len(names) < len(chosen):
            self.report(
                f"{name}: {len(chosen) - len(names)} of {len(chosen)} items have no other speaker "
                f"with {self.config.prompt_seconds} s of speech to prompt with"
            )
        if requests:
            self._vocode(name, reference_codes)
            self._decode(name, requests, names)
        return entries

    def _prompt(self, items: ItemSet, item: Item) -> tuple[str, list[Stretch], Item | None] | None:
        """A prompt in another voice, and a further item of that voice where there is one."""
        speakers = [name for name in items.speakers if name not in (item.speaker, "unknown")]
        random.Random(f"{self.config.seed}/{item.id}").shuffle(speakers)
        for speaker in speakers:
            own = items.others(speaker, [], item.id)
            stretches = items.prompt(own[1:], self.config.prompt_seconds)
            if stretches:
                return speaker, stretches, own[0]
            stretches = items.prompt(own, self.config.prompt_seconds)
            if stretches:
                return speaker, stretches, None
        return None

    def _unconditional(self, kind: str) -> list[dict[str, Any]]:
        """Two renderings of each sequence of sampled units; `kind` of text as in the corpus."""
        count = self.config.items
        requests = [
            self.builder.unconditional(self.config.unconditional_seconds, item=index)
            for index in range(count)
        ]
        sampled = self._sample("unconditional units", requests)
        requests, names, entries = [], [], []
        for index, result in enumerate(sampled):
            if not len(result.units):
                self.report(f"unconditional: item {index} ended before its first unit")
                continue
            for rendering in range(2):
                requests.append(self._render(result.units, item=count * (rendering + 1) + index))
                names.append(f"unconditional-{index:04d}-{rendering}")
                entries.append(
                    _blank()
                    | {
                        "id": names[-1],
                        "audio": f"{names[-1]}.wav",
                        "pair": f"{index:04d}",
                        "text_kind": kind,
                    }
                )
        self._decode("unconditional", requests, names)
        return entries

    def _render(self, units: np.ndarray, item: int) -> Request:
        request = self.builder.semantic_to_acoustic(units, item=item)
        if self.builder.deduplicated:  # sampled units are collapsed: their duration is unknown
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
        """Samples frames and writes their audio, after the given frames where there are any."""
        results = self._sample(condition, requests)
        codes = {name: result.codes for name, result in zip(names, results, strict=True)}
        for name, prefix in (prefixes or {}).items():
            codes[name] = np.concatenate([prefix, codes[name]], axis=1)
        self._vocode(condition, codes)

    def _sample(self, what: str, requests: Sequence[Request]):
        with progress(what, len(requests)) as advance:
            return self.decoder.decode(
                requests,
                seed=self.config.seed,
                semantic=self.config.semantic,
                acoustic=self.config.acoustic,
                batch_size=self.config.batch_size,
                on_progress=advance,
            )

    def _vocode(self, condition: str, codes: dict[str, np.ndarray]) -> None:
        """Decodes codes (Q, T) by name into wav files, in parallel processes."""
        jobs = [
            (str(self.output / condition / f"{name}.wav"), value) for name, value in codes.items()
        ]
        with progress(f"{condition} audio", len(jobs)) as advance:
            for _ in self._pool.map(_write_codes, jobs, chunksize=4):
                advance(1)

    def _write(self, condition: str, name: str, wav: np.ndarray) -> None:
        write_audio(self.output / condition / f"{name}.wav", wav, self.spec.sample_rate)

    def _entry(self, item: Item, suffix: str) -> dict[str, Any]:
        return _blank() | {
            "id": item.id,
            "audio": f"{item.id}.wav",
            "text": item.text,
            "text_kind": item.text_kind,
            "speaker": item.speaker,
            "source_audio": f"../recording{suffix}/{item.id}.wav",
        }

    def _parts(self, item: Item) -> list[Part]:
        return self._join(item.stretches)

    def _join(self, stretches: Sequence[Stretch]) -> list[Part]:
        return self.builder.join([stretch.part for stretch in stretches])

    def _check_settings(self) -> None:
        """Samples of two settings never mix in one directory."""
        path = self.output / "settings.json"
        settings = json.loads(json.dumps(self.provenance))
        if path.exists():
            found = json.loads(path.read_text())
            if found != settings:
                differing = sorted(
                    key for key in settings | found if settings.get(key) != found.get(key)
                )
                raise cli.UserError(
                    f"{path}: it holds samples of other settings (they differ in "
                    f"{', '.join(differing)}); name another --output or remove it"
                )
        self.output.mkdir(parents=True, exist_ok=True)
        cli.write_json(path, settings)


def _blank() -> dict[str, Any]:
    names = (
        "id text speaker source_audio prompt_speaker prompt_audio prompt_reference_audio "
        "prompt_reference_codec_audio pair"
    )
    return {name: None for name in names.split()} | {"text_kind": "free"}


def _same_voice(item: Item, chosen: Sequence[Item], suffix: str) -> dict[str, Any]:
    """The next chosen recording of the same voice, which ceilings of similarity compare with."""
    own = [other.id for other in chosen if other.speaker == item.speaker]
    if len(own) == 1:
        return {}
    other = own[(own.index(item.id) + 1) % len(own)]
    return {"prompt_speaker": item.speaker, "prompt_audio": f"../recording{suffix}/{other}.wav"}


def _units(parts: Sequence[Part]) -> np.ndarray:
    return np.concatenate([units for units, _ in parts])


def _codes(parts: Sequence[Part]) -> np.ndarray:
    return np.concatenate([codes for _, codes in parts], axis=1)


_codec: Any = None  # of a worker process


def _load_codec(path: str) -> None:
    global _codec
    _codec = load_codec(path)


def _write_codes(job: tuple[str, np.ndarray]) -> None:
    path, codes = job
    write_audio(path, _codec.decode(codes), _codec.sample_rate)
