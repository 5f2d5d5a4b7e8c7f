"""Conditions of samples: what every generator writes, whatever its model.

A condition is a directory with audio and a `manifest.jsonl`, written last: an interrupted run goes
on with the first condition that has none. Beside what a model makes stand its ceilings: the
recordings, and the recordings through the codec.
"""

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
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.progress import progress
from data_pipeline.tokenizers import load_codec
from gpst_jax.generation.gpst_modes import Part, join
from gpst_jax.samples.items import Item, ItemSet, Stretch
from gpst_jax.samples.manifest import UNSEEN, blank_entry

Entries = list[dict[str, Any]]


class SampleWriter:
    """Writes the conditions of one generation; a context in which processes decode audio.

    Args:
        dataset_dir: directory of dataset.json.
        spec: its contents.
        audio_dir: root of the recordings.
        output: directory of the samples.
        provenance: all that the samples depend on; JSON values.
        seed: fixes the choice of items and prompts.
        workers: processes that decode codes.
        report: called with a line of text as work goes on.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: DatasetSpec,
        audio_dir: str | Path,
        output: str | Path,
        *,
        provenance: Mapping[str, Any],
        seed: int,
        workers: int,
        report: Callable[[str], None] = print,
    ):
        self.dataset_dir, self.spec, self.audio_dir = Path(dataset_dir), spec, Path(audio_dir)
        self.output, self.report = Path(output), report
        self._provenance, self._seed, self._workers = provenance, seed, workers
        self._silence: Part = (np.array(spec.silence.units), np.array(spec.silence.codes))

    def __enter__(self) -> Self:
        """Claims the directory and starts the processes.

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

    def splits(self, items: int, unseen_items: int) -> Iterator[tuple[ItemSet, list[Item], str]]:
        """Of the seen and the unseen voices: all items, those chosen, and the conditions' suffix.

        Args:
            items: of the seen voices; 0 leaves them out.
            unseen_items: of the unseen ones.
        """
        for split, suffix, count in (("valid", "", items), ("unseen", UNSEEN, unseen_items)):
            if count == 0:
                continue
            if split not in self.spec.splits:
                self.report(f"the dataset has no split {split}: its rows are left out")
                continue
            found = ItemSet(self.dataset_dir, self.spec, split, self.audio_dir, seed=self._seed)
            chosen = found.choose(count)
            if chosen:
                yield found, chosen, suffix
            else:
                self.report(f"{split}: no item, its rows are left out")

    def condition(self, name: str, run: Callable[[], Entries]) -> int:
        """Makes a condition unless it is there; returns how many samples it has.

        Args:
            name: of the condition.
            run: writes the audio and returns the manifest's entries; none at all leaves the
                condition out.
        """
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
        write_text(manifest, "".join(json.dumps(entry) + "\n" for entry in entries))
        self.report(f"{name}: {len(entries)} samples written")
        return len(entries)

    def recording(self, items: ItemSet, chosen: Sequence[Item], suffix: str) -> Entries:
        """The condition of the recordings themselves."""
        entries = []
        for item in chosen:
            self.write("recording" + suffix, item.id, items.audio(item.stretches))
            entries.append(self.entry(item, suffix) | _same_voice(item, chosen, suffix))
        return entries

    def codec(self, chosen: Sequence[Item], suffix: str) -> Entries:
        """The condition of the recordings through the codec."""
        self.vocode("codec" + suffix, {item.id: codes_of(self.parts(item)) for item in chosen})
        return [self.entry(item, suffix) | _same_voice(item, chosen, suffix) for item in chosen]

    def write(self, condition: str, name: str, wav: np.ndarray) -> None:
        """Writes a signal (N,) at the dataset's sample rate."""
        write_audio(self.output / condition / f"{name}.wav", wav, self.spec.sample_rate)

    def vocode(self, condition: str, codes: Mapping[str, np.ndarray]) -> None:
        """Decodes codes (Q, T), or latents (T, D) float32, by name into wav files, in parallel."""
        jobs = [
            (str(self.output / condition / f"{name}.wav"), value) for name, value in codes.items()
        ]
        with progress(f"{condition} audio", len(jobs)) as advance:
            for _ in self._pool.map(_write_codes, jobs, chunksize=4):
                advance(1)

    def entry(self, item: Item, suffix: str) -> dict[str, Any]:
        """The line of a manifest for what renders an item."""
        return blank_entry() | {
            "id": item.id,
            "audio": f"{item.id}.wav",
            "text": item.text,
            "text_kind": item.text_kind,
            "speaker": item.speaker,
            "source_audio": f"../recording{suffix}/{item.id}.wav",
        }

    def prompted_entry(
        self,
        condition: str,
        items: ItemSet,
        prompt: "Prompt",
        entry: dict[str, Any],
        references: dict[str, np.ndarray],
    ) -> dict[str, Any]:
        """Writes the audio of a prompt and adds it to the entry of what is made with it.

        Args:
            condition: name of the condition.
            items: that the prompt is from.
            prompt: as `prompt` returns it.
            entry: of the sample.
            references: codes by name, to be vocoded by the caller; gets that of the prompt
                speaker's further item.
        """
        name = entry["id"]
        self.write(condition, f"{name}-prompt", items.audio(prompt.stretches))
        entry = entry | {
            "prompt_speaker": prompt.speaker,
            "prompt_audio": f"{name}-prompt.wav",
        }
        if prompt.reference is None:
            return entry
        reference = prompt.reference
        self.write(condition, f"{name}-reference", items.audio(reference.stretches))
        references[f"{name}-reference-codec"] = codes_of(self.parts(reference))
        return entry | {
            "prompt_reference_audio": f"{name}-reference.wav",
            "prompt_reference_codec_audio": f"{name}-reference-codec.wav",
        }

    def prompt(self, items: ItemSet, item: Item, seconds: float) -> "Prompt | None":
        """A prompt in another voice than the item's; None where no speaker has that much speech."""
        speakers = [name for name in items.speakers if name not in (item.speaker, "unknown")]
        random.Random(f"{self._seed}/{item.id}").shuffle(speakers)
        for speaker in speakers:
            own = items.others(speaker, [], item.id)
            stretches = items.prompt(own[1:], seconds)
            if stretches:
                return Prompt(speaker, stretches, own[0])
            stretches = items.prompt(own, seconds)
            if stretches:
                return Prompt(speaker, stretches, None)
        return None

    def parts(self, item: Item) -> list[Part]:
        """Units and codes of an item's stretches with silence between them."""
        return self.join(item.stretches)

    def join(self, stretches: Sequence[Stretch]) -> list[Part]:
        """Units and codes of stretches with silence between them."""
        return join([stretch.part for stretch in stretches], self._silence)

    def _check_settings(self) -> None:
        """Samples of two settings never mix in one directory."""
        path = self.output / "settings.json"
        settings = json.loads(json.dumps(dict(self._provenance)))
        if path.exists():
            found = json.loads(path.read_text())
            if found != settings:
                differing = sorted(
                    key for key in settings | found if settings.get(key) != found.get(key)
                )
                raise UserError(
                    f"{path}: it holds samples of other settings (they differ in "
                    f"{', '.join(differing)}); name another --output or remove it"
                )
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)


class Prompt(NamedTuple):
    """Speech that shows a voice."""

    speaker: str
    stretches: list[Stretch]
    reference: Item | None  # a further item of the voice, where there is one


def check_tokenizers(spec: DatasetSpec, dataset_dir: Any, trained_on: DatasetSpec) -> None:
    """Raises UserError unless units and codes mean what they meant in training."""
    expected = trained_on.tokenizers()
    for name, value in spec.tokenizers().items():
        if value != expected[name]:
            raise UserError(
                f"{dataset_dir}: its {name} is {value}, the model was trained on "
                f"{expected[name]}: name a dataset of the same tokenizers with --dataset"
            )


def _same_voice(item: Item, chosen: Sequence[Item], suffix: str) -> dict[str, Any]:
    """The next chosen recording of the same voice, which ceilings of similarity compare with."""
    own = [other.id for other in chosen if other.speaker == item.speaker]
    if len(own) == 1:
        return {}
    other = own[(own.index(item.id) + 1) % len(own)]
    return {"prompt_speaker": item.speaker, "prompt_audio": f"../recording{suffix}/{other}.wav"}


def units_of(parts: Sequence[Part]) -> np.ndarray:
    """The units (S,) of consecutive parts."""
    return np.concatenate([units for units, _ in parts])


def codes_of(parts: Sequence[Part]) -> np.ndarray:
    """The codes (Q, T) of consecutive parts."""
    return np.concatenate([codes for _, codes in parts], axis=1)


_codec: Any = None  # of a worker process


def _load_codec(path: str) -> None:
    global _codec
    _codec = load_codec(path)


def _write_codes(job: tuple[str, np.ndarray]) -> None:
    path, value = job
    continuous = np.issubdtype(value.dtype, np.floating)
    wav = _codec.decode_vectors(value) if continuous else _codec.decode(value)
    write_audio(path, wav, _codec.sample_rate)
