"""Fine-tunes a model on your own recordings; run it again to resume.

    python -m experiments.finetune --checkpoint=RUN --audio_dir=RECORDINGS --workdir=DIRECTORY \
        [--transcripts=FILE.csv] [--method=lora] [--steps=300] [--config.section.field=value ...]

`--checkpoint` is a run or an exported model. Recordings are tokenised with the model's tokenizers
into `tokens/`; `--dataset` takes existing tokens, or sequences of text and units, instead. The
outputs, by method:

* `full`: `train/`, a run as of pretraining;
* `lora`: `merged/`, parameters with the adapters merged, and `adapters/` in PEFT's layout.

`experiments.generate` and `experiments.export` accept `train/` and `merged/`. Checkpoint, dataset
and workdir may be in a bucket: gs://BUCKET/NAME. Exit codes are those of `experiments.pretrain`;
after 75, the same command resumes. Examples are in docs/export.md.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordError
from data_pipeline.loading.mixture import load_spec
from data_pipeline.runtime import cli, exit_codes, mirror
from data_pipeline.runtime.buckets import access, check_writable, is_bucket, location
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.flag_rules import given, may_be_in_buckets, refuse
from data_pipeline.tokenization.config import CorpusConfig
from data_pipeline.tokenize_corpus import tokenize_corpus
from experiments import config_flags
from experiments.common import RunLoaders
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.checkpoints.storage import StorageError, check_name
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.models.lora import LAYER_MATRICES, LoraConfig
from gpst_jax.objectives import Objective, make_objective
from gpst_jax.objectives.lora import LoraObjective
from gpst_jax.trackers import check_names
from gpst_jax.training.log import DivergenceError, process_trackers
from gpst_jax.training.loop import train
from gpst_jax.warm_start import finetuning
from gpst_jax.warm_start.arrays import from_source
from gpst_jax.warm_start.finetuning import with_adapters
from gpst_jax.warm_start.vocabulary import VOCABULARY_ARRAYS, VocabularyChange
from gpst_jax.weights import loading
from gpst_jax.weights.sources import Source

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Model to start from: a run, or an exported model.", required=True
)
_STEP = flags.DEFINE_integer(
    "step", None, "Of a run: the checkpoint to load; default: the newest.", 0
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all outputs.", required=True)
_AUDIO_DIR = flags.DEFINE_string("audio_dir", None, "Directory tree of recordings.")
_TRANSCRIPTS = flags.DEFINE_string("transcripts", None, "CSV file, as for tokenize_corpus.")
_SOURCE = flags.DEFINE_string(
    "source", None, "Instead of --audio_dir: folder:DIR, manifest:FILE, ... as for tokenize_corpus."
)
_DATASET = flags.DEFINE_string("dataset", None, "Instead of recordings: an existing dataset.")
_VALID_FRACTION = flags.DEFINE_float(
    "valid_fraction", 0.05, "Fraction of recordings held out.", 0, 1
)
_METHOD = flags.DEFINE_enum(
    "method", "full", ("full", "lora"), "Train all parameters, or adapters."
)
_STEPS = flags.DEFINE_integer("steps", 300, "Optimiser steps.", 1)
_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "Peak learning rate; default: a tenth of the checkpoint's, 1e-3 for lora.",
    0,
)
_RANK = flags.DEFINE_integer("rank", LoraConfig.rank, "lora: rank of the adapters.", 1)
_ALPHA = flags.DEFINE_float("alpha", LoraConfig.alpha, "lora: adapters are scaled by alpha / rank.")
_DROPOUT = flags.DEFINE_float(
    "dropout", LoraConfig.dropout, "lora: dropout rate of the adapters' inputs.", 0, 1
)
_TARGETS = flags.DEFINE_multi_string(
    "targets", list(LAYER_MATRICES), "lora: regular expression of parameters that get adapters."
)
_TRAINED = flags.DEFINE_multi_string(
    "trained", [], "lora: regular expression of parameters that are trained in full."
)
_VOCABULARY = flags.DEFINE_enum(
    "vocabulary",
    "same",
    ("same", "extend", "replace"),
    "A --dataset of other tokenizers: is an error; keeps the rows of existing ids and initialises "
    "new ones at random; or initialises all rows at random.",
)
_TRACKERS = flags.DEFINE_list(
    "trackers",
    [],
    "Where metrics go beside console, metrics.jsonl and TensorBoard: wandb, trackio (by commas).",
)
_TRACKER_PROJECT = flags.DEFINE_string(
    "tracker_project", None, "Their project; default: WANDB_PROJECT for wandb, else gpst_jax."
)
may_be_in_buckets("checkpoint", "workdir", "dataset")
_OVERRIDES = config_flags.DEFINE_overrides("config", "The configuration is the checkpoint's")


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options start with --")
    try:
        result = finetune(location(_WORKDIR.value))
    except DivergenceError as error:
        print(f"error: training diverged: {error}", file=sys.stderr)
        return exit_codes.DIVERGED
    except (StorageError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.STORAGE
    except (ConfigError, CheckpointError) as error:
        raise UserError(str(error)) from error
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    if result["interrupted"]:
        print(f"interrupted, state saved: step {result['steps']}; run again to resume")
        return exit_codes.INTERRUPTED
    print(f"Model: {result['model']}")
    return exit_codes.OK


def finetune(workdir: Any) -> dict[str, Any]:
    """Tokenises, trains and writes the model; returns what `--json_out` holds.

    Args:
        workdir: a path, or in a bucket one of the same methods, see `buckets.location`.
    """
    check_name(workdir)  # before anything is tokenised
    check_names(_TRACKERS.value)
    _check_flags()
    lora = _lora_config() if _METHOD.value == "lora" else None
    source = loading.open_source(_CHECKPOINT.value, [_STEP.value] if _STEP.value else [])
    _make_config(source, _DATASET.value or "", lora)
    if is_bucket(workdir):
        check_writable(workdir)
    settings = {
        "checkpoint": _CHECKPOINT.value,
        "step": source.description.step,
        "checkpoint_contents": finetuning.contents_of(source, _CHECKPOINT.value),
        "vocabulary": _VOCABULARY.value,
        "lora": finetuning.as_json(lora),
    }
    with access(workdir):
        known = (workdir / finetuning.SETTINGS_FILE).exists()
    if known:  # of another run: nothing is tokenised
        finetuning.check_settings(workdir, settings)
    dataset = _DATASET.value or str(workdir / "tokens")
    if not _DATASET.value:
        with mirror.outputs(dataset) as output:
            _tokenise(source, output)
    spec = load_spec(dataset)
    replace = None
    if _VOCABULARY.value == "same":
        finetuning.check_tokenizers(source.description, spec)
    else:
        old = source.description.spec().layout()
        replace = VocabularyChange(old, spec.layout(), keep=_VOCABULARY.value == "extend")
    config = _make_config(source, str(dataset), lora)
    objective: Objective = make_objective(config, spec, dataset)
    finetuning.check_settings(workdir, settings)
    initial = from_source(source, replace)
    run = workdir / "train"
    if lora is not None:
        objective = LoraObjective(objective, lora)
        initial = with_adapters(initial, lora, config.train.seed)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    trainable = finetuning.count_trainable(objective, shapes)
    total = finetuning.count(shapes)
    print(f"{trainable:,} of {total:,} parameters are trained for {config.train.steps} steps")
    with RunLoaders(config, spec, objective) as loaders:
        loaders.check_validation(config.train.eval_batches)
        result = train(
            config,
            objective,
            loaders.make,
            run,
            dataset=dataclasses.asdict(spec),
            initial=initial,
            trackers=process_trackers(
                mirror.local_directory(run), _TRACKERS.value, _TRACKER_PROJECT.value
            ),
        )
    model = run
    if lora is not None and not result.interrupted:
        model = workdir / "merged"
        with mirror.made(model) as merged, mirror.made(workdir / "adapters") as apart:
            finetuning.finish_adapters(run, source, lora, merged, apart)
    return dataclasses.asdict(result) | {
        "model": str(model),
        "dataset": str(dataset),
        "trainable_parameters": trainable,
    }


def _check_flags() -> None:
    """Raises UserError for flags that exclude each other."""
    if _DATASET.value:
        refuse(
            ("audio_dir", "source", "transcripts", "valid_fraction"),
            "is for recordings, and --dataset holds tokens: leave one of the two out",
        )
    else:
        refuse(("vocabulary",), "is for a --dataset of other tokenizers, which must be given too")
        if (_AUDIO_DIR.value is None) == (_SOURCE.value is None):
            raise UserError("give the recordings as one of --audio_dir, --source and --dataset")
    if _METHOD.value != "lora":
        refuse(
            ("rank", "alpha", "dropout", "targets", "trained"),
            f"is for --method=lora, not --method={_METHOD.value}",
        )
    _OVERRIDES.refuse("data.path", "give the data as --dataset or --audio_dir")
    for name, field in (("steps", "train.steps"), ("learning_rate", "optimizer.learning_rate")):
        if given(name):
            _OVERRIDES.refuse(field, f"--{name} sets it: give one of the two")


def _make_config(source: Source, dataset: str, lora: LoraConfig | None) -> RunConfig:
    return finetuning.make_config(
        source.description,
        dataset,
        steps=_STEPS.value,
        adapters=lora is not None,
        learning_rate=_RATE.value,
        overrides=_OVERRIDES.overrides,
    )


def _lora_config() -> LoraConfig:
    trained = list(_TRAINED.value)
    if _VOCABULARY.value != "same":
        trained += VOCABULARY_ARRAYS  # new rows are random and are trained in full
    return LoraConfig(
        rank=_RANK.value,
        alpha=_ALPHA.value,
        dropout=_DROPOUT.value,
        targets=tuple(_TARGETS.value),
        trained=tuple(trained),
    )


def _tokenise(source: Source, output: Path) -> None:
    """Tokenises the recordings with the model's tokenizers."""
    spec = source.description.spec()
    if not isinstance(spec, DatasetSpec):
        raise UserError(
            "this model is trained on sequences of text and units: make them with tokenize_corpus "
            "and build_sequences, and give them as --dataset"
        )
    if source.files is None:
        raise UserError(
            f"--checkpoint={_CHECKPOINT.value}: its dataset {source.description.config.data.path!r}"
            " is gone, and the tokenizers with it; give a directory that experiments.export wrote"
        )
    tokenize_corpus(
        CorpusConfig(
            audio_dir=_AUDIO_DIR.value,
            source=_SOURCE.value,
            transcripts=_TRANSCRIPTS.value,
            output=str(output),
            exclude=(str(output.parent),),
            semantic=str(source.files / spec.semantic.path),
            codec=str(source.files / spec.codec.path),
            min_seconds=spec.min_seconds,
            chunk_seconds=spec.chunk_seconds,
            valid_fraction=_VALID_FRACTION.value,
            heldout_speakers=0,
        )
    )


if __name__ == "__main__":
    cli.run(main)
