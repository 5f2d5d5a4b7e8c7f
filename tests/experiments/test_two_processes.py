"""Two real processes train what one process with two devices trains."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpst_jax import checkpoint, metrics

TIMEOUT = 240


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _train(processes: int, steps: int, dataset, config, workdir, environment) -> None:
    """Runs the program on two devices: in one process, or one in each of two."""
    devices = 2 // processes
    environment = environment | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "NPROC": "16",  # threads of the collectives: with the cores' number they can starve
    }
    command = [
        *(sys.executable, "-m", "experiments.pretrain"),
        *(f"--config={config}", f"--workdir={workdir}"),
        *(f"--set=data.path={dataset}", f"--set=train.steps={steps}"),
    ]
    address = f"--coordinator=localhost:{_free_port()}"
    running = []
    for index in range(processes):
        flags = [address, f"--num_processes={processes}", f"--process_id={index}"]
        log = (Path(workdir).parent / f"process-{index}.log").open("w+")
        flags = flags if processes > 1 else []
        running.append(
            (
                subprocess.Popen(
                    [*command, *flags], stdout=log, stderr=subprocess.STDOUT, env=environment
                ),
                log,
            )
        )
    try:
        for process, log in running:
            code = process.wait(timeout=TIMEOUT)
            log.seek(0)
            assert code == 0, log.read()[-4000:]
    finally:
        for process, log in running:
            process.kill()
            log.close()


def _losses(workdir) -> dict[int, float]:
    lines = metrics.read_metrics(workdir / metrics.METRICS_FILE)
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT)
def test_two_processes_equal_one_and_take_over_its_checkpoint(
    dataset, config, environment, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _train(1, 6, dataset, config, one, environment)
    _train(2, 4, dataset, config, two, environment)
    assert _losses(two).keys() == {1, 2, 3, 4}  # one process writes for both, once
    _train(1, 5, dataset, config, two, environment)  # another number of processes goes on
    _train(2, 6, dataset, config, two, environment)
    np.testing.assert_allclose(
        list(_losses(two).values()), list(_losses(one).values()), rtol=1e-5, atol=1e-5
    )
    first, second = (checkpoint.load_params(workdir).params for workdir in (one, two))
    kernel = ("semantic_head", "kernel")
    np.testing.assert_allclose(first[kernel[0]][kernel[1]], second[kernel[0]][kernel[1]], atol=1e-4)
