"""Prints what the checkpoints of a run hold, and verifies every array of one of them.

    python -m experiments.inspect_checkpoint --workdir=RUN [--step=N]

Shows steps and sizes, and of one checkpoint (the newest, or --step) the configuration, the data
state with what was skipped, and a SHA-256 over the parameters that does not depend on the mesh or
the number of processes that saved them.

Exit codes: 0 the checkpoint is intact; 2 there is none, or it is damaged.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from absl import flags

from data_pipeline.runtime import buckets, cli, flag_rules
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.checkpoints.manager import Checkpoints, load_params
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.parallel.sharding import path_string

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of a training run, or gs://BUCKET/NAME.", required=True
)
flag_rules.may_be_in_buckets("workdir")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to verify; default: the newest.", 0)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    try:
        result = inspect(_WORKDIR.value, _STEP.value)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    for step, size in result["bytes"].items():
        mark = "*" if int(step) == result["step"] else " "
        print(f"{mark} step {step:>9}  {size / 2**20:12,.1f} MiB")
    print(json.dumps(result["config"], indent=2))
    for name in ("family", "code_version", "jax_version", "dataset_fingerprint", "data"):
        print(f"{name}: {result[name]}")
    print(f"parameters: {result['parameters']:,}\nparams_sha256: {result['params_sha256']}")
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


def inspect(workdir: str, step: int | None = None) -> dict[str, Any]:
    """The record of a checkpoint, with the size and the SHA-256 of its parameters.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    model = load_params(workdir, step, average=False)
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        checkpoints.verify(model.step)
        record = checkpoints.read_record(model.step)
        sizes = {
            str(n): sum(buckets.files(checkpoints.directory / str(n)).values())
            for n in checkpoints.steps
        }
    finally:
        checkpoints.close()
    del record["arrays"], record["dataset"]
    leaves = jax.tree.leaves(model.params)
    return record | {
        "step": model.step,
        "steps": [int(n) for n in sizes],
        "bytes": sizes,
        "parameters": sum(leaf.size for leaf in leaves),
        "params_sha256": params_sha256(model.params),
    }


def params_sha256(params: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all arrays, sorted by name."""
    digest = hashlib.sha256()
    named = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for name in sorted(named):
        array = np.ascontiguousarray(jax.device_get(named[name]))
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    cli.run(main)
