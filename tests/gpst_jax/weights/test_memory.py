"""Host memory of an export is bounded by pieces of a shard, not by the model."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from stored_model import make_config, make_dataset, save_run

# Prints the peak resident memory in addition to that of the imports, in bytes.
PROGRAM = """
import json, sys
from gpst_jax.weights import loading
from gpst_jax.weights.directory import export

def peak():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["VmHWM"].split()[0])

run, output, shard = sys.argv[1], sys.argv[2], int(sys.argv[3])
source = loading.open_source(run)
# Fixed costs, whatever the model size: libraries, compression, the first array.
next(source.stream("global_net/final_norm/scale", 1))
before = peak()
result = export(source, output, "safetensors", shard_bytes=shard)
print(json.dumps({"bytes": result["bytes"], "peak": peak() - before}))
"""


def _measure(tmp_path, megabytes, shard, devices):
    """Exports a synthetic model of about `megabytes`; returns bytes written and peak memory."""
    layers, width = 12, 512
    inner = megabytes * 10**6 // (4 * layers * 3 * width) // 64 * 64
    spec = make_dataset(tmp_path / "dataset", 2)
    config = make_config(tmp_path / "dataset")
    rng = np.random.default_rng(0)

    mesh = jax.make_mesh((devices,), ("fsdp",), devices=jax.devices()[:devices])
    where = NamedSharding(mesh, P(None, "fsdp"))

    def noise(*shape):
        array = rng.random(shape, np.float32)
        return jax.device_put(array, where if array.ndim > 1 else None)

    mlp = {
        "gate": {"kernel": noise(layers, width, inner)},
        "up": {"kernel": noise(layers, width, inner)},
        "down": {"kernel": noise(layers, inner, width)},
    }
    params = {"global_net": {"layers": {"mlp": mlp}, "final_norm": {"scale": noise(width)}}}
    save_run(tmp_path / "run", config, spec, {1: {"params": params}})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "run", tmp_path / "out", str(shard)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("devices", [1, 8])
def test_memory_is_that_of_two_shards(tmp_path, devices):
    shard = 100 * 10**6
    found = _measure(tmp_path, 280, shard, devices)
    assert found["bytes"] > 270e6
    assert found["peak"] < 2 * shard, found
