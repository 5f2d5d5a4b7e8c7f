"""Generates speech from checkpoints: the modes of GPST, or the tasks of SpeechGPT-Gen.

    python -m experiments.generate --workdir=RUN --audio_dir=RECORDINGS --output=SAMPLES
    python -m experiments.generate --workdir=FLOW_RUN --lm_workdir=LM_RUN \
        --audio_dir=RECORDINGS --dialogue=FILE.jsonl --output=SAMPLES

A checkpoint describes its model and names its dataset; its family decides what can be generated.
Samples are written with a manifest per condition, which `experiments/evaluate.py` reads; conditions
that are there already are kept.
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
from gpst_jax.config import ConfigError, FlowConfig, GPSTConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.ode_solvers import SOLVERS
from gpst_jax.samples import items
from gpst_jax.samples.coig import CoIGConfig, CoIGSamples
from gpst_jax.samples.gpst import GenerationConfig, GPSTSamples

_GPST = GenerationConfig()
_COIG = CoIGConfig()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run, of GPST or of flow matching.", required=True
)
_LM_WORKDIR = flags.DEFINE_string(
    "lm_workdir", None, "With flow matching: directory of the language model's run."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to load; the newest if not given.")
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Token shards of the run's tokenizers; default: the run's own, of a mixture the first.",
)
_AUDIO_DIR = flags.DEFINE_string(
    "audio_dir", None, "Recordings that the shards were made from.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory for the samples.", required=True)
_MODES = flags.DEFINE_list(
    "modes",
    None,
    f"What to generate: of GPST {', '.join(_GPST.modes)}, of flow matching "
    f"{', '.join(_COIG.tasks)}; default: all.",
)
_ITEMS = flags.DEFINE_integer("items", _GPST.items, "Items of the seen voices per condition.")
_UNSEEN = flags.DEFINE_integer("unseen_items", _GPST.unseen_items, "Items of unseen voices.")
_PROMPT = flags.DEFINE_float("prompt_seconds", _GPST.prompt_seconds, "Length of prompts.")
_LENGTH = flags.DEFINE_float(
    "unconditional_seconds", _GPST.unconditional_seconds, "Longest unconditional sample of GPST."
)
_DIALOGUE = flags.DEFINE_string(
    "dialogue", None, "Questions and answers, as data_pipeline.build_sequences takes them."
)
_SEMANTIC_TEMPERATURE = flags.DEFINE_float(
    "semantic_temperature",
    None,
    f"Sampling temperature of units; default: {_GPST.semantic.temperature} of GPST, "
    f"{_COIG.units.temperature} of the language model.",
)
_SEMANTIC_TOP_K = flags.DEFINE_integer("semantic_top_k", 0, "Units kept; 0 all, 1 greedy.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _GPST.acoustic.temperature, "Sampling temperature of GPST's codes."
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Codes of GPST kept; 0 all, 1 greedy.")
_SOLVER = flags.DEFINE_enum("solver", _COIG.flow.solver, list(SOLVERS), "Of flow matching.")
_FLOW_STEPS = flags.DEFINE_integer("flow_steps", _COIG.flow.steps, "Steps of the solver.", 1)
_GUIDANCE = flags.DEFINE_float(
    "guidance", _COIG.flow.guidance, "Classifier-free guidance of flow matching; 0: none."
)
_FLOW_TEMPERATURE = flags.DEFINE_float(
    "flow_temperature",
    _COIG.flow.temperature,
    "Temperature of the noise that the flow begins with.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _GPST.batch_size, "Items decoded at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Fixes the choice of items and all that is drawn.")


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
    """The generator of the checkpoint's family."""
    where = (dataset_dir, spec, _AUDIO_DIR.value, _OUTPUT.value)
    if isinstance(model.config.model, GPSTConfig):
        return GPSTSamples(model, *where, _gpst_config())
    if not isinstance(model.config.model, FlowConfig):
        raise UserError(
            f"--workdir={_WORKDIR.value}: a model of family {model.config.model.family!r} does not "
            "speak by itself: name a run of GPST or of flow matching (and the language model with "
            "--lm_workdir)"
        )
    language = None
    if _LM_WORKDIR.value:
        loaded = load_params(_LM_WORKDIR.value)
        language = (loaded, dataset_with(loaded.config.data.path, "train"))
    return CoIGSamples(model, language, *where, _DIALOGUE.value, _coig_config(language is not None))


def _gpst_config() -> GenerationConfig:
    return GenerationConfig(
        modes=tuple(_MODES.value or _GPST.modes),
        unconditional_seconds=_LENGTH.value,
        semantic=_units(_GPST.semantic),
        acoustic=SamplingConfig(_TEMPERATURE.value, _TOP_K.value),
        **_common(),
    )


def _coig_config(with_language: bool) -> CoIGConfig:
    possible = list(_COIG.tasks) if with_language else ["voice_conversion"]
    if not _DIALOGUE.value and "dialogue" in possible:
        possible.remove("dialogue")
    return CoIGConfig(
        tasks=tuple(_MODES.value or possible),
        units=_units(_COIG.units),
        flow=FlowSettings(
            _SOLVER.value, _FLOW_STEPS.value, _GUIDANCE.value, _FLOW_TEMPERATURE.value
        ),
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
