"""The command with real tokenizers: fitted on the fly, in worker processes, and how it ends."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import tokenize_corpus
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization import provide_tokenizers
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig

RATE = 22050  # not the tokenizers' own


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Two speakers, six recordings each of changing tones, stereo; and one bad file."""
    root = tmp_path_factory.mktemp("audio")
    random = np.random.default_rng(0)
    for speaker in ("anna", "bert"):
        (root / speaker).mkdir()
        for number in range(6):
            pitch = np.repeat(random.uniform(100, 2000, 12), RATE // 10)
            wav = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
            wav += 0.01 * random.standard_normal(len(wav))
            path = root / speaker / f"{number}.flac"
            soundfile.write(path, np.stack([wav, wav], axis=1), RATE)
    (root / "anna" / "bad.wav").write_bytes(b"not audio")
    return root


@pytest.fixture(scope="module")
def fitted(audio, tmp_path_factory) -> Path:
    """A dataset whose tokenizers were fitted on the fly, with small ones in place of the usual."""
    output = tmp_path_factory.mktemp("fitted") / "dataset"
    small = functools.partial(
        fit_tokenizers,
        semantic=MFCCKMeansConfig(vocab_size=16),
        codec=MelRVQConfig(num_codebooks=2, codebook_size=16, frame_rate=100.0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provide_tokenizers, "fit_tokenizers", small)
        config = tokenize_corpus.CorpusConfig(str(audio), str(output), num_workers=0)
        result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"]["recorded"] == 12
    return output


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_pipeline.tokenize_corpus", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_worker_processes_write_the_same_shards(audio, fitted, tmp_path) -> None:
    output = tmp_path / "dataset"
    flags = [
        f"--audio_dir={audio}",
        f"--output={output}",
        f"--semantic={fitted / 'tokenizers' / 'semantic'}",
        f"--codec={fitted / 'tokenizers' / 'codec'}",
        "--num_workers=2",
        f"--json_out={tmp_path / 'result.json'}",
    ]
    result = _run(*flags)
    assert result.returncode == 3, result.stderr
    assert f"1 of 13 inputs failed: reasons in {output / 'failures.jsonl'}" in result.stderr
    assert "Traceback" not in result.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    spec = DatasetSpec.load(output)
    assert found["fingerprint"] == spec.fingerprint == DatasetSpec.load(fitted).fingerprint
    shards = sorted(path.name for path in fitted.glob("*array_record*"))
    assert shards == sorted(path.name for path in output.glob("*array_record*"))
    for name in shards:
        assert (output / name).read_bytes() == (fitted / name).read_bytes()
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]


def test_a_tokenised_corpus_can_be_loaded(fitted) -> None:
    packing = PackingConfig(sequence_length=384, frame_budget=224, crop_seconds=2.2)
    loader = Loader(fitted, "train", packing, 2, repeat=False)
    assert loader.plan.layout.global_vocab == 4 + 16 + 4 + 2 * 16
    tokens = np.concatenate([batch["tokens"] for batch in loader])
    assert tokens.max() < loader.plan.layout.global_vocab


def test_bad_input_is_one_line(tmp_path) -> None:
    result = _run("--audio_dir=/nowhere", f"--output={tmp_path / 'out'}")
    assert result.returncode == 2
    assert result.stderr == "error: audio_dir /nowhere is not a directory\n"


def test_too_little_audio_for_the_usual_tokenizers_says_what_to_do(audio, tmp_path) -> None:
    config = tokenize_corpus.CorpusConfig(str(audio), str(tmp_path / "out"), num_workers=0)
    with pytest.raises(UserError, match=r"fitting tokenizers: .* fit them with .* --semantic"):
        tokenize_corpus.tokenize_corpus(config)


def test_what_is_not_a_tokenizer_is_refused(audio, tmp_path) -> None:
    config = tokenize_corpus.CorpusConfig(
        str(audio), str(tmp_path / "out"), codec=str(tmp_path), num_workers=0
    )
    with pytest.raises(UserError, match="is not a tokenizer's directory"):
        tokenize_corpus.tokenize_corpus(config)
    assert not (tmp_path / "out").exists()
