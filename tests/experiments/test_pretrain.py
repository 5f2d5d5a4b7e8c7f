"""The pretraining program on a small dataset of real shards: run, interrupt, continue, refuse.

Every program runs in its own process, since programs share the names of their flags.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import records
from data_pipeline.records import Record, ShardWriter
from data_pipeline.spec import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from gpst_jax import checkpoint, metrics

ROOT = Path(__file__).resolve().parents[2]
UNITS, CODEBOOKS, CODES = 12, 2, 8
RECORDS = {"train": 24, "valid": 4}
CONFIG = """
from gpst_jax.config import *

def get_config():
    net = TransformerConfig(d_model=16, num_layers=1, num_heads=2, d_ff=16)
    return RunConfig(
        name="tiny",
        model=GPSTConfig(global_net=net, local_net=net),
        data=DataConfig(rows=2, row_length=64, frame_budget=32, crop_seconds=0.5),
        optimizer=OptimizerConfig(schedule="inverse_sqrt"),  # the same program for any steps
        train=TrainConfig(steps=40, log_every=1, eval_every=0, eval_batches=1),
    )
"""


def _record(number: int) -> Record:
    random = np.random.default_rng(number)
    size = int(random.integers(10, 40))
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker="ab"[number % 2],
        language="und",
        text=None,
        start=0.0,
        end=size / 50,
        units=random.integers(0, UNITS, size).astype(np.uint16),
        codes=random.integers(0, CODES, (CODEBOOKS, size)).astype(np.uint16),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    splits, lengths, sizes = {}, {}, {}
    for split, count in RECORDS.items():
        made = [_record(number) for number in range(count)]
        with ShardWriter(directory / records.shard_name(split, 0, 1), CODEBOOKS) as writer:
            for record in made:
                writer.write(record)
        lengths[split], sizes[split] = [count], writer.num_bytes
        length = np.array([len(record.units) for record in made], np.int32)
        index = LengthIndex(
            units=length,
            units_dedup=length,
            frames=length,
            speaker=np.arange(count, dtype=np.int32) % 2,
            language=np.zeros(count, np.int32),
            speakers=("a", "b"),
            languages=("und",),
        )
        digest = index.save(index_path(directory, split))
        splits[split] = SplitSpec(count, 1, float(length.sum()) / 50 / 3600, digest, "0")
    records.write_metadata(directory, CODEBOOKS, lengths, sizes)
    DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("fake", "0", UNITS, 50.0, "tokenizers/semantic"),
        codec=CodecSpec("fake", "0", CODEBOOKS, CODES, 50.0, 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=("und",),
        silence=SilenceSpec(0.1, (7,) * 5, ((1,) * 5, (2,) * 5)),
        splits=splits,
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed().save(directory)
    return directory


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # Cached programs: the second process does not compile again.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return plain | cache | {"PYTHONPATH": str(ROOT)}


def test_interrupt_and_continue(dataset, environment, tmp_path):
    config, workdir, result = tmp_path / "tiny.py", tmp_path / "run", tmp_path / "result.json"
    config.write_text(CONFIG)
    command = [
        *(sys.executable, "-m", "experiments.pretrain"),
        *(f"--config={config}", f"--workdir={workdir}", f"--json_out={result}"),
        *(f"--set=data.path={dataset}", "--set=train.steps=1000000"),
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while len(metrics.read_metrics(workdir / metrics.METRICS_FILE)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, errors
    assert "parameters: " in output
    assert "interrupted" in output
    assert "loss" in errors  # the console lines
    first = json.loads(result.read_text())
    assert first["interrupted"]
    steps = first["steps"]
    assert checkpoint.Checkpoints(workdir, writable=False).steps == [steps]

    done = subprocess.run(
        [*command, f"--set=train.steps={steps + 2}"],
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
    loaded = checkpoint.load_params(workdir)
    assert loaded.step == steps + 2
    assert loaded.dataset == json.loads((dataset / "dataset.json").read_text())
    assert loaded.params["semantic_head"]["kernel"].shape == (16, 4 + UNITS)


CASES = """
import json, sys
from absl.testing import flagsaver
from data_pipeline.cli import UserError
from experiments import pretrain

pretrain.flags.FLAGS.mark_as_parsed()
messages = []
for config, workdir, assignments in json.load(sys.stdin):
    with flagsaver.flagsaver(config=config, workdir=workdir, set=assignments):
        try:
            messages.append(f"no error: {pretrain.main([])}")
        except UserError as error:
            messages.append(str(error))
print(json.dumps(messages))
"""


def test_bad_input_is_one_clear_error(dataset, environment, tmp_path):
    config, empty, file = tmp_path / "tiny.py", tmp_path / "empty.py", tmp_path / "file"
    config.write_text(CONFIG)
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
        "fsdp=3, tensor=1 do not fit 1 devices": (str(config), "w", [path, "mesh.fsdp=3"]),
        "lower crop_seconds": (str(config), "w", [path, "data.crop_seconds=30"]),
    }
    done = subprocess.run(
        [sys.executable, "-c", CASES],
        input=json.dumps(list(cases.values())),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected, message in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert expected in message
