"""Fitting is deterministic, uses training recordings only, and refuses too little audio."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource, Utterance
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.codecs.world_rvq import WorldRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig

SEMANTIC = MFCCKMeansConfig(vocab_size=12)
CODEC = MelRVQConfig(num_codebooks=2, codebook_size=16)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    for number in range(10):
        rng = np.random.default_rng(number)
        rate = 8_000 if number % 2 else 16_000
        time = np.arange(rate) / rate
        chirp = np.sin(2 * np.pi * (200 + 100 * number + 400 * time) * time)
        wav = 0.2 * chirp + 0.01 * rng.normal(size=len(time))
        soundfile.write(root / f"{number}.wav", wav, rate)
    (root / "bad.wav").write_bytes(b"not audio")
    return root


def utterances(root, split="train") -> list[Utterance]:
    return [Utterance(u.id, u.path, u.speaker, split=split) for u in FolderSource(root).list()[0]]


def test_the_order_of_recordings_does_not_change_the_tokenizers(recordings, tmp_path):
    found = utterances(recordings)
    first = fit_tokenizers(found, tmp_path / "a", SEMANTIC, CODEC, num_workers=0)
    second = fit_tokenizers(found[::-1], tmp_path / "b", SEMANTIC, CODEC, num_workers=2)
    other = fit_tokenizers(found, tmp_path / "c", SEMANTIC, CODEC, num_workers=0, seed=1)
    assert first["utterances"] == 10  # the one that cannot be read is passed over
    for name in ("semantic_sha256", "codec_sha256"):
        assert first[name] == second[name] != other[name]
    assert load_semantic(tmp_path / "a/semantic").sha256 == first["semantic_sha256"]
    assert load_codec(tmp_path / "a/codec").sha256 == first["codec_sha256"]


def test_only_training_recordings_are_used(recordings, tmp_path):
    found = utterances(recordings)
    train, rest = found[:6], found[6:]
    alone = fit_tokenizers(train, tmp_path / "a", SEMANTIC, CODEC, num_workers=0)
    others = [Utterance(u.id, u.path, u.speaker, split="valid") for u in rest]
    mixed = fit_tokenizers(train + others, tmp_path / "b", SEMANTIC, CODEC, num_workers=0)
    assert alone["codec_sha256"] == mixed["codec_sha256"]
    with pytest.raises(UserError, match="no training recordings"):
        fit_tokenizers(others, tmp_path / "c", SEMANTIC, CODEC)


def test_the_amount_of_audio_is_bounded(recordings, tmp_path):
    result = fit_tokenizers(
        utterances(recordings), tmp_path, SEMANTIC, CODEC, max_seconds=3.5, num_workers=0
    )
    assert result["utterances"] == 4
    assert result["audio_seconds"] == 4.0


def test_too_little_or_no_readable_audio_is_a_user_error_that_names_a_remedy(recordings, tmp_path):
    big = MelRVQConfig(codebook_size=1024)
    with pytest.raises(UserError, match=r"codebook_size 1024, .* set codebook_size to at most 125"):
        fit_tokenizers(utterances(recordings), tmp_path, SEMANTIC, big, num_workers=0)
    bad = [Utterance("bad", str(recordings / "bad.wav"), "x", split="train")]
    with pytest.raises(UserError, match=r"bad\.wav"):
        fit_tokenizers(bad, tmp_path, SEMANTIC, CODEC, num_workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        fit_tokenizers(
            utterances(recordings), tmp_path / "file" / "x", SEMANTIC, CODEC, num_workers=0
        )


def test_program_ends_with_one_line_on_bad_flags(recordings, tmp_path):
    command = [sys.executable, "-m", "data_pipeline.fit_tokenizers", f"--output={tmp_path}"]
    command += [f"--audio_dir={recordings}", "--codec_kind=mel_rvq", "--codec_rate=75"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: frame_rate 75")
    assert "Traceback" not in done.stderr


def test_each_kind_of_codec_is_fitted_and_only_log_mel_frames_can_be_unified(recordings, tmp_path):
    pytest.importorskip("pyworld", reason="the vocoder of world_rvq is not installed")
    found = utterances(recordings)
    world = WorldRVQConfig(num_codebooks=2, codebook_size=16)
    for config, kind in ((CODEC, "mel_rvq"), (world, "world_rvq")):
        fit_tokenizers(found, tmp_path / kind, SEMANTIC, config, num_workers=0)
        codec = load_codec(tmp_path / kind / "codec")
        assert codec.id == f"{kind}-2x16-50hz"
        codes = codec.encode(np.zeros(16_000, np.float32), 16_000)
        assert codes.shape == (2, 50)
    with pytest.raises(UserError, match="a unified codec needs mel_rvq, not world_rvq"):
        fit_tokenizers(found, tmp_path / "u", SEMANTIC, world, num_workers=0, unified=True)
