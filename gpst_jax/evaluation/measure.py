"""Runs a measurement over audio files in parallel processes, with a cache that makes it resumable.

Values depend on the content of a file alone, so a file that several conditions share, or that was
measured before an interruption, is measured once.
"""

import contextlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress
from rich.console import Console
from threadpoolctl import threadpool_limits

from data_pipeline.audio.io import AudioError, load_audio
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.process_pool import one_thread_each
from gpst_jax.evaluation.metrics.recipe import Measurement, Outcome
from gpst_jax.samples.manifest import content_hash

# Below this a process pool costs more than it saves: each worker loads its model for seconds.
_MIN_FILES_PER_PROCESS = 8


class Cache:
    """Values of one measurement by content hash, in an append-only file of JSON lines.

    A line truncated by an interruption is skipped and its file measured again.

    Raises:
        UserError: the directory cannot be written.
    """

    def __init__(self, directory: Path, measurement: Measurement) -> None:
        self._key = measurement.key()
        self._path = directory / f"{measurement.id.replace('/', '-')}.jsonl"
        self.values: dict[str, Outcome] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # A leading newline separates new lines from a truncated one.
            self._file = self._path.open("a+", encoding="utf-8")
            self._file.seek(0)
            lines = self._file.read().splitlines()
            self._file.write("\n")
        except OSError as error:
            raise UserError(
                f"cannot write the cache {self._path} ({error.strerror}); name another directory "
                "with --cache_dir"
            ) from error
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["key"] == self._key:
                    self.values[entry["sha256"]] = Outcome(entry["value"], entry["failure"])

    def put(self, sha256: str, outcome: Outcome) -> None:
        """Stores a value and flushes it to disk."""
        self.values[sha256] = outcome
        entry = {"key": self._key, "sha256": sha256, **asdict(outcome)}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _Worker:
    """The model of this process, loaded lazily with the first file.

    (An error in the initialiser of a pool would reach the user only as a broken pool.)
    """

    measurement: Measurement
    model: Callable[[np.ndarray], Any] | None = None


def _set_measurement(measurement: Measurement) -> None:
    _Worker.measurement, _Worker.model = measurement, None


def _measure(path: str) -> Outcome:
    try:
        wav = load_audio(path, _Worker.measurement.sample_rate)
    except AudioError as error:
        return Outcome(failure=error.reason)
    if _Worker.model is None:
        _Worker.model = _Worker.measurement.load()
    return Outcome(value=_Worker.model(wav))


def _outcomes(measurement: Measurement, jobs: list[str], processes: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs, which are paths."""
    processes = min(processes, len(jobs) // _MIN_FILES_PER_PROCESS)
    if processes < 2:
        _set_measurement(measurement)
        # As in the processes below: products on several threads round differently, which is enough
        # to change what is recognised in unclear speech.
        with threadpool_limits(1):
            yield from map(_measure, jobs)
        return
    # Spawned, not forked: the parent may hold threads of JAX or torch.
    with (
        one_thread_each(),
        ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_set_measurement,
            initargs=(measurement,),
        ) as pool,
    ):
        try:
            yield from pool.map(_measure, jobs, chunksize=2)
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that computes {measurement.id} died (out of memory?); run again to "
                "resume, with --processes=1 to use less memory"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def measure_files(
    measurement: Measurement,
    paths: Iterable[Path],
    *,
    cache_dir: Path,
    processes: int,
    show_progress: bool,
) -> dict[Path, Outcome]:
    """Measures files; those of equal content are measured once.

    Args:
        measurement: what to compute.
        paths: audio files of any rate; one that is missing or unreadable gets a failure.
        cache_dir: where values are kept between runs.
        processes: maximum number; below 2, or for few files, this process does the work.
        show_progress: whether to show a progress bar with the remaining time.

    Raises:
        UserError: a package is missing, the cache cannot be written, or a worker died.
    """
    measurement.check()
    hashes = {path: content_hash(path) for path in dict.fromkeys(paths)}
    cache = Cache(cache_dir, measurement)
    try:
        todo: dict[str, Path] = {}  # content hash -> one path with it
        for path, sha256 in hashes.items():
            if sha256 is not None and sha256 not in cache.values:
                todo.setdefault(sha256, path)
        if todo:
            jobs = [str(path) for path in todo.values()]
            outcomes = _outcomes(measurement, jobs, processes)
            tracked = progress.track(
                zip(todo, outcomes, strict=True),
                description=measurement.id,
                total=len(todo),
                disable=not show_progress,
                console=Console(stderr=True),
            )
            for sha256, outcome in tracked:
                cache.put(sha256, outcome)
        return {
            path: Outcome(failure="no such file") if sha256 is None else cache.values[sha256]
            for path, sha256 in hashes.items()
        }
    finally:
        cache.close()
