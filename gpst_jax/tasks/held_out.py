"""Tasks on the held-out recordings of the run's own dataset, found where they were tokenised from.

The items are those of `samples`: joined to at least a second, from the speakers in turn, by seed 0.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from gpst_jax.config import FlowConfig, GPSTConfig, SoundStormConfig
from gpst_jax.evaluation.comparisons import is_ceiling
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.gpst_modes import check_modes
from gpst_jax.generation.guards import Guards
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.samples.coig import CoIGConfig, CoIGSamples
from gpst_jax.samples.gpst import GPSTSamples
from gpst_jax.samples.gpst_config import TTS, GenerationConfig, default_modes
from gpst_jax.samples.items import ItemSet, find_audio
from gpst_jax.samples.manifest import read_samples
from gpst_jax.synthesis.models import Model
from gpst_jax.tasks import base, demo_list
from gpst_jax.tasks.base import Request

SPLITS = ("valid", "unseen")
_HI_RES = 16  # codebooks
_RENDERED = ("semantic_to_acoustic", "speaker_transfer", "continuation")


@dataclasses.dataclass(frozen=True)
class HeldOutTask:
    """A task whose items are the dataset's own.

    Attributes:
        name: of the flag `--task`; `held-out` without one.
        source: where its protocol is from.
        rule: how its items are chosen, in a line.
        modes: by family, those that are generated; empty: all that the models can do.
        items: of seen speakers, by default.
        unseen_items: of unseen speakers, by default.
        sentences: of other texts beside digit strings; None: a fifth of the items.
        wer: recipes of its source; empty: the default ones.
        check: raises UserError where the dataset is not one for this task.
    """

    name: str
    source: str
    rule: str
    modes: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    items: int = 100
    unseen_items: int = 60
    sentences: int | None = None
    wer: tuple[str, ...] = ()
    check: Callable[[Path, DatasetSpec], None] | None = None


def generate(
    task: HeldOutTask,
    model: Model,
    language: Model | None,
    request: Request,
    output: Path,
    items: int | None,
    workers: int,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the conditions of a task; complete ones are kept.

    Args:
        task: which one.
        model: GPST, or a perceptual stage.
        language: the language model, for tts and dialogue.
        request: names the dataset, perhaps its recordings, and a list of dialogues.
        output: directory of the samples.
        items: at most so many of seen speakers, and as many of unseen ones; None: the task's.
        workers: processes that run the codec's decoder.
        report: called with lines of progress.

    Returns:
        Count and digest of the items, as JSON values.

    Raises:
        UserError: the recordings are gone, or the task is not for this dataset or these models.
    """
    dataset = request.run_dataset(task.name)
    spec = DatasetSpec.load(dataset)
    if task.check is not None:
        task.check(dataset, spec)
    splits = [split for split in SPLITS if split in spec.splits]
    audio_dir = find_audio(dataset, splits, request.audio_dir)
    counts: dict[str, Any] = {
        "items": task.items if items is None else min(items, task.items),
        "unseen_items": task.unseen_items if items is None else min(items, task.unseen_items),
        "workers": workers,
    }
    where = (dataset, spec, audio_dir, output)
    spoken = None if language is None else (language.loaded, language.directory)
    family = model.loaded.config.model.family
    modes = task.modes.get(family, ())
    if task.modes and not modes:
        raise UserError(
            f"--task={task.name} is for models of family {' or '.join(task.modes)}, "
            f"--workdir={model.path} is of family {family!r}"
        )
    if isinstance(model.loaded.config.model, GPSTConfig):
        _refuse_list(request, task)
        data = model.loaded.config.data
        check_modes(f"--task={task.name}: mode", modes, data.units == "front")
        modes = modes or default_modes(data, spoken is not None)
        chosen = GenerationConfig(modes=modes, guards=Guards(), sentences=task.sentences, **counts)
        GPSTSamples(model.loaded, *where, chosen, spoken if TTS in modes else None, report).run()
    elif isinstance(model.loaded.config.model, FlowConfig | SoundStormConfig):
        config = _coig_config(family, spoken is not None, request, task, modes, counts)
        dialogues = str(request.list_file) if "dialogue" in config.tasks else None
        CoIGSamples(model.loaded, spoken, *where, dialogues, config, report).run()
    else:
        raise UserError(
            f"--workdir={model.path}: a model of family {family!r} generates no audio: give a run "
            "of GPST, flow matching or SoundStorm (and the language model's with --lm_workdir)"
        )
    return describe(output)


def _coig_config(
    family: str,
    with_language: bool,
    request: Request,
    task: HeldOutTask,
    modes: tuple[str, ...],
    counts: dict[str, Any],
) -> CoIGConfig:
    """The tasks of SpeechGPT-Gen that the models and the list allow, where the task names none."""
    if not modes:
        modes = ("voice_conversion", *(("tts",) if with_language else ()))
        modes += ("dialogue",) if with_language and request.list_file else ()
    if "dialogue" in modes and request.list_file is None:
        raise UserError(f"--task={task.name} needs --list: the file of questions and answers")
    if "dialogue" not in modes:
        _refuse_list(request, task)
    perceptual = SoundStormSettings() if family == "soundstorm" else FlowSettings()
    return CoIGConfig(tasks=modes, perceptual=perceptual, **counts)


def _refuse_list(request: Request, task: HeldOutTask) -> None:
    if request.list_file is not None:
        raise UserError(f"--list={request.list_file}: the task {task.name} has a list of its own")


def describe(output: Path) -> dict[str, Any]:
    """Count and digest of what a directory of samples renders: ids and texts."""
    items = {
        (sample.id, sample.text)
        for name, samples in read_samples(output).items()
        if name != "unconditional" and not is_ceiling(name)
        for sample in samples
    }
    lines = (f"{name}\t{text or ''}" for name, text in sorted(items, key=lambda item: item[0]))
    return {"count": len(items), "sha256": base.digest(lines)}


def _check_demo(dataset: Path, spec: DatasetSpec) -> None:
    """Raises UserError unless the items that will be chosen are those of the frozen list."""
    for split, kept in (
        ("valid", (demo_list.VALID, demo_list.SENTENCES)),
        ("unseen", (demo_list.UNSEEN, frozenset())),
    ):
        digits, sentences = kept
        if split in spec.splits:
            items = ItemSet(dataset, spec, split, dataset)
            found = {item.id for item in items.choose(len(digits))}
            found |= {item.id for item in items.choose_sentences(len(sentences))}
        else:
            found = set()
        missing = sorted((digits | sentences) - found)
        if missing:
            raise UserError(
                f"{dataset} is not the corpus of make demo: {len(missing)} of the "
                f"{len(digits | sentences)} items of its split {split} differ, such as "
                f"{missing[0]}; leave out --task to evaluate on held-out recordings of any dataset"
            )


def _check_hi_res(dataset: Path, spec: DatasetSpec) -> None:
    if spec.codec.num_codebooks < _HI_RES:
        raise UserError(
            f"{dataset}: its codec has {spec.codec.num_codebooks} codebooks, --task=hires is for "
            f"{_HI_RES} or more"
        )


_CHOICE = (
    "the dataset's held-out recordings, speakers in turn, by seed 0; digit strings where there "
    "are any"
)
_RULE = f"{_CHOICE}, and a fifth more sentences then"
HELD_OUT = HeldOutTask(
    name="held-out",
    source="the run's own dataset",
    rule=_RULE,
)
DEMO = HeldOutTask(
    name="demo",
    source="the synthetic corpus of make demo",
    rule=f"frozen as ids: {_RULE}",
    check=_check_demo,
)
SEEN_VOICES = HeldOutTask(
    name="seen-voices",
    source="what the cells of a study are scored on: the run's own dataset",
    rule=f"{_CHOICE}; speakers of the training set alone",
    modes={"gpst": ("semantic_to_acoustic", "speaker_transfer")},
    unseen_items=0,
    sentences=0,
)
HI_RES = HeldOutTask(
    name="hires",
    source="GPST-Hi-Res (arXiv 2406.00976, section 4): 16 codebooks, the tasks of GPST",
    rule=_RULE,
    modes={"gpst": _RENDERED},
    check=_check_hi_res,
)
DIALOGUE = HeldOutTask(
    name="dialogue",
    source="SpeechGPT-Gen (arXiv 2401.13527, section 4): spoken answers to spoken questions",
    rule="dialogues of the list whose question and answer are held out, evenly spaced",
    modes={"flow": ("dialogue",), "soundstorm": ("dialogue",)},
)
