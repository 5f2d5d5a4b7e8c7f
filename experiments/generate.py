"""Generates speech from a checkpoint in the modes of GPST.

    python -m experiments.generate --workdir=RUN --audio_dir=RECORDINGS --output=SAMPLES

The checkpoint describes its model and names its dataset. Samples are written with a manifest per
condition, which `experiments/evaluate.py` reads; conditions that are there already are kept.
"""

import time

from absl import flags

from data_pipeline import cli
from data_pipeline.mixture import dataset_with
from data_pipeline.spec import DatasetSpec
from gpst_jax import generation, items
from gpst_jax.checkpoint import load_params
from gpst_jax.config import ConfigError
from gpst_jax.run_record import CheckpointError
from gpst_jax.sampling import SamplingConfig

_DEFAULT = generation.GenerationConfig()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the training run.", required=True)
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
_MODES = flags.DEFINE_list("modes", list(_DEFAULT.modes), "Modes to run.")
_ITEMS = flags.DEFINE_integer("items", _DEFAULT.items, "Items of the seen voices per condition.")
_UNSEEN = flags.DEFINE_integer("unseen_items", _DEFAULT.unseen_items, "Items of unseen voices.")
_PROMPT = flags.DEFINE_float("prompt_seconds", _DEFAULT.prompt_seconds, "Length of prompts.")
_LENGTH = flags.DEFINE_float(
    "unconditional_seconds", _DEFAULT.unconditional_seconds, "Longest unconditional sample."
)
_SEMANTIC_TEMPERATURE = flags.DEFINE_float(
    "semantic_temperature", _DEFAULT.semantic.temperature, "Sampling temperature of units."
)
_SEMANTIC_TOP_K = flags.DEFINE_integer("semantic_top_k", 0, "Units kept; 0 all, 1 greedy.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _DEFAULT.acoustic.temperature, "Sampling temperature of codes."
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Codes kept; 0 all, 1 greedy.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Items decoded at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Fixes the choice of items and all that is drawn.")


def main(argv: list[str]) -> int:
    """Generates all conditions; returns the exit code."""
    del argv
    started = time.monotonic()
    try:
        config = generation.GenerationConfig(
            modes=tuple(_MODES.value),
            items=_ITEMS.value,
            unseen_items=_UNSEEN.value,
            prompt_seconds=_PROMPT.value,
            unconditional_seconds=_LENGTH.value,
            semantic=SamplingConfig(_SEMANTIC_TEMPERATURE.value, _SEMANTIC_TOP_K.value),
            acoustic=SamplingConfig(_TEMPERATURE.value, _TOP_K.value),
            batch_size=_BATCH_SIZE.value,
            seed=_SEED.value,
        )
        model = load_params(_WORKDIR.value, _STEP.value)
        dataset_dir = _DATASET.value or dataset_with(model.config.data.path, "valid", "unseen")
        spec = DatasetSpec.load(dataset_dir)
        for split in ("valid", "unseen"):
            if split in spec.splits:
                items.check_audio(dataset_dir, split, _AUDIO_DIR.value)
        generator = generation.Generator(
            model, dataset_dir, spec, _AUDIO_DIR.value, _OUTPUT.value, config
        )
        counts = generator.run()
    except (CheckpointError, ConfigError) as error:
        raise cli.UserError(str(error)) from error
    result = {
        "step": model.step,
        "samples": counts,
        "seconds": round(time.monotonic() - started, 2),
    }
    print(f"{sum(counts.values())} samples in {_OUTPUT.value}")
    if cli.JSON_OUT.value:
        cli.write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    cli.run(main)
