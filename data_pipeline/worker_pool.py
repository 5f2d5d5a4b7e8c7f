"""Shards on all cores: tasks in spawned processes, with progress."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from data_pipeline.cli import UserError
from data_pipeline.progress import progress
from data_pipeline.tokenize_shard import ShardTask, tokenize_shard


def run_tasks(tasks: Sequence[ShardTask], num_workers: int) -> None:
    """Works on all tasks, in processes where asked for, and shows how long it will take."""
    total = sum(len(task.utterances) for task in tasks)
    with progress("tokenise recordings", total) as advance:
        for task in _finished(tasks, num_workers):
            advance(len(task.utterances))


def _finished(tasks: Sequence[ShardTask], num_workers: int) -> Iterator[ShardTask]:
    """Yields tasks as they are done."""
    if num_workers == 0 or len(tasks) < 2:
        for task in tasks:
            tokenize_shard(task)
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
        waiting: dict[Future, ShardTask] = {}
        queue = iter(tasks)
        try:
            while True:
                for task in itertools.islice(queue, 2 * num_workers - len(waiting)):
                    waiting[pool.submit(tokenize_shard, task)] = task
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
