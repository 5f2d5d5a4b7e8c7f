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
from typing import Any

from absl import flags

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
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
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of --workdir; default: the newest.")
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Token dataset made with the run's tokenizers; default: the run's own (of a mixture, the "
    "first).",
)
_AUDIO_DIR = flags.DEFINE_string(
    "audio_dir", None, "Root of the recordings that the dataset was made from.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory for the samples.", required=True)
_MODES = flags.DEFINE_list(
    "modes",
    None,
    f"What to generate: with GPST {', '.join(_GPST.modes)}; with a perceptual stage "
    f"{', '.join(_COIG.tasks)}. Default: all that the other flags allow.",
)
_ITEMS = flags.DEFINE_integer("items", _GPST.items, "Items per condition, of seen speakers.")
_UNSEEN = flags.DEFINE_integer(
    "unseen_items", _GPST.unseen_items, "Items per condition, of unseen speakers."
)
_PROMPT = flags.DEFINE_float(
    "prompt_seconds", _GPST.prompt_seconds, "Duration of speech prompts, in seconds."
)
_LENGTH = flags.DEFINE_float(
    "unconditional_seconds",
    _GPST.unconditional_seconds,
    "Longest unconditional sample of GPST, in seconds.",
)
_DIALOGUE = flags.DEFINE_string(
    "dialogue", None, "File of questions and answers, as of data_pipeline.build_sequences."
)
_SEMANTIC_TEMPERATURE = flags.DEFINE_float(
    "semantic_temperature",
    None,
    f"Sampling temperature of units; default: {_GPST.semantic.temperature} with GPST, "
    f"{_COIG.units.temperature} with the language model.",
)
_SEMANTIC_TOP_K = flags.DEFINE_integer(
    "semantic_top_k", 0, "Top-k sampling of units; 0: no limit, 1: greedy."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _GPST.acoustic.temperature, "Sampling temperature of GPST's codes."
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Top-k sampling of GPST's codes; 0: no limit, 1: greedy.")
_SOLVER = flags.DEFINE_enum("solver", _FLOW.solver, list(SOLVERS), "ODE solver of flow matching.")
_FLOW_STEPS = flags.DEFINE_integer("flow_steps", _FLOW.steps, "Steps of the ODE solver.", 1)
_GUIDANCE = flags.DEFINE_float(
    "guidance", _FLOW.guidance, "Classifier-free guidance weight of flow matching; 0: none."
)
_FLOW_TEMPERATURE = flags.DEFINE_float(
    "flow_temperature", _FLOW.temperature, "Scale of the noise that flow matching starts from."
)
_SOUNDSTORM_STEPS = flags.DEFINE_integer(
    "soundstorm_steps", _SOUNDSTORM.steps, "Decoding iterations of SoundStorm's first level.", 1
)
_SOUNDSTORM_TEMPERATURE = flags.DEFINE_float(
    "soundstorm_temperature",
    _SOUNDSTORM.temperature,
    "Sampling temperature of SoundStorm's first iteration, annealed to 0; 0: greedy.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _GPST.batch_size, "Items decoded at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Seeds the choice of items and all sampling.")
_STAGE_FLAGS = {
    "flow": (_SOLVER, _FLOW_STEPS, _GUIDANCE, _FLOW_TEMPERATURE),
    "soundstorm": (_SOUNDSTORM_STEPS, _SOUNDSTORM_TEMPERATURE),
}


def main(argv: list[str]) -> int:
    """Generates all conditions; returns the exit code."""
    del argv
    started = time.monotonic()
    try:
        model = load_params(_WORKDIR.value, _STEP.value)
        dataset_dir = _DATASET.value or dataset_with(model.config.data.path, "valid", "unseen")
        spec = DatasetSpec.load(dataset_dir)
        for split in ("valid", "unseen"):
            if split in spec.splits:
                items.check_audio(dataset_dir, split, _AUDIO_DIR.value)
        counts = _generator(model, dataset_dir, spec).run()
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


def _generator(model: Loaded, dataset_dir: str, spec: DatasetSpec) -> Any:
    """The generator for the checkpoint's family."""
    where = (dataset_dir, spec, _AUDIO_DIR.value, _OUTPUT.value)
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


def _stage_settings(family: str) -> PerceptualSettings:
    """The settings of a family of perceptual stages; UserError for a flag of the other family."""
    for other, holders in _STAGE_FLAGS.items():
        for flag in holders:
            if other != family and flag.present:
                raise UserError(
                    f"--{flag.name}: is for models of family {other!r}, but "
                    f"--workdir={_WORKDIR.value} is of family {family!r}"
                )
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
