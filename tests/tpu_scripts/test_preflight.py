"""What is found before a run costs money: damaged data, a closed workdir, what it will take."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from toy_run import toy_config

from data_pipeline.check_dataset import check_dataset
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from gpst_jax.compilation import estimate
from gpst_jax.config import RunConfig

SCRIPT = Path(__file__).resolve().parents[2] / "tpu_scripts" / "preflight.sh"


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset that may be damaged, with the digest of its shards."""
    directory = tmp_path / "copy"
    shutil.copytree(dataset, directory)
    return directory


def shard(directory, split="train"):
    return next(directory.glob(f"*-{split}.array_record-*"))


def test_a_whole_dataset_passes(dataset):
    [found] = check_dataset(dataset)
    assert (found["records"], found["shards"]) == (28, 2)
    assert found["fingerprint"] == DatasetSpec.load(dataset).fingerprint
    assert found["bytes"] == sum(shard(dataset, s).stat().st_size for s in ("train", "valid"))


def test_a_mixture_is_checked_dataset_by_dataset(dataset, copy, tmp_path):
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"datasets": [{"path": str(dataset)}, {"path": str(copy)}]}))
    assert [found["path"] for found in check_dataset(mixture)] == [str(dataset), str(copy)]
    shard(copy).unlink()
    with pytest.raises(UserError, match="copy: shard 0 of 1 of split train is missing"):
        check_dataset(mixture)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "dataset.json").unlink(), "dataset.json does not exist"),
        (lambda d: flip(d / "length_index" / "train.npz"), "is not the file that dataset.json"),
        (lambda d: (d / "length_index" / "valid.npz").unlink(), "valid.npz is missing"),
        (lambda d: shard(d).unlink(), "shard 0 of 1 of split train is missing"),
        (lambda d: truncate(shard(d)), "cannot be read"),
        (lambda d: shutil.copy(shard(d, "valid"), shard(d)), "hold 4 records, dataset.json counts"),
    ],
)
def test_damage_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        check_dataset(copy)
    assert str(copy) in str(caught.value)


def test_changed_bytes_show_with_digests(copy):
    spec_file = copy / "dataset.json"
    with pytest.raises(UserError, match="shards of split train have changed"):
        check_dataset(copy, digests=True)  # the fixture's digests are not its shards'
    value = json.loads(spec_file.read_text())
    assert value["splits"]["train"]["shards_sha256"] == "0"


REPORT = {
    "chips": 256,
    "roofline_step_s": 0.2,
    "mfu_ceiling": 0.96,
    "mesh": {"replica": 16, "fsdp": 16, "tensor": 1},
    "hbm_bytes_per_chip": {"arguments": 2**30},
}


def run(steps=180_000) -> RunConfig:
    train = {"steps": steps, "checkpoint_every_steps": 1000, "checkpoint_every_minutes": 15.0}
    return toy_config(train=train)


def test_the_arithmetic():
    found = estimate.estimate_run(run(), REPORT)
    assert found.hours == pytest.approx(10.0)
    assert found.chip_hours == pytest.approx(2560.0)
    assert found.cost is None
    assert found.checkpoint_bytes == 16 * 2**30  # one replica of 16 chips
    assert found.checkpoint_period_s == pytest.approx(200.0)
    slower = estimate.estimate_run(
        run(), REPORT, efficiency=0.5, goodput=0.8, price=2.0, bytes_per_s=2**30
    )
    assert slower.hours == pytest.approx(25.0)
    assert slower.cost == pytest.approx(12_800.0)
    assert slower.mfu == pytest.approx(0.48)
    assert slower.checkpoint_s == pytest.approx(16.0)
    text = estimate.format_estimate(slower)
    assert "25.0 h on 256 chips (MFU 48.0%)" in text
    assert "6,400 chip-hours; cost 12,800.00" in text


def call(*arguments, **extra):
    return subprocess.run(
        [SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""} | extra,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_the_whole_preflight(tmp_path, dataset, config, environment):
    pytest.importorskip("libtpu", reason="the extra aot holds the TPU compiler")
    workdir = tmp_path / "a run"
    arguments = (str(config), "v5e:2x2", f"--data={dataset}", f"--workdir={workdir}")
    small = (
        "--config.data.batch_size=4",
        "--config.data.sequence_length=128",
        "--price_per_chip_hour=1.5",
    )
    done = call(*arguments, *small, PYTHONPATH="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 records" in done.stdout
    assert "memory per chip" in done.stdout
    assert "written and read back" in done.stdout
    assert "chip-hours; cost" in done.stdout
    assert done.stdout.endswith("== ready\n")
    assert list(workdir.iterdir()) == []  # the probe is gone


def test_damaged_data_ends_it_before_anything_compiles(tmp_path, copy, config):
    shard(copy).unlink()
    done = call(str(config), "v5e:2x2", f"--data={copy}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "is missing" in done.stderr
    assert "compiled" not in done.stdout


def test_a_workdir_in_a_bucket_of_another_kind_is_refused(tmp_path, config, start):
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    program = start(
        "experiments.preflight",
        *(f"--config={config}", f"--compiled={tmp_path / 'report.json'}", "--workdir=s3://b/run"),
    )
    assert program.wait(250) == 2
    assert "mount the bucket" in program.text()


def test_its_dry_run_names_every_command(tmp_path):
    done = call(
        *("my config.py", "v5p:4x8x8", "--data=/mnt/t", "--workdir=/mnt/my run"),
        *("--num_slices=2", "--rows_per_chip=4", "--hash", "--config.train.steps=9", "--dry_run"),
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "python -m data_pipeline.check_dataset /mnt/t --hash",
        "python -m experiments.compile --config=my\\ config.py --topology=v5p:4x8x8 "
        "--config.data.path=/mnt/t --num_slices=2 --rows_per_chip=4 --config.train.steps=9 "
        "--json_out=REPORT",
        "python -m experiments.preflight --config=my\\ config.py --compiled=REPORT "
        "--workdir=/mnt/my\\ run --config.train.steps=9",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.py"],
        ["a.py", "v5p:4x8x8"],
        ["--what"],
        ["a", "b", "c"],
        ["a.py", "v5p:2x2", "--data=tokens", "--workdir=run"],
        ["a.py", "v5e:4x4", "--data=tokens", "--workdir=run", "--set=a.b=c"],
        ["a.py", "v5e:4x4", "--data=tokens", "--workdir=run", "--config.a.b"],
        ["a.py", "v5e:4x4", "--data=tokens", "--workdir=run", "--config.data.path=c"],
        ["a.py", "v5e:4x4", "--data=tokens", "--workdir=s3://bucket/run"],
        ["a.py", "v5e:4x4", "--data=gs://bucket/tokens", "--workdir=run"],
    ],
)
def test_bad_flags_are_one_line(arguments):
    done = call(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
