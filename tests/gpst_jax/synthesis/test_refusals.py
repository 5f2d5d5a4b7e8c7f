"""Inputs that cannot be used: one line each, which names the input, before anything is made."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.endings import ending
from data_pipeline.runtime.errors import UserError
from gpst_jax.synthesis.files import SpeechFiles
from gpst_jax.synthesis.gpst import GPSTSettings
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.requests import SpeechRequest, read_requests
from gpst_jax.synthesis.synthesizer import Speech, SynthesisSettings, Synthesizer
from gpst_jax.synthesis.writing import split_text

RATE = 16_000
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    noise = 0.1 * RANDOM.standard_normal(3 * RATE)
    word = np.concatenate([np.zeros(RATE), noise[: RATE // 2], np.zeros(RATE)])
    burst = np.concatenate([1e-4 * noise, noise, 1e-4 * noise, noise[: RATE // 4]])
    signals = {
        "what": (noise, RATE), "word": (word, RATE), "silent": (np.zeros(2 * RATE), RATE),
        "sample": (noise[:1], RATE), "other": (noise, 44_100), "burst": (burst, RATE),
    }  # fmt: skip
    for name, (wav, rate) in signals.items():
        soundfile.write(directory / f"{name}.wav", wav, rate)
    stereo = np.stack([noise, np.roll(noise, 5)], axis=1)
    soundfile.write(directory / "stereo.flac", stereo, RATE)
    return directory


@pytest.fixture(scope="module")
def models(stored) -> dict[str, Synthesizer]:
    """GPST with a language model, flow matching without one; neither is ever run."""
    lines: list[str] = []
    language = open_model(stored / "runs" / "lm", dataset=stored / "sequences")
    made = {}
    for family, lm in (("gpst", language), ("flow", None)):
        model = open_model(stored / "runs" / family, dataset=stored / "tokens")
        made[family] = Synthesizer(model, lm, SynthesisSettings(), lines.append)
        made[family].lines = lines  # type: ignore[attr-defined]
    return made


def transfer(stored: Path, prompt: str) -> SpeechRequest:
    return SpeechRequest(
        mode="speaker_transfer", source=stored / "what.wav", prompt=stored / prompt
    )


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("word.wav", r"0\.5\d s of speech in 2\.50 s, a voice needs at least 1 s"),
        ("silent.wav", "is silent"),
        ("sample.wav", "is shorter than the minimum"),
        ("nothing.wav", "cannot be read: No such file"),
    ],
)
def test_prompts_that_tell_no_voice(stored, models, prompt, reason):
    with pytest.raises(UserError, match=rf"^--prompt=.*{prompt}: .*{reason}") as caught:
        models["gpst"].prepare([transfer(stored, prompt)])
    assert "\n" not in str(caught.value)


def test_another_rate_is_said_and_channels_are_mixed(stored, models):
    models["gpst"].lines.clear()
    prepared = models["gpst"].prepare(
        [transfer(stored, "other.wav"), transfer(stored, "stereo.flac")]
    )
    assert [line for line in models["gpst"].lines if "resampled from 44100 to 16000" in line]
    seconds = [one.prompt.seconds for one in prepared]
    assert seconds == pytest.approx([3 * 16_000 / 44_100, 3.0], abs=0.01)


def test_the_best_seconds_of_a_prompt_are_used_and_said(stored, models):
    models["gpst"].lines.clear()
    (one,) = models["gpst"].prepare([transfer(stored, "burst.wav")])
    assert (one.prompt.start, one.prompt.seconds) == pytest.approx((3.0, 3.0), abs=0.03)
    assert any("3.00 of its 9.25 s are the prompt" in line for line in models["gpst"].lines)
    np.testing.assert_array_equal(len(one.prompt.part[0]), 150)


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("gpst", {"mode": "tts", "text": "drei 四"}, "--text: .* lacks .*'四'"),
        ("gpst", {"mode": "tts", "text": "  "}, "--text: empty"),
        ("gpst", {"mode": "tts"}, "--text: missing"),
        ("gpst", {"mode": "sing"}, "--mode=sing: unknown; choose from unconditional, "),
        ("gpst", {"mode": "voice_conversion"}, "is for models of family 'flow' or 'soundstorm'"),
        ("flow", {"mode": "continuation"}, "is for models of family 'gpst', this one is .*'flow'"),
        ("flow", {"mode": "tts", "text": "one"}, "needs a language model: give --lm_workdir"),
        ("gpst", {"mode": "speaker_transfer"}, "--source: missing"),
        ("gpst", {"mode": "unconditional", "text": "one"}, "--text: the mode .* does not take it"),
        ("gpst", {"mode": "unconditional", "seconds": -1.0}, "--seconds=-1.0: give a positive"),
        ("gpst", {"mode": "unconditional", "seed": -1}, "--seed=-1: not in"),
        ("gpst", {"mode": "continuation", "source": "what", "seconds": 3.0}, "nothing of it is "),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_made(stored, models, family, fields, reason):
    if "source" in fields:
        fields = fields | {"source": stored / f"{fields['source']}.wav"}
    with pytest.raises(UserError, match=reason) as caught:
        models[family].prepare([SpeechRequest(**fields)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["{"], "line 1: not JSON"),
        (['{"id": "a", "mood": 1}'], "line 1: unknown key 'mood'"),
        (['{"id": "a", "seed": "x"}'], "line 1: seed must not be 'x'"),
        (['{"text": "one"}'], "line 1: id is missing"),
        (['{"id": "../a"}'], "names a file"),
        (['{"id": "a"}'], "mode is missing"),
        (['{"id": "a", "text": "b"}'] * 2, "line 2: the id 'a' comes twice"),
        ([], "holds no lines"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path, lines, reason):
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=reason):
        read_requests(path, SpeechRequest(mode=""))


def test_a_manifest_names_recordings_beside_it(tmp_path):
    path = tmp_path / "manifest.jsonl"
    rows = [{"id": "a", "text": "one", "seed": 3}, {"id": "b", "source": "x/y.wav", "mode": "m"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_requests(path, SpeechRequest(mode="", prompt=Path("who.wav"), seed=1))
    assert (first.mode, first.text, first.seed) == ("tts", "one", 3)
    assert (second.source, second.prompt, second.seed) == (
        tmp_path / "x/y.wav", Path("who.wav"), 1,
    )  # fmt: skip
    assert second.name("source") == f"{path} line 2: source"


def test_a_run_without_its_tokenizers(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(stored / "runs" / "gpst", tmp_path / "run")
    with pytest.raises(UserError, match=r"tokenizers are not at hand: .* as --dataset"):
        open_model(run)
    with pytest.raises(UserError, match=r"--dataset=.*: holds no dataset.json"):
        open_model(run, dataset=tmp_path)
    with pytest.raises(UserError, match="--lm_workdir=nowhere: no such directory"):
        open_model("nowhere", flag="lm_workdir")
    other = shutil.copytree(stored / "tokens", tmp_path / "tokens")
    shutil.rmtree(other / "tokenizers" / "codec")
    with pytest.raises(UserError, match="codec is not a tokenizer"):
        Synthesizer(open_model(run, dataset=other), None, SynthesisSettings())


def test_a_language_model_alone_makes_no_audio(stored):
    language = open_model(stored / "runs" / "lm", dataset=stored / "sequences")
    with pytest.raises(UserError, match="generates no audio"):
        Synthesizer(language, None, SynthesisSettings())


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: (Not a directory|File exists)"):
        SpeechFiles(tmp_path / "file" / "out.wav", single=True)
    with pytest.raises(UserError, match="one input makes one file"):
        SpeechFiles(tmp_path / "folder", single=True)
    with pytest.raises(UserError, match="several files: name a directory"):
        SpeechFiles(tmp_path / "out.wav", single=False)
    (tmp_path / "out.wav").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        SpeechFiles(tmp_path / "out.wav", single=True)


def speech(seconds: float) -> Speech:
    wav = (0.1 * RANDOM.standard_normal(round(seconds * RATE))).astype(np.float32)
    request = SpeechRequest(mode="unconditional", id="a")
    return Speech(request, wav, RATE, np.zeros(0, int), np.zeros((2, 0), int), {"id": "a"})


@pytest.fixture
def full_disk():
    """Files end at 4096 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_full_disk_is_one_line_and_leaves_no_half_result(tmp_path, full_disk, streamed):
    files = SpeechFiles(tmp_path / "out.wav", single=True)
    made = speech(1.0)

    def chunks():
        yield from np.split(made.wav, 4)
        return made

    with pytest.raises(OSError, match="File too large") as caught:
        files.write_stream(chunks(), RATE) if streamed else files.write([made])
    code, message = ending(caught.value)
    assert code == exit_codes.STORAGE
    assert "out.wav" in message
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert not (tmp_path / "out.json").exists()
    assert streamed or os.listdir(tmp_path) == []


def test_results_are_a_line_each(tmp_path):
    files = SpeechFiles(tmp_path / "out", single=False)
    silent = dataclasses.replace(speech(0.0), request=SpeechRequest(mode="tts", id="b"))
    files.write([speech(0.5), silent])
    lines = [json.loads(line) for line in files.results.read_text().splitlines()]
    assert [line["audio"] for line in lines] == ["a.wav", None]
    assert soundfile.info(tmp_path / "out" / "a.wav").duration == 0.5
    assert sorted(os.listdir(tmp_path / "out")) == ["a.wav", "results.jsonl"]


def test_long_texts_are_cut_where_people_pause():
    text = "One two. Three, four; five six seven. Eight"
    assert split_text(text, 100) == [text]
    assert split_text(text, 30) == ["One two.", "Three, four; five six seven.", "Eight"]
    parts = split_text("one two three four five six", 9)
    assert max(map(len, parts)) <= 9
    assert " ".join(parts) == "one two three four five six"


def test_the_best_of_several_is_known_when_all_are_complete(stored):
    model = open_model(stored / "runs" / "gpst", dataset=stored / "tokens")
    settings = SynthesisSettings(gpst=GPSTSettings(best_of=3))
    stream = Synthesizer(model, None, settings).stream(SpeechRequest(mode="unconditional"))
    with pytest.raises(UserError, match="which of 3 samples is the best is known when all are "):
        next(stream)
