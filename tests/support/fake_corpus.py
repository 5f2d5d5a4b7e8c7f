"""A small corpus of recordings, and fake tokenizers whose tokens are loudness."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import tokenize_corpus
from data_pipeline.tokenization import config as corpus_config
from data_pipeline.tokenization import shard
from data_pipeline.tokenization.config import CorpusConfig
from data_pipeline.tokens import TokenLayout

RATE = 16000
LAYOUT = TokenLayout(num_units=50, num_codebooks=2, codebook_size=32)


class FakeTokenizer:
    """Both tokenizers at once: tokens are loudness, quantised."""

    def __init__(self, path: str | Path, frame_rate: float, calls: list[float]):
        self.sha256 = Path(path, "config.json").read_text()
        self.id = "fake"
        self.sample_rate = RATE
        self.frame_rate = frame_rate
        self.vocab_size = LAYOUT.num_units
        self.num_codebooks = LAYOUT.num_codebooks
        self.codebook_size = LAYOUT.codebook_size
        self._calls = calls

    def _loudness(self, wav: np.ndarray, size: int) -> np.ndarray:
        hop = RATE / self.frame_rate
        count = int(np.ceil(len(wav) / hop))
        bounds = (np.arange(count) * hop).astype(int)
        peaks = np.maximum.reduceat(np.abs(wav), bounds)
        return np.minimum(peaks * size, size - 1).astype(np.uint16)


class FakeSemantic(FakeTokenizer):
    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        assert sample_rate == RATE
        assert wav.dtype == np.float32
        self._calls.append(len(wav) / sample_rate)
        return self._loudness(wav, self.vocab_size)


class FakeCodec(FakeTokenizer):
    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        codes = self._loudness(wav, self.codebook_size)
        return np.stack([codes, self.codebook_size - 1 - codes])


@pytest.fixture
def calls(monkeypatch) -> list[float]:
    """Fake tokenizers in place of real ones; seconds of every encoded signal."""
    calls: list[float] = []
    for module in (corpus_config, tokenize_corpus, shard):
        monkeypatch.setattr(module, "load_semantic", lambda path: FakeSemantic(path, 50.0, calls))
        monkeypatch.setattr(module, "load_codec", lambda path: FakeCodec(path, 75.0, calls))
    return calls


def signal(seconds: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = round(seconds * RATE)
    envelope = np.repeat(random.uniform(0.1, 0.9, size // 1600 + 1), 1600)[:size]
    return (envelope * np.sin(np.arange(size) * 0.3)).astype(np.float32)


@pytest.fixture
def config(tmp_path, calls) -> CorpusConfig:
    """Two speakers with twelve recordings each, 0.3 to 2 s, and where to write."""
    for speaker in ("anna", "bert"):
        folder = tmp_path / "audio" / speaker
        folder.mkdir(parents=True)
        for number in range(12):
            seconds = 0.3 + 0.15 * number
            soundfile.write(folder / f"{speaker}{number:02d}.wav", signal(seconds, number), RATE)
    for name in ("semantic", "codec"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f"{name} digest")
    return CorpusConfig(
        audio_dir=str(tmp_path / "audio"),
        output=str(tmp_path / "out"),
        semantic=str(tmp_path / "semantic"),
        codec=str(tmp_path / "codec"),
        utterances_per_shard=5,
        num_workers=0,
        valid_fraction=0.1,
    )


def files_of(directory: str) -> dict[str, bytes]:
    root = Path(directory)
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def failures_of(config: CorpusConfig) -> list[dict]:
    lines = Path(config.output, "failures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _noise_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _nan(path: Path) -> None:
    wav = signal(1.0, 0)
    wav[50] = np.nan
    soundfile.write(path, wav, RATE, subtype="FLOAT")


def _truncated_flac(path: Path) -> None:
    soundfile.write(path, signal(2.0, 0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES: dict[str, Callable[[Path], None]] = {
    "empty.wav": lambda path: path.write_bytes(b""),
    "noise.mp3": _noise_bytes,
    "short.wav": lambda path: soundfile.write(path, signal(0.05, 0), RATE),
    "silent.wav": lambda path: soundfile.write(path, np.zeros(RATE), RATE),
    "nan.wav": _nan,
    "cut.flac": _truncated_flac,
}
