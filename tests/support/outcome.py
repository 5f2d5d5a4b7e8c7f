"""How a run ended, as far as it must not depend on what happened on the way."""

import os
from typing import Any

import jax

from gpst_jax.checkpoints import manager
from gpst_jax.parallel.sharding import path_string
from gpst_jax.trackers import jsonl


def outcome(workdir: str | os.PathLike[str]) -> tuple[Any, ...]:
    """What must be equal: parameters, the loader's state, and every line of the metrics."""
    model = manager.load_params(workdir, average=False)
    saves = manager.Checkpoints(workdir, writable=False)
    saves.verify(model.step)
    data = saves.read_record(model.step)["data"]
    saves.close()
    leaves = jax.tree.leaves_with_path(jax.device_get(model.params))
    params = {path_string(path): (leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in leaves}
    lines = [
        {name: value for name, value in line.items() if not name.startswith(("time", "perf/"))}
        for line in jsonl.read_metrics(f"{os.fspath(workdir)}/{jsonl.METRICS_FILE}")
    ]
    return params, model.step, data, lines
