"""The real tiny.en, where its weights are on this machine."""

import json

import numpy as np
import pytest
import soundfile

from data_pipeline.audio.io import load_audio
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import whisper_weights
from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.suite import EvaluationConfig, evaluate
from gpst_jax.evaluation.transcripts import whisper
from gpst_jax.evaluation.transcripts.alignment import count_errors
from gpst_jax.evaluation.transcripts.recipes import RECIPES

RATE = whisper.SAMPLE_RATE


@pytest.fixture(scope="module")
def transcribe():
    pytest.importorskip("faster_whisper")
    try:
        whisper_weights.find("tiny.en", download=False)
    except UserError:
        pytest.skip("no weights of Whisper tiny.en on this machine")
    return whisper.load("tiny.en", "en")


def noise(seconds, level):
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(
        np.float32
    )


def test_spoken_digits_are_recognised_the_same_twice(transcribe, spoken_digits):
    recipe = RECIPES["wer/whisper-tiny.en-english"]
    path, text, _ = spoken_digits[0]
    wav = load_audio(path, RATE)
    first = transcribe(wav)
    count = count_errors(text, recipe.hypothesis(first, "digits"))
    assert count.errors <= 2  # of five
    transcribe(noise(1, 0.1))
    assert transcribe(wav) == first


@pytest.mark.parametrize(
    "wav",
    [
        np.zeros(4 * RATE, np.float32),
        noise(4, 0.01),
        np.sign(np.sin(np.arange(3 * RATE) / 12)).astype(np.float32),
        noise(0.1, 0.1),
    ],
    ids=["silence", "noise", "square", "short"],
)
def test_nothing_is_invented_where_nobody_speaks(transcribe, wav):
    assert not any(map(str.isalnum, transcribe(wav)))


def test_long_recordings_are_heard_to_their_end(transcribe, spoken_digits):
    wavs = [load_audio(path, RATE) for path, _, _ in spoken_digits[::2]]
    long = np.concatenate([*wavs * 5])[: 40 * RATE]
    long[12 * RATE : 38 * RATE] = 0
    spoken = transcribe(long)
    assert any(map(str.isalnum, spoken))
    assert "you" not in spoken.lower().split()


def test_odd_items_are_scored_by_rule_and_the_same_twice(transcribe, spoken_digits, tmp_path):
    wav, text = load_audio(spoken_digits[0][0], RATE), spoken_digits[0][1]
    sounds = {
        "silent": (np.zeros(3 * RATE, np.float32), RATE),
        "clipped": (np.clip(30 * wav, -1, 1), RATE),
        "telephone": (wav[::2], RATE // 2),
        "short": (wav[: RATE // 10], RATE),
        "long": (np.concatenate([wav, np.zeros(40 * RATE - len(wav), np.float32)]), RATE),
        "wordless": (wav, RATE),
    }
    rows = []
    for name, (sound, rate) in sounds.items():
        (tmp_path / "codec").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "codec" / f"{name}.wav", sound, rate)
        words = "" if name == "wordless" else text
        row = {"id": name, "audio": f"{name}.wav", "text": words, "text_kind": "digits"}
        rows.append(json.dumps(row | {"speaker": "s"}))
    (tmp_path / "codec" / "manifest.jsonl").write_text("\n".join(rows), encoding="utf-8")
    metrics = registry.configure(
        wer=("wer/whisper-tiny.en-english",), similarity_items=0, mos_items=0
    )
    config = EvaluationConfig(metrics, resamples=20, processes=1)
    first, second = (
        evaluate(tmp_path, config, cache_dir=tmp_path / name, show_progress=False)
        for name in ("a", "b")
    )
    assert first[0]["ceilings"] == second[0]["ceilings"]
    assert first[1] == second[1]
    errors = {item["id"]: item["errors"] for item in first[1]["codec"]}
    assert errors["wordless"] is None
    for name in ("silent", "short"):
        assert errors[name]["deletions"] == errors[name]["words"] == 5
        assert errors[name]["insertions"] == 0
    for name in ("clipped", "telephone", "long"):
        assert errors[name]["insertions"] <= 2
        assert not errors[name]["empty"]


def test_the_result_says_where_the_weights_are_from(transcribe):
    described = RECIPES["wer/whisper-tiny.en-english"].describe()
    assert described["weights"].split()[0] in ("package", "directory", "hub")
    assert len(described["weights_sha256"]) == 64
    assert set(described["packages"]) == {
        "faster-whisper", "ctranslate2", "whisper-normalizer", "jiwer",
    }  # fmt: skip


def test_a_model_of_another_kind_is_refused(transcribe, monkeypatch):
    directory = whisper_weights.find("tiny.en", download=False)
    monkeypatch.setattr(whisper_weights, "find", lambda name: directory)
    with pytest.raises(UserError, match="English only, base is needed"):
        whisper.load("base", "en")
