"""The pretraining program on a small dataset of real shards: run, interrupt, continue, refuse.

Every program runs in its own process, since programs share the names of their flags.
"""

import json
import signal
import subprocess
import sys
import time

from data_pipeline.runtime import claim
from gpst_jax.checkpoints import manager
from gpst_jax.trackers import jsonl

UNITS = 12  # of the dataset fixture


def test_interrupt_and_continue(dataset, environment, config, tmp_path):
    workdir, result = tmp_path / "run", tmp_path / "result.json"
    command = [
        *(sys.executable, "-m", "experiments.pretrain"),
        *(f"--config={config}", f"--workdir={workdir}", f"--json_out={result}"),
        f"--config.data.path={dataset}",
    ]
    process = subprocess.Popen(
        [*command, "--config.train.steps=1000000"], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while len(jsonl.read_metrics(workdir / jsonl.METRICS_FILE)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 75, errors
    assert "parameters: " in output
    assert "interrupted" in output
    assert "loss" in errors  # the console lines
    first = json.loads(result.read_text())
    assert first["interrupted"]
    steps = first["steps"]
    assert manager.Checkpoints(workdir, writable=False).steps == [steps]

    done = subprocess.run(
        [*command, f"--config.train.steps={steps + 2}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    second = json.loads(result.read_text())
    assert (second["steps"], second["interrupted"], second["skipped_steps"]) == (
        steps + 2,
        False,
        0,
    )
    assert second["tokens_per_s"] > 0
    assert {"train/loss", "eval/nll_semantic", "eval/nll_acoustic_q1"} <= second["final"].keys()
    loaded = manager.load_params(workdir)
    assert loaded.step == steps + 2
    assert loaded.dataset == json.loads((dataset / "dataset.json").read_text())
    assert loaded.params["semantic_head"]["kernel"].shape == (16, 4 + UNITS)


CASES = """
import json, sys
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from experiments import pretrain

messages = []
for config, workdir, assignments in json.load(sys.stdin):
    fields = [f"--config.{assignment}" for assignment in assignments]
    cli.parse_flags(["pretrain", f"--config={config}", f"--workdir={workdir}", *fields])
    try:
        messages.append(f"no error: {pretrain.main([])}")
    except UserError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_bad_input_is_one_clear_error(dataset, environment, config, tmp_path):
    empty, file = tmp_path / "empty.py", tmp_path / "file"
    empty.write_text("")
    file.write_text("")
    path = f"data.path={dataset}"
    cases = {
        "missing.py: no such file": ("missing.py", "w", []),
        "needs a function get_config": (str(empty), "w", []),
        "give a .py file or a module": ("no.such.module", "w", []),
        "model.depth: no such field": (str(config), "w", ["model.depth=3"]),
        "data.path: empty": (str(config), "w", []),
        "dataset.json does not exist": (str(config), "w", ["data.path=nowhere"]),
        f"--workdir={file}": (str(config), str(file), [path]),
        "under a path with [": (str(config), "runs[1]", [path]),
        "too long": (str(config), "y" * 300, [path]),
        "steps: must be positive": (str(config), "w", [path, "train.steps=-3"]),
        "another process is writing": (str(config), str(tmp_path / "held"), [path]),
        "mount the bucket": (str(config), "s3://bucket/run", [path]),
        "fsdp=3, tensor=1 do not fit 1 devices": (str(config), "w", [path, "mesh.fsdp=3"]),
        "lower crop_seconds": (str(config), "w", [path, "data.crop_seconds=30"]),
    }
    with claim.claimed(tmp_path / "held"):
        done = subprocess.run(
            [sys.executable, "-c", CASES],
            input=json.dumps(list(cases.values())),
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected, message in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert expected in message


def test_skipped_batches_are_in_the_data_state(start, dataset, config, tmp_path):
    command = [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.data.path={dataset}"),
        "--skip_steps=1:2",
    ]
    for steps, row in ((2, 8), (3, 10)):  # two rows a step; the flag may stay on the command line
        program = start(*command, f"--config.train.steps={steps}")
        assert program.wait(200) == 0, program.text()
        saves = manager.Checkpoints(tmp_path / "run", writable=False)
        data = saves.read_record(steps)["data"]
        saves.close()
        assert (data["row"], data["skipped"]) == (row, [[0, 4]])


def test_frames_alone_are_trained_previewed_and_continued(start, dataset, config, tmp_path):
    """`data.units=none`: no loss of units in the log, and a run with units is another run."""
    command = (
        *("experiments.pretrain", f"--config={config}", f"--workdir={tmp_path / 'run'}"),
        f"--config.data.path={dataset}",
    )
    fields = ("--config.train.steps=3", "--config.train.preview_every=2")
    program = start(*command, "--config.data.units=none", *fields)
    assert program.wait(240) == 0, program.text()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {"train/nll_acoustic", "train/bits_per_second", "preview/code_entropy_q0"} <= names
    assert not any("semantic" in name for name in names)
    program = start(*command, "--config.train.steps=4")
    assert program.wait(240) == 2
    assert "config field data.units is 'none', this run has 'front'" in program.text()
