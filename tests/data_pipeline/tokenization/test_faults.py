"""Kills at random moments and damaged recordings: nothing lost, nothing twice, no crash.

Small forms of both run with the other tests. The full ones, by one command:

    GPST_KILLS=20 GPST_DAMAGED_FILES=1000 pytest tests/data_pipeline/tokenization/test_faults.py
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.sources import FolderSource
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig

KILLS = int(os.environ.get("GPST_KILLS", "3"))
DAMAGED_FILES = int(os.environ.get("GPST_DAMAGED_FILES", "60"))
RATE = 16000
RECORDINGS = 16


def _tones(rng: np.random.Generator, seconds: float, rate: int = RATE) -> np.ndarray:
    """Changing tones with a little noise, float64 (N,)."""
    pitch = np.repeat(rng.uniform(100, 2000, int(10 * seconds) + 1), rate // 10)
    wav = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return (wav + 0.01 * rng.standard_normal(len(wav)))[: round(seconds * rate)]


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Two speakers with short recordings."""
    root = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for number in range(RECORDINGS):
        folder = root / ("anna", "bert")[number % 2]
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"{number:02d}.wav", _tones(rng, 0.8 + 0.05 * number), RATE)
    return root


@pytest.fixture(scope="module")
def tokenizers(audio, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("tokenizers")
    fit_tokenizers(
        FolderSource(audio).list()[0],
        output,
        MFCCKMeansConfig(vocab_size=16),
        MelRVQConfig(num_codebooks=2, codebook_size=16, frame_rate=100.0),
        num_workers=0,
    )
    return output


def _files(root: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too."""
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def _record_ids(dataset: Path) -> list[str]:
    readers = [RecordReader(dataset, split) for split in DatasetSpec.load(dataset).splits]
    return [reader[i].id for reader in readers for i in range(len(reader))]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(audio, tokenizers, tmp_path) -> None:
    """Kill -9, then at once the next run into the same directory, until one finishes."""

    def start(output: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "data_pipeline.tokenize_corpus"]
        command += [f"--audio_dir={audio}", f"--output={output}", "--utterances_per_shard=1"]
        command += [f"--{name}={tokenizers / name}" for name in ("semantic", "codec")]
        return subprocess.Popen(
            [*command, "--num_workers=2", "--valid_fraction=0.2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def end(process: subprocess.Popen[bytes]) -> None:
        _, message = process.communicate(timeout=600)
        assert process.returncode == 0, message.decode()

    began = time.monotonic()
    whole = tmp_path / "whole"
    end(start(whole))
    duration = time.monotonic() - began
    expected = _files(whole)
    assert sorted(_record_ids(whole)) == sorted(
        path.relative_to(audio).with_suffix("").as_posix() for path in audio.rglob("*.wav")
    )

    moments = random.Random(0)
    kills, finished = 0, 0
    output = tmp_path / "killed0"
    orphans = []
    while kills < KILLS:
        process = start(output)
        try:
            process.wait(moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
            orphans.append(process)
            continue
        end(process)
        assert _files(output) == expected
        finished += 1
        output = tmp_path / f"killed{finished}"
    end(start(output))
    for orphan in orphans:  # the pipe closes when the workers, which hold it too, have ended
        orphan.communicate(timeout=240)
    assert _files(output) == expected
    end(start(output))
    assert _files(output) == expected


# Damaged recordings.

_Damage = Callable[[np.random.Generator, bytes], bytes]


def _truncated(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _flipped(rng: np.random.Generator, data: bytes) -> bytes:
    """Flips up to 64 bits, every second time all in the header."""
    damaged = bytearray(data)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 128)
    for place in rng.integers(0, reach, rng.integers(1, 65)):
        damaged[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(damaged)


def _absurd_header(rng: np.random.Generator, data: bytes) -> bytes:
    """Extreme numbers in the header's sizes, rates and channels."""
    damaged = bytearray(data)
    extremes = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\1\0\0\0", b"\0\0\0\x80")
    for place in rng.integers(0, 64, rng.integers(1, 4)):
        damaged[place : place + 4] = extremes[rng.integers(0, len(extremes))]
    return bytes(damaged)


def _wav_field(rng: np.random.Generator, data: bytes) -> bytes:
    """A field of a canonical wav header, whatever the file is: channels, rate, sizes."""
    place, size = ((22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4))[rng.integers(0, 6)]
    value = int(rng.integers(0, 256**size))
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def _hole(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = sorted(rng.integers(0, len(data), 2))
    return data[:start] + bytes(stop - start) + data[stop:]


def _noise(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, 64))] + rng.bytes(int(rng.integers(0, 20000)))


def _spliced(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: len(data) // 2] + data[int(rng.integers(0, len(data))) :]


_DAMAGES: tuple[_Damage, ...] = (
    _truncated,
    _flipped,
    _flipped,
    _absurd_header,
    _wav_field,
    _hole,
    _noise,
    _spliced,
    lambda rng, data: data,  # intact, but perhaps with a wrong extension
)
_FORMATS = (
    ("wav", "PCM_16"),
    ("wav", "FLOAT"),
    ("wav", "PCM_24"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
)


def _write_damaged(folder: Path, count: int, seed: int) -> None:
    """Writes recordings with one kind of damage each; one in five has a wrong extension."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        suffix, subtype = _FORMATS[number % len(_FORMATS)]
        rate = int(rng.choice([8000, 16000, 44100]))
        wav = _tones(rng, float(rng.uniform(0.2, 0.7)), rate)
        whole = folder / f"whole.{suffix}"
        stereo = np.stack([wav, -0.5 * wav], axis=1)
        soundfile.write(whole, stereo if rng.random() < 0.3 else wav, rate, subtype=subtype)
        data = _DAMAGES[rng.integers(0, len(_DAMAGES))](rng, whole.read_bytes())
        whole.unlink()
        if rng.random() < 0.2:
            suffix = str(rng.choice(["wav", "FLAC", "ogg", "mp3"]))
        (folder / f"{number:05d}.{suffix}").write_bytes(data)


@pytest.mark.timeout(7200)
def test_every_damaged_recording_is_accounted_for(tokenizers, tmp_path) -> None:
    corpus = tmp_path / "audio"
    corpus.mkdir()
    _write_damaged(corpus, DAMAGED_FILES, seed=0)
    (corpus / "dangling.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(corpus / "pipe.wav")
    (corpus / "folder.wav").mkdir()  # a directory is not a recording
    output = tmp_path / "dataset"
    command = [sys.executable, "-m", "data_pipeline.tokenize_corpus"]
    command += [f"--audio_dir={corpus}", f"--output={output}", "--num_workers=2"]
    command += [f"--{name}={tokenizers / name}" for name in ("semantic", "codec")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert process.returncode == 3, process.stderr
    assert "Traceback" not in process.stderr

    names = {path.stem for path in corpus.iterdir() if not path.is_dir()}
    assert len(names) == DAMAGED_FILES + 2
    lines = (output / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    failures = [json.loads(line) for line in lines]
    assert all(failure["reason"] and failure["stage"] for failure in failures)
    recorded = {re.sub(r"#\d+$", "", name) for name in _record_ids(output)}
    failed = [Path(failure["path"]).stem for failure in failures]
    assert sorted([*recorded, *failed]) == sorted(names)
    assert len(recorded) > DAMAGED_FILES / 20
    assert len(failed) > DAMAGED_FILES / 3
