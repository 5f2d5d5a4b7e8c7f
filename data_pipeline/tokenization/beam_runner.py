"""Shards on an Apache Beam runner: on this machine's cores, or on a cluster.

The pipeline is as small as it can be: the names of task files go in, each becomes one call of
`tokenize_shard`. All that must survive lies in files, so a pipeline that was killed, or that works
on a shard twice, leaves nothing wrong behind: shards are renamed into place when they are whole,
and a finished one is not begun again.
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
_SECONDS_BETWEEN_LOOKS = 2.0


def run_tasks(
    tasks: Sequence[ShardTask],
    runner: str,
    arguments: Sequence[str],
    num_workers: int,
    task_dir: Path,
) -> None:
    """Works on all tasks as one Beam pipeline, and waits for its end.

    Args:
        tasks: to do; their paths must mean the same files on every worker.
        runner: `direct`, this machine's cores by Beam's own local runner with worker processes; or
            any name that Beam knows: DataflowRunner, FlinkRunner, SparkRunner, PortableRunner, ...
        arguments: pipeline options as on a command line, handed to Beam as they are.
        num_workers: processes of the runner `direct`; 0 works in this one.
        task_dir: where the tasks are written for the workers to read.

    Raises:
        UserError: Beam is not installed, or knows no such runner.
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
    # Reshuffle spreads the names over the workers: what Create makes may be one bundle.
    _ = (
        pipeline
        | "Tasks" >> beam.Create(paths, reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "TokenizeShard" >> beam.Map(tokenize_task_file)
    )
    with _shown_progress(tasks), one_thread_each():
        try:
            pipeline.run().wait_until_finish()
        except RuntimeError as error:  # for whatever a worker raised, with its traceback
            _log.error("%s", error)
            reason = [line for line in str(error).splitlines() if line.strip()][-1:]
            raise UserError(
                f"the Beam pipeline failed ({' '.join(reason).strip()}): finished shards are kept, "
                "run the same command again to go on"
            ) from error
    missing = [task.report for task in tasks if not os.path.exists(task.report)]
    if missing:
        raise UserError(
            f"the pipeline ended without {len(missing)} of {len(tasks)} reports, {missing[0]} is "
            "the first: the workers must see the corpus and the output under the paths that this "
            "machine uses"
        )


def check(runner: str) -> None:
    """Raises UserError where Beam is not installed or knows no such runner."""
    _import_beam()
    if runner != DIRECT:
        _create_runner(runner)


def tokenize_task_file(path: str) -> str:
    """Does the task that a file describes, unless it is done; returns the report's path."""
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
    """What `beam.Pipeline` takes: the runner, and its options."""
    options = importlib.import_module("apache_beam.options.pipeline_options")
    if runner != DIRECT:
        return _create_runner(runner), options.PipelineOptions([f"--runner={runner}", *arguments])
    # Named outright: Beam's DirectRunner first tries to download a runner written in Go.
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
    """Shows progress by the reports that appear; where workers write, not how, is known here."""
    ended = threading.Event()
    total = sum(len(task.utterances) for task in tasks)

    def watch() -> None:
        left = list(tasks)
        with progress("tokenise recordings", total) as advance:
            while left:
                last = ended.wait(_SECONDS_BETWEEN_LOOKS)
                done = [os.path.exists(task.report) for task in left]
                steps = [len(task.utterances) for task, end in zip(left, done, strict=True) if end]
                advance(sum(steps))
                left = [task for task, end in zip(left, done, strict=True) if not end]
                if last:
                    return

    # Beam tells of every stage; a failure reaches the user as the exception it is.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
