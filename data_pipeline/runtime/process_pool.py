"""Runs the tasks of a job in spawned processes, with progress."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress

Task = TypeVar("Task")

# A train step on a CPU allocates its memory anew each time, and page faults take a fifth of it: in
# the environment of a new process, these settings make glibc keep freed memory, in huge pages.
_MALLOC = (
    *("hugetlb=1", "arena_max=1", "mmap_max=0"),
    *("trim_threshold=100000000000", "top_pad=2000000000"),
)
KEEP_MEMORY = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{setting}" for setting in _MALLOC)}


def run_all(
    label: str,
    work: Callable[[Task], object],
    tasks: Sequence[Task],
    size: Callable[[Task], int],
    num_workers: int,
) -> None:
    """Runs all tasks, in worker processes if requested, and shows the time left.

    Args:
        label: of the progress line.
        work: a module-level function of one task (it is pickled).
        tasks: its arguments.
        size: amount of work in a task, the unit of the progress line.
        num_workers: worker processes; 0 runs everything in this process.

    Raises:
        UserError: a worker process was killed.
    """
    with progress(label, sum(map(size, tasks))) as advance:
        for task in _finished(work, tasks, num_workers):
            advance(size(task))


def _finished(
    work: Callable[[Task], object], tasks: Sequence[Task], num_workers: int
) -> Iterator[Task]:
    """Yields tasks as they finish."""
    if num_workers == 0 or len(tasks) < 2:
        for task in tasks:
            work(task)
            yield task
        return
    with (
        one_thread_each(),
        ProcessPoolExecutor(
            min(num_workers, len(tasks)),
            multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
        ) as pool,
    ):
        waiting: dict[Future, Task] = {}
        queue = iter(tasks)
        try:
            while True:
                for task in itertools.islice(queue, 2 * num_workers - len(waiting)):
                    waiting[pool.submit(work, task)] = task
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield waiting.pop(future)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out: finished shards are "
                "kept, run again with a smaller --num_workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Makes a worker exit when its parent is killed: it would wait for tasks for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limits BLAS and OpenMP to one thread in workers: the processes already use all cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
