"""Shards on an Apache Beam runner: on this machine's cores, or on a cluster.

The pipeline is minimal: its elements are names of task files, each of which becomes one call of
`tokenize_shard`. All state is in files, so a pipeline that is killed, or that processes a shard
twice, does no harm: shards are renamed into place when complete, and finished ones are skipped.
"""

import importlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from data_pipeline.runtime.process_pool import one_thread_each
from data_pipeline.runtime.progress import progress
from data_pipeline.tokenization.shard import ShardTask, tokenize_shard

DIRECT = "direct"
_log = logging.getLogger(__name__)
_POLL_SECONDS = 2.0


def run_tasks(
    tasks: Sequence[ShardTask],
    runner: str,
    arguments: Sequence[str],
    num_workers: int,
    task_dir: Path,
) -> None:
    """Runs all tasks as one Beam pipeline and waits until it ends.

    Args:
        tasks: to run; their paths must name the same files on every worker.
        runner: `direct`, Beam's local runner with worker processes on this machine's cores; or any
            of Beam's runners: DataflowRunner, FlinkRunner, SparkRunner, PortableRunner, ...
        arguments: pipeline options as on a command line, passed to Beam unchanged.
        num_workers: processes of the runner `direct`; 0 runs in this one.
        task_dir: where the tasks are written for the workers to read.

    Raises:
        UserError: Beam is not installed, has no such runner, or the pipeline failed.
    """
    beam = _import_beam()
    if not tasks:
        return
    task_dir.mkdir(exist_ok=True)
    paths = []
    for number, task in enumerate(tasks):
        path = task_dir / f"{number:06d}.json"
        write_text(path, task.to_json())
        paths.append(str(path))

    pipeline = beam.Pipeline(*_runner_and_options(runner, arguments, num_workers))
    # Reshuffle spreads the names over the workers: Create may put them all in one bundle.
    _ = (
        pipeline
        | "Tasks" >> beam.Create(paths, reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "TokenizeShard" >> beam.Map(tokenize_task_file)
    )
    with _shown_progress(tasks), one_thread_each():
        try:
            pipeline.run().wait_until_finish()
        except RuntimeError as error:  # any exception of a worker, with its traceback
            _log.error("%s", error)
            reason = [line for line in str(error).splitlines() if line.strip()][-1:]
            raise UserError(
                f"the Beam pipeline failed ({' '.join(reason).strip()}): finished shards are kept, "
                "run the same command again to go on"
            ) from error
    missing = [task.report for task in tasks if not os.path.exists(task.report)]
    if missing:
        raise UserError(
            f"the pipeline ended without {len(missing)} of {len(tasks)} reports, the first is "
            f"{missing[0]}: workers must see the corpus and the output under the same paths as "
            "this machine"
        )


def check(runner: str) -> None:
    """Raises UserError where Beam is not installed or has no such runner."""
    _import_beam()
    if runner != DIRECT:
        _create_runner(runner)


def tokenize_task_file(path: str) -> str:
    """Runs the task that a file describes, unless it is done; returns the report's path."""
    task = ShardTask.from_json(Path(path).read_text(encoding="utf-8"))
    if not (os.path.exists(task.report) and os.path.exists(task.shard)):
        tokenize_shard(task)
    return task.report


def _import_beam() -> Any:
    try:
        return importlib.import_module("apache_beam")
    except ModuleNotFoundError as error:
        raise UserError(
            "--runner other than local needs Apache Beam: pip install gpst_jax[beam], or take "
            "--runner=local"
        ) from error


def _runner_and_options(runner: str, arguments: Sequence[str], num_workers: int) -> tuple[Any, Any]:
    """Arguments of `beam.Pipeline`: the runner and its options."""
    options = importlib.import_module("apache_beam.options.pipeline_options")
    if runner != DIRECT:
        return _create_runner(runner), options.PipelineOptions([f"--runner={runner}", *arguments])
    # Constructed directly: Beam's DirectRunner first tries to download a runner written in Go.
    fn_runner = importlib.import_module("apache_beam.runners.portability.fn_api_runner.fn_runner")
    settings = options.PipelineOptions([f"--direct_num_workers={num_workers or 1}", *arguments])
    if not num_workers:
        return fn_runner.FnApiRunner(), settings
    environments = importlib.import_module("apache_beam.transforms.environments")
    worker = environments.SubprocessSDKEnvironment.from_command_string(
        f"exec {shlex.quote(sys.executable)} -m "
        f"data_pipeline.tokenization.beam_worker {os.getpid()}"
    )
    return fn_runner.FnApiRunner(default_environment=worker), settings


def _create_runner(runner: str) -> Any:
    try:
        return importlib.import_module("apache_beam.runners").create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={runner}: {error}") from error


@contextmanager
def _shown_progress(tasks: Sequence[ShardTask]) -> Iterator[None]:
    """Shows progress by the reports that exist: the one thing that every runner has in common."""
    ended = threading.Event()
    total = sum(len(task.utterances) for task in tasks)

    def watch() -> None:
        pending = list(tasks)
        with progress("tokenise recordings", total) as advance:
            while pending:
                last = ended.wait(_POLL_SECONDS)
                done = [task for task in pending if os.path.exists(task.report)]
                advance(sum(len(task.utterances) for task in done))
                finished = {task.report for task in done}
                pending = [task for task in pending if task.report not in finished]
                if last:
                    return

    # Beam logs every stage; failures reach the user as an exception.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
