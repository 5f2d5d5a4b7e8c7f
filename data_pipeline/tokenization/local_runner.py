"""Tokenises shards on the cores of this machine."""

from collections.abc import Sequence

from data_pipeline.runtime.process_pool import run_all
from data_pipeline.tokenization.shard import ShardTask, tokenize_shard


def run_tasks(tasks: Sequence[ShardTask], num_workers: int) -> None:
    """Tokenises all shards, see `run_all`."""
    run_all("tokenise recordings", tokenize_shard, tasks, _num_utterances, num_workers)


def _num_utterances(task: ShardTask) -> int:
    return len(task.utterances)
