"""Shards on all cores: tasks in spawned processes, with progress."""

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


def run_all(
    label: str,
    work: Callable[[Task], object],
    tasks: Sequence[Task],
    size: Callable[[Task], int],
    num_workers: int,
) -> None:
    """Works on all tasks, in processes where asked for, and shows how long it will take.

    Args:
        label: of the progress line.
        work: a function at the top of a module.
        tasks: its arguments.
        size: of a task, for the progress.
        num_workers: processes; 0 works in this one.
    """
    with progress(label, sum(map(size, tasks))) as advance:
        for task in _finished(work, tasks, num_workers):
            advance(size(task))


def _finished(
    work: Callable[[Task], object], tasks: Sequence[Task], num_workers: int
) -> Iterator[Task]:
    """Yields tasks as they are done."""
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
                "a worker process was killed, perhaps for want of memory: finished shards are "
                "kept, run again with a smaller --num_workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Lets a worker end when its parent was killed; it would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Workers share the cores as processes; threads inside them would only get in the way."""
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
