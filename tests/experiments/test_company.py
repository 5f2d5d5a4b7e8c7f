"""Training in company, as users start it; the rules are tested with `claim`, quickly."""

import time

import pytest

from data_pipeline.runtime import claim
from gpst_jax.checkpoints import manager
from gpst_jax.trackers import jsonl

TIMEOUT = 120


def command(dataset, config, workdir, *more):
    return [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}", *more),
    ]


def error_line(program):
    (line,) = [line for line in program.text().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in program.text()
    return line


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
def test_a_workdir_in_use_is_refused_and_that_of_a_killed_run_is_not(
    start, dataset, config, tmp_path
):
    """One that runs, one beside it, one after the first was killed; all under a difficult name."""
    workdir = tmp_path / "my run {1} é#%20 \n"
    first = start(*command(dataset, config, workdir, "--config.train.steps=1000000"))
    deadline = time.monotonic() + TIMEOUT
    while not jsonl.read_metrics(workdir / jsonl.METRICS_FILE):
        assert first.process.poll() is None, first.text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = start(*command(dataset, config, workdir))
    assert second.wait(TIMEOUT) == 2, second.text()
    assert f"process {first.process.pid} on " in error_line(second)
    assert first.process.poll() is None
    first.process.kill()
    first.wait(TIMEOUT)
    assert claim.holder(workdir).pid == first.process.pid
    last = max(line["step"] for line in jsonl.read_metrics(workdir / jsonl.METRICS_FILE))
    third = start(*command(dataset, config, workdir, f"--config.train.steps={last + 2}"))
    assert third.wait(TIMEOUT) == 0, third.text()
    assert claim.holder(workdir) is None
    assert manager.load_params(workdir).step == last + 2
