"""Programs whose runs, datasets and outputs are in a bucket: what they make, and make only once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import programs
import pytest
from bucket_server import bucket, folder  # noqa: F401
from stored_archive import unpack_with_recordings

from data_pipeline.datasets import cache
from data_pipeline.runtime import buckets, mirror
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.synthesis.models import open_model

WHAT, WHO = "recordings/audio/f5/valid_00000.flac", "recordings/audio/f2/valid_00000.flac"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def run(stored, folder, bucket, tmp_path, monkeypatch):  # noqa: F811
    """A run and its dataset in the bucket; a function that runs a program on a host."""
    for name, source in (("run", stored / "runs" / "gpst"), ("tokens", stored / "tokens")):
        with mirror.made(f"{folder}/{name}") as path:
            shutil.copytree(source, path)
    cache._opened.cache_clear()
    cache.local_folder.cache_clear()
    monkeypatch.setattr(cache, "_cache", cache.Cache(tmp_path / "cache"))

    def call(program, *arguments, host="a", code=0):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{program}", *arguments],
            cwd=stored,
            env=programs.environment(**bucket.environment(tmp_path / host)),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    yield call
    cache._opened.cache_clear()
    cache.local_folder.cache_clear()


@pytest.mark.slow
def test_samples_in_a_bucket_are_made_once_by_any_host(run, stored, folder, bucket):  # noqa: F811
    rows = [{"id": f"n{number}", "source": WHAT, "prompt": WHO} for number in (1, 2, 3)]
    (stored / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    models = (f"--workdir={folder}/run", f"--dataset={folder}/tokens")
    flags = ("--mode=speaker_transfer", "--prompt_seconds=1", "--noguards")
    manifest = ("--manifest=many.jsonl", f"--output={folder}/many")
    run("generate", *models, *flags, *manifest, f"--json_out={folder}/result.json")
    first = buckets.files(f"{folder}/many")
    assert sorted(first) == ["n1.wav", "n2.wav", "results.jsonl"]
    assert len(json.loads(buckets.read(f"{folder}/result.json"))["samples"]) == 2
    wavs = {name: buckets.read(f"{folder}/many/{name}") for name in first if "wav" in name}

    (stored / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = len(bucket.requests)
    assert "2 of 3 are there" in run("generate", *models, *flags, *manifest, host="b")
    assert sorted(buckets.files(f"{folder}/many")) == [*sorted(wavs), "n3.wav", "results.jsonl"]
    for name, data in wavs.items():
        assert buckets.read(f"{folder}/many/{name}") == data
    written = {name.rsplit("/", 1)[-1] for what, name in bucket.calls(before) if what == "write"}
    assert {"n3.wav", "results.jsonl"} == {name for name in written if not name.startswith(".")}

    one = f"{folder}/one/out.wav"
    run("generate", *models, *flags, f"--source={WHAT}", f"--prompt={WHO}", f"--output={one}")
    assert sorted(buckets.files(f"{folder}/one")) == ["out.json", "out.wav"]
    assert buckets.read(one) == wavs["n1.wav"]


@pytest.mark.slow
def test_a_run_is_evaluated_where_it_is(run, folder):  # noqa: F811
    flags = (f"--workdir={folder}/run", f"--dataset={folder}/tokens", "--pairs=controls")
    printed = run("evaluate", *flags, "--resamples=20")
    where = f"{folder}/run/evaluation/pairs"
    assert f"results: {where}" in printed
    result = json.loads(buckets.read(f"{where}/pairs.json"))
    assert set(result["controls"]) == {"shuffled_units", "coin", "identical"}
    assert buckets.files(where)["likelihood.jsonl"] > 0  # what was scored is not scored again


@pytest.mark.slow
def test_exports_in_a_bucket_hold_the_run(run, stored, folder):  # noqa: F811
    local = load_params(stored / "runs" / "gpst")
    tokenizers = f"--tokenizers={folder}/tokens"
    run(
        *("export", f"--checkpoint={folder}/run", tokenizers, "--format=params"),
        f"--output={folder}/params",
    )
    run("export", f"--checkpoint={folder}/params", f"--output={folder}/tensors")
    for name in ("params", "tensors"):
        model = open_model(f"{folder}/{name}")
        assert model.loaded.step == local.step
        jax.tree.map(np.testing.assert_array_equal, model.loaded.params, local.params)
        assert (model.directory / "tokenizers").is_dir()
    text = run("export", f"--checkpoint={folder}/run", f"--output={folder}/params", code=2)
    assert f"{folder}/params exists: name another --output" in text
    assert text.count("\n") == 1


@pytest.mark.slow
def test_fine_tuning_in_a_bucket_goes_on_elsewhere(run, folder):  # noqa: F811
    flags = (
        *(f"--checkpoint={folder}/run", f"--workdir={folder}/tuned", f"--dataset={folder}/tokens"),
        *("--method=lora", "--rank=2", "--steps=2", "--config.train.eval_batches=0"),
    )
    run("finetune", *flags)
    merged = load_params(f"{folder}/tuned/merged")
    assert merged.step == 2
    assert "adapters/adapter_config.json" in buckets.files(f"{folder}/tuned")
    run("finetune", *flags, host="b")  # nothing is left to do
    again = load_params(f"{folder}/tuned/merged")
    jax.tree.map(np.testing.assert_array_equal, merged.params, again.params)
    text = run("finetune", *flags, "--dropout=0.5", code=2)
    assert "started with lora=" in text


def test_the_storage_of_a_bucket_is_tried_before_a_run(run, folder, tmp_path):  # noqa: F811
    (tmp_path / "report.json").write_text(json.dumps({"fits": False}))
    flags = ("--config=experiments.configs.gpst_demo", f"--compiled={tmp_path}/report.json")
    run("preflight", *flags, f"--workdir={folder}/new", code=5)
    code = "import sys; sys.argv[1:] = []; from experiments import preflight;"
    code += f"print(preflight.write_probe('{folder}/new', 1) > 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert not buckets.files(f"{folder}/new")
