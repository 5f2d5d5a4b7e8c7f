"""Generates speech from checkpoints: the modes of GPST, or the tasks of SpeechGPT-Gen.

    python -m experiments.generate --workdir=GPST_RUN --audio_dir=RECORDINGS --output=SAMPLES
    python -m experiments.generate --workdir=PERCEPTUAL_RUN --lm_workdir=LM_RUN \
        --audio_dir=RECORDINGS --dialogue=FILE.jsonl --output=SAMPLES

PERCEPTUAL_RUN is a run of flow matching or of SoundStorm; without --lm_workdir it converts voices
only. A checkpoint holds its configuration and names its dataset; its family decides what can be
generated. Each condition is a directory of audio with a manifest, which `experiments.evaluate`
reads; complete conditions are kept.
"""

import time
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime import cli
from data_pipeline.runtime.claim import claimed
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import refuse
from gpst_jax.checkpoints.manager import Loaded, load_params
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError, FlowConfig, GPSTConfig, SoundStormConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.ode_solvers import SOLVERS
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.samples import items
from gpst_jax.samples.coig import CoIGConfig, CoIGSamples
from gpst_jax.samples.gpst import GenerationConfig, GPSTSamples
from gpst_jax.samples.perceptual import PerceptualSettings

_GPST = GenerationConfig()
_COIG = CoIGConfig()
_FLOW = FlowSettings()
_SOUNDSTORM = SoundStormSettings()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of a run of GPST, or of a perceptual stage: flow matching or SoundStorm.",
    required=True,
)
_LM_WORKDIR = flags.DEFINE_string(
    "lm_workdir", None, "With a perceptual stage: directory of the language model's run."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of --workdir; default: the newest.", 0)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Token dataset made with the run's tokenizers; default: the run's own (of a mixture, the "
    "first).",
)
_AUDIO_DIR = flags.DEFINE_string(
    "audio_dir",
    None,
    "Root of the recordings that the dataset was made from; default: where they were then.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory for the samples.", required=True)
_MODES = flags.DEFINE_list(
    "modes",
    None,
    f"What to generate: with GPST {', '.join(_GPST.modes)}; with a perceptual stage "
    f"{', '.join(_COIG.tasks)}. Default: all that the other flags allow.",
)
_ITEMS = flags.DEFINE_integer("items", _GPST.items, "Items per condition, of seen speakers.", 0)
_UNSEEN = flags.DEFINE_integer(
    "unseen_items", _GPST.unseen_items, "Items per condition, of unseen speakers.", 0
)
_PROMPT = flags.DEFINE_float(
    "prompt_seconds", _GPST.prompt_seconds, "Duration of speech prompts, in seconds.", 0.01
)
_LENGTH = flags.DEFINE_float(
    "unconditional_seconds",
    _GPST.unconditional_seconds,
    "Longest unconditional sample of GPST, in seconds.",
    0.01,
)
_DIALOGUE = flags.DEFINE_string(
    "dialogue", None, "File of questions and answers, as of data_pipeline.build_sequences."
)
_SEMANTIC_TEMPERATURE = flags.DEFINE_float(
    "semantic_temperature",
    None,
    f"Sampling temperature of units; default: {_GPST.semantic.temperature} with GPST, "
    f"{_COIG.units.temperature} with the language model.",
    0,
)
_SEMANTIC_TOP_K = flags.DEFINE_integer(
    "semantic_top_k", 0, "Top-k sampling of units; 0: no limit, 1: greedy.", 0
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _GPST.acoustic.temperature, "Sampling temperature of GPST's codes.", 0
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 0, "Top-k sampling of GPST's codes; 0: no limit, 1: greedy.", 0
)
_SOLVER = flags.DEFINE_enum("solver", _FLOW.solver, list(SOLVERS), "ODE solver of flow matching.")
_FLOW_STEPS = flags.DEFINE_integer("flow_steps", _FLOW.steps, "Steps of the ODE solver.", 1)
_GUIDANCE = flags.DEFINE_float(
    "guidance", _FLOW.guidance, "Classifier-free guidance weight of flow matching; 0: none.", 0
)
_FLOW_TEMPERATURE = flags.DEFINE_float(
    "flow_temperature", _FLOW.temperature, "Scale of the noise that flow matching starts from.", 0
)
_SOUNDSTORM_STEPS = flags.DEFINE_integer(
    "soundstorm_steps", _SOUNDSTORM.steps, "Decoding iterations of SoundStorm's first level.", 1
)
_SOUNDSTORM_TEMPERATURE = flags.DEFINE_float(
    "soundstorm_temperature",
    _SOUNDSTORM.temperature,
    "Sampling temperature of SoundStorm's first iteration, annealed to 0; 0: greedy.",
    0,
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _GPST.batch_size, "Items decoded at once.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds the choice of items and all sampling.", 0)
_STAGES = ("flow", "soundstorm")
# Family of --workdir -> the flags that are for it; the others are for all.
_FAMILY_FLAGS = {
    "gpst": {"unconditional_seconds", "temperature", "top_k"},
    "flow": {
        *("solver", "flow_steps", "guidance", "flow_temperature"),
        *("lm_workdir", "dialogue"),
    },
    "soundstorm": {
        *("soundstorm_steps", "soundstorm_temperature"),
        *("lm_workdir", "dialogue"),
    },
}


def main(argv: list[str]) -> int:
    """Generates all conditions; returns the exit code."""
    del argv
    started = time.monotonic()
    try:
        model = load_params(_WORKDIR.value, _STEP.value)
        _check_flags(model)
        dataset_dir = _DATASET.value or dataset_with(_data_path(model), "valid", "unseen")
        spec = DatasetSpec.load(dataset_dir)
        splits = [split for split in ("valid", "unseen") if split in spec.splits]
        audio_dir = items.find_audio(dataset_dir, splits, _AUDIO_DIR.value)
        with claimed(_OUTPUT.value):
            counts = _generator(model, dataset_dir, spec, audio_dir).run()
    except (CheckpointError, ConfigError) as error:
        raise UserError(str(error)) from error
    result = {
        "step": model.step,
        "samples": counts,
        "seconds": round(time.monotonic() - started, 2),
    }
    print(f"{sum(counts.values())} samples in {_OUTPUT.value}")
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


def _data_path(model: Loaded) -> str:
    path = model.config.data.path
    if not path or not Path(path).exists():
        raise UserError(
            f"--workdir={_WORKDIR.value}: its dataset {path!r} is not there, seen from {Path.cwd()}"
            ": give the dataset, or a copy of it, as --dataset"
        )
    return path


def _generator(model: Loaded, dataset_dir: str, spec: DatasetSpec, audio_dir: Path) -> Any:
    """The generator for the checkpoint's family."""
    where = (dataset_dir, spec, audio_dir, _OUTPUT.value)
    if isinstance(model.config.model, GPSTConfig):
        return GPSTSamples(model, *where, _gpst_config())
    family = model.config.model.family
    if not isinstance(model.config.model, FlowConfig | SoundStormConfig):
        raise UserError(
            f"--workdir={_WORKDIR.value}: a model of family {family!r} generates no audio: give a "
            "run of GPST, flow matching or SoundStorm (and the language model's with --lm_workdir)"
        )
    settings = _stage_settings(family)
    language = None
    if _LM_WORKDIR.value:
        loaded = load_params(_LM_WORKDIR.value)
        language = (loaded, dataset_with(loaded.config.data.path, "train"))
    config = _coig_config(settings, language is not None)
    return CoIGSamples(model, language, *where, _DIALOGUE.value, config)


def _gpst_config() -> GenerationConfig:
    return GenerationConfig(
        modes=tuple(_MODES.value or _GPST.modes),
        unconditional_seconds=_LENGTH.value,
        semantic=_units(_GPST.semantic),
        acoustic=SamplingConfig(_TEMPERATURE.value, _TOP_K.value),
        **_common(),
    )


def _check_flags(model: Loaded) -> None:
    """Raises UserError for flags that the model, or another flag, leaves without effect."""
    family = model.config.model.family
    for name in sorted(set().union(*_FAMILY_FLAGS.values())):
        families = [other for other, names in _FAMILY_FLAGS.items() if name in names]
        if family not in families:
            refuse(
                (name,),
                f"is for models of family {' or '.join(map(repr, families))}, but "
                f"--workdir={_WORKDIR.value} is of family {family!r}",
            )
    if family in _STAGES and not _LM_WORKDIR.value:
        refuse(
            ("dialogue", "semantic_temperature", "semantic_top_k"),
            "is for a language model, which --lm_workdir names: give both or neither",
        )
    if _MODES.value and "dialogue" not in _MODES.value:
        refuse(("dialogue",), f"is for the mode dialogue, not for --modes={','.join(_MODES.value)}")


def _stage_settings(family: str) -> PerceptualSettings:
    """The settings of a family of perceptual stages."""
    if family == "soundstorm":
        return SoundStormSettings(_SOUNDSTORM_STEPS.value, _SOUNDSTORM_TEMPERATURE.value)
    return FlowSettings(_SOLVER.value, _FLOW_STEPS.value, _GUIDANCE.value, _FLOW_TEMPERATURE.value)


def _coig_config(settings: PerceptualSettings, with_language: bool) -> CoIGConfig:
    possible = list(_COIG.tasks) if with_language else ["voice_conversion"]
    if not _DIALOGUE.value and "dialogue" in possible:
        possible.remove("dialogue")
    return CoIGConfig(
        tasks=tuple(_MODES.value or possible),
        units=_units(_COIG.units),
        perceptual=settings,
        **_common(),
    )


def _units(default: SamplingConfig) -> SamplingConfig:
    temperature = _SEMANTIC_TEMPERATURE.value
    temperature = default.temperature if temperature is None else temperature
    return SamplingConfig(temperature, _SEMANTIC_TOP_K.value)


def _common() -> dict[str, Any]:
    return {
        "items": _ITEMS.value,
        "unseen_items": _UNSEEN.value,
        "prompt_seconds": _PROMPT.value,
        "batch_size": _BATCH_SIZE.value,
        "seed": _SEED.value,
    }


if __name__ == "__main__":
    cli.run(main)
