"""Beam runners write the same bytes as the process pool, and resume what another began."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource, Utterance
from data_pipeline.tokenization import beam_runner
from data_pipeline.tokenization.shard import ShardTask
from data_pipeline.tokenize_corpus import CorpusConfig, tokenize_corpus
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig

RATE = 16000
ROOT = Path(beam_runner.__file__).parents[2]


@pytest.fixture(scope="module")
def beam():
    return pytest.importorskip("apache_beam", reason="pip install gpst_jax[beam]")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> CorpusConfig:
    """Eight recordings and a bad one, small tokenizers, three shards."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(8):
        pitch = np.repeat(rng.uniform(100, 2000, 10), RATE // 10)
        wav = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
        (root / "audio" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "audio" / f"{number % 2}" / f"{number}.wav", wav, RATE)
    fit_tokenizers(
        FolderSource(root / "audio").list()[0],
        root,
        MFCCKMeansConfig(vocab_size=8),
        MelRVQConfig(num_codebooks=2, codebook_size=8, frame_rate=100.0),
        num_workers=0,
    )
    (root / "audio" / "0" / "bad.flac").write_bytes(b"not audio")
    config = CorpusConfig(
        audio_dir=str(root / "audio"),
        output=str(root / "whole"),
        semantic=str(root / "semantic"),
        codec=str(root / "codec"),
        utterances_per_shard=3,
        num_workers=0,
        valid_fraction=0.0,
    )
    assert tokenize_corpus(config)["statistics"]["recorded"] == 8
    return config


def _files(root: str) -> dict[str, bytes]:
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_the_direct_runner_writes_the_same_bytes(beam, config, tmp_path) -> None:
    output = str(tmp_path / "out")
    direct = dataclasses.replace(config, output=output, runner="direct")
    assert tokenize_corpus(direct)["statistics"]["failed"] == 1
    assert _files(output) == _files(config.output)
    # A finished dataset has nothing to do for any runner.
    assert tokenize_corpus(dataclasses.replace(config, output=output))["real_time_factor"] is None


def test_beam_goes_on_where_the_pool_was_interrupted(beam, config, tmp_path, monkeypatch) -> None:
    output = str(tmp_path / "out")
    local = dataclasses.replace(config, output=output)
    from data_pipeline.tokenization import local_runner

    work = local_runner.tokenize_shard
    calls = []

    def one_only(task: ShardTask):
        if calls:
            raise KeyboardInterrupt
        calls.append(task)
        return work(task)

    with monkeypatch.context() as patch:
        patch.setattr(local_runner, "tokenize_shard", one_only)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(local)
    result = tokenize_corpus(dataclasses.replace(local, runner="direct"))
    assert result["resumed_shards"] == 1
    assert _files(output) == _files(config.output)


def _start(config: CorpusConfig, output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "data_pipeline.tokenize_corpus"]
    for name in ("audio_dir", "semantic", "codec", "utterances_per_shard", "valid_fraction"):
        command.append(f"--{name}={getattr(config, name)}")
    return subprocess.Popen(
        [*command, f"--output={output}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )


def _command(config: CorpusConfig, output: Path, *arguments: str) -> None:
    process = _start(config, output, *arguments)
    _, message = process.communicate()
    assert process.returncode == 3, message  # one recording is bad
    assert "Traceback" not in message


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_worker_and_is_finished_by_the_next(
    beam, config, tmp_path
) -> None:
    output = tmp_path / "out"
    process = _start(config, output, "--runner=direct", "--num_workers=2")
    while process.poll() is None and not list(output.glob(".reports/*.json")):
        time.sleep(0.02)
    process.kill()
    # The pipe is closed once the workers, which hold it too, have ended.
    process.communicate(timeout=240)
    _command(config, output, "--runner=local", "--num_workers=0")
    assert _files(str(output)) == _files(config.output)


@pytest.mark.slow
def test_worker_processes_of_the_direct_runner(beam, config, tmp_path) -> None:
    _command(config, tmp_path / "out", "--runner=direct", "--num_workers=2")
    assert _files(str(tmp_path / "out")) == _files(config.output)


@pytest.mark.slow
def test_a_job_server_with_options_of_its_own(beam, config, tmp_path) -> None:
    """As with Flink and Spark: a job server, and workers that the pipeline starts."""
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    service = LocalJobServicer(staging_dir=str(tmp_path / "staging"))
    port = service.start_grpc_server()
    try:
        _command(
            config,
            tmp_path / "out",
            "--runner=PortableRunner",
            "--",
            f"--job_endpoint=localhost:{port}",
            "--environment_type=LOOPBACK",
        )
    finally:
        service.stop()
    assert _files(str(tmp_path / "out")) == _files(config.output)


@pytest.mark.slow
def test_the_prism_runner(beam, config, tmp_path) -> None:
    binary = os.environ.get("GPST_PRISM")
    if not binary:
        pytest.skip("Beam would download Prism: name the binary in GPST_PRISM")
    _command(config, tmp_path / "out", "--runner=PrismRunner", "--", f"--prism_location={binary}")
    assert _files(str(tmp_path / "out")) == _files(config.output)


def test_what_a_worker_raises_keeps_finished_shards(beam, config, tmp_path, monkeypatch) -> None:
    output = str(tmp_path / "out")
    direct = dataclasses.replace(config, output=output, runner="direct")
    work = beam_runner.tokenize_shard

    def fails(task: ShardTask):
        if task.shard.endswith("00001-of-00003"):
            raise OSError("no space left")
        return work(task)

    with monkeypatch.context() as patch:
        patch.setattr(beam_runner, "tokenize_shard", fails)
        with pytest.raises(OSError, match="no space left"):  # in this process, unchanged
            tokenize_corpus(direct)
    tokenize_corpus(direct)
    assert _files(output) == _files(config.output)


def test_an_unknown_runner_is_refused(beam, config, tmp_path) -> None:
    with pytest.raises(UserError, match="--runner=NoSuchRunner"):
        tokenize_corpus(
            dataclasses.replace(config, output=str(tmp_path / "out"), runner="NoSuchRunner")
        )


def test_without_beam_the_extra_is_named(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install gpst_jax\[beam\]"):
        tokenize_corpus(dataclasses.replace(config, output=str(tmp_path / "out"), runner="direct"))


def test_options_without_a_beam_runner_are_refused(config) -> None:
    with pytest.raises(UserError, match="--region=x"):
        dataclasses.replace(config, beam_arguments=("--region=x",))


def test_a_task_survives_its_text_form() -> None:
    utterance = Utterance("a/b", "/x/a/b.wav", "ann", "en", "two \N{SNOWMAN} words", "train")
    task = ShardTask((utterance,), "/x", "s", "c", 0.1, 30.0, "/o/shard", "/o/r", "paper", True)
    assert ShardTask.from_json(task.to_json()) == task
