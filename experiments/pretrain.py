"""Pretrains a model on a tokenised dataset; run it again to continue.

    python -m experiments.pretrain --config=experiments/configs/gpst_demo.py --workdir=RUN \
        --config.data.path=DATASET [--config.section.field=value ...]

`--config` is a Python file (or the name of a module) whose `get_config()` returns a `RunConfig`;
`--config=FILE:ARGUMENT` calls `get_config("ARGUMENT")`. `--config.help` prints every field.
The workdir holds `checkpoints/`, `metrics.jsonl` and `tensorboard/`; `--trackers=wandb,trackio` has
the run in these as well (docs/trackers.md).

Exit codes: 0 finished; 2 bad input; 4 training diverged; 5 it does not fit into memory; 69 an
accelerator, port or host is not ready; 70 no step ended for `train.stall_abort_minutes`; 74 storage
failed; 75 interrupted by SIGTERM or SIGINT after saving the state. After 69, 70, 74 (once the
storage is fixed) and 75 the same command continues: docs/reliability.md states the guarantees.
"""

import dataclasses
import faulthandler
import os
import sys
from typing import Any

import jax
from absl import flags

from data_pipeline.datasets import cache
from data_pipeline.datasets.kinds import Spec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordError
from data_pipeline.loading.mixture import dataset_with, load_spec
from data_pipeline.runtime import cli, exit_codes, flag_rules
from data_pipeline.runtime.buckets import check_writable, is_bucket
from data_pipeline.runtime.endings import ending, input_code
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.mirror import local_directory
from data_pipeline.runtime.progress import format_duration
from experiments import config_flags
from experiments.common import RunLoaders
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.checkpoints.storage import StorageError, check_name
from gpst_jax.config import ConfigError, RunConfig, parse_range
from gpst_jax.objectives import make_objective
from gpst_jax.parallel import multihost
from gpst_jax.parallel.cpu_compiler import REMEDY, computes_wrong_sums
from gpst_jax.training.continuation import parse_source
from gpst_jax.training.log import DivergenceError, process_trackers
from gpst_jax.training.loop import TrainResult, train
from gpst_jax.training.preview import make_preview
from gpst_jax.warm_start.from_weights import initial_params

CONFIG = config_flags.DEFINE_config(
    "config", None, "Python file or module whose get_config() returns the run.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of checkpoints and metrics, or gs://BUCKET/NAME; made when missing.",
    required=True,
)
_DATA_CACHE = flags.DEFINE_string(
    "data_cache", None, "Where datasets in buckets are copied; default: ~/.cache/gpst_jax/datasets."
)
_DATA_CACHE_GIB = flags.DEFINE_float(
    "data_cache_gib", cache.DEFAULT_GIB, "How much the copies may hold, in GiB.", 0.0
)
_TRACKERS = flags.DEFINE_list(
    "trackers",
    [],
    "Where metrics go beside console, metrics.jsonl and TensorBoard: wandb, trackio (by commas).",
)
_TRACKER_PROJECT = flags.DEFINE_string(
    "tracker_project", None, "Their project; default: WANDB_PROJECT for wandb, else gpst_jax."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Directory that keeps compiled programs between runs."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "FIRST:LAST, steps of which a profile is written to the workdir."
)
_SKIP_STEPS = flags.DEFINE_string(
    "skip_steps",
    None,
    "FIRST:LAST, batches that are never read, as the message of a divergence names them.",
)
_CONTINUE_FROM = flags.DEFINE_string(
    "continue_from", None, "RUN@STEP, a checkpoint of another run with which this run begins."
)
flag_rules.may_be_in_buckets("workdir", "continue_from", "compilation_cache")
_HLO_DIR = flags.DEFINE_string("hlo_dir", None, "Directory for the compiled programs' text.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Connect the processes of a pod or cluster before anything else."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where the cluster does not provide it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one, from 0.", 0)
_CONNECT_SECONDS = flags.DEFINE_integer(
    "connect_seconds",
    300,
    "How long the processes wait for each other at the start, in seconds.",
    1,
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
    "heartbeat_seconds",
    60,
    "A process silent for so many seconds counts as dead: the others end as well.",
    1,
)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    if not _COORDINATOR.value:
        flag_rules.refuse(("num_processes", "process_id"), "is given with --coordinator only")
    multihost.print_stacks_on_death()
    if _HLO_DIR.value:  # read when JAX first looks for devices
        dump = f"--xla_dump_to={_HLO_DIR.value} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}"
    if _COMPILATION_CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _COMPILATION_CACHE.value)
    try:
        if _DISTRIBUTED.value or _COORDINATOR.value:
            multihost.connect(
                _COORDINATOR.value,
                _NUM_PROCESSES.value,
                _PROCESS_ID.value,
                connect_seconds=_CONNECT_SECONDS.value,
                heartbeat_seconds=_HEARTBEAT_SECONDS.value,
            )
        config = CONFIG.load()
        cache.configure(_DATA_CACHE.value, _DATA_CACHE_GIB.value)
        result = pretrain(config, _WORKDIR.value)
    except DivergenceError as error:
        return _failed(exit_codes.DIVERGED, f"training diverged: {error}")
    except (StorageError, RecordError) as error:
        return _failed(exit_codes.STORAGE, str(error))
    except (ConfigError, CheckpointError, UserError) as error:
        if not multihost.connected():
            raise UserError(str(error)) from error
        return _failed(input_code(error), str(error))
    except Exception as error:
        end = ending(error)
        if end is None or not multihost.connected():
            raise  # to `cli.run`
        faulthandler.dump_traceback(all_threads=True)
        return _failed(*end)
    if jax.process_index() == 0:
        print(summarize(result))
        if cli.JSON_OUT.value:
            write_json(cli.JSON_OUT.value, result_json(result))
    return exit_codes.INTERRUPTED if result.interrupted else exit_codes.OK


def _failed(code: int, message: str) -> int:
    # A thread of Orbax may be in the middle of a line about the same failure.
    start = "\n" if code == exit_codes.STORAGE else ""
    print(f"{start}error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if code == exit_codes.STORAGE or multihost.connected():
        multihost.leave_at_once(code)
    return code


def pretrain(config: RunConfig, workdir: str) -> TrainResult:
    """Trains `config` in `workdir`, from its newest checkpoint if there is one.

    Otherwise from the checkpoint of `--continue_from`, else from `train.init_from`, else from
    random parameters.
    """
    if not config.data.path:
        raise ConfigError("config field data.path: empty; give --config.data.path=DATASET")
    profiled = parse_range("profile_steps", _PROFILE_STEPS.value)
    skipped = parse_range("skip_steps", _SKIP_STEPS.value)
    source = parse_source("continue_from", _CONTINUE_FROM.value)
    local = local_directory(workdir)
    trackers = process_trackers(local, _TRACKERS.value, _TRACKER_PROJECT.value)
    make_workdir(workdir)
    spec = load_spec(config.data.path)
    objective = make_objective(config, spec, config.data.path)
    if jax.process_index() == 0:
        print(describe(config, spec, objective), flush=True)
        if jax.default_backend() == "cpu" and computes_wrong_sums():
            print(f"warning: {REMEDY}", flush=True)
    preview = None
    if config.train.preview_every:
        shown = dataset_with(config.data.path, "valid", "train")
        preview = make_preview(config, shown, DatasetSpec.load(shown))
    initial = None
    if config.train.init_from:
        initial = initial_params(config.train.init_from, config, objective, spec)
    with RunLoaders(config, spec, objective) as loaders:
        loaders.check_validation(config.train.eval_batches)
        return train(
            config,
            objective,
            loaders.make,
            workdir,
            dataset=dataclasses.asdict(spec),
            initial=initial,
            source=source,
            preview=preview,
            trackers=trackers,
            profile_steps=profiled,
            skip_batches=skipped,
        )


def make_workdir(workdir: str) -> None:
    """Makes the directory; raises UserError where nothing can be written to it."""
    flag_rules.check_local("workdir", workdir)
    check_name(workdir)
    if is_bucket(workdir):
        check_writable(workdir)
        return
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}") from error
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={workdir}: not writable")


def describe(config: RunConfig, spec: Spec, objective: Any) -> str:
    """What a run prints before it begins."""
    shapes = jax.tree.leaves(jax.eval_shape(objective.init, jax.random.key(0)))
    parameters = sum(leaf.size for leaf in shapes)
    devices, multihost = jax.devices(), jax.process_count()
    return "\n".join(
        [
            config.to_json(),
            f"dataset: {config.data.path}: {spec.describe()}",
            f"devices: {len(devices)} x {devices[0].device_kind} in {multihost} process(es)",
            f"parameters: {parameters:,}",
            f"FLOPs per step: {sum(objective.flops().values()):.3e}",
        ]
    )


def summarize(result: TrainResult) -> str:
    """What a run prints when it ends."""
    state = "interrupted, state saved: run again to continue" if result.interrupted else "finished"
    losses = [
        f"{name} {value:.4f}"
        for name, value in result.final.items()
        if name.endswith(("/loss", "/nll_semantic", "/nll_acoustic", "/bits_per_second"))
    ]
    return "  ".join(
        [f"{state}: step {result.steps} after {format_duration(result.wall_s)}", *losses]
    )


def result_json(result: TrainResult) -> dict[str, Any]:
    """The result as `--json_out` writes it."""
    fields = dataclasses.asdict(result)
    rates = {name.removeprefix("perf/"): value for name, value in fields.pop("rates").items()}
    return fields | rates


if __name__ == "__main__":
    cli.run(main)
