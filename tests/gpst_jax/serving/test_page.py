"""The page: inputs of modes, answers through Gradio's client, refusals, and what is not served."""

import socket
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.runtime.errors import UserError
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.serving import page as pages
from gpst_jax.serving.answers import answers, message_of
from gpst_jax.serving.examples import Example, find_examples
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.requests import MODES
from gpst_jax.synthesis.synthesizer import SynthesisSettings, Synthesizer

RATE = 16_000
LARGEST_MB = 0.5


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    random = np.random.default_rng(0)
    envelope = np.repeat(random.uniform(0.05, 0.3, 24), 800)
    wav = envelope * random.standard_normal(len(envelope))  # speech to an energy detector
    soundfile.write(directory / "who.wav", wav, RATE)
    soundfile.write(directory / "silent.wav", np.zeros(RATE), RATE)
    return directory


@pytest.fixture(scope="module")
def synthesizer(stored) -> Synthesizer:
    settings = SynthesisSettings(perceptual=FlowSettings("euler", 2), prompt_seconds=1.0)
    model = open_model(stored / "runs" / "flow", dataset=stored / "tokens")
    return Synthesizer(model, None, settings, lambda line: None)


@pytest.fixture(scope="module")
def served(stored, synthesizer, tmp_path_factory):
    """Address of a page, and Gradio's client of it."""
    pytest.importorskip("gradio", reason="the extra serve is not installed")
    client = pytest.importorskip("gradio_client", reason="the extra serve is not installed")
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "GRADIO_TEMP_DIR",
            "GRADIO_ANALYTICS_ENABLED",
            "GRADIO_MCP_SERVER",
            "GRADIO_SSR_MODE",
            "HF_HUB_DISABLE_TELEMETRY",
        ):
            patch.setenv(name, "")  # restored in the end
        pages.prepare_environment(folder)
        example = Example("1. a", stored / "who.wav", None)
        page = pages.build_page(synthesizer, "Speech by a test", [example])
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            port = trial.getsockname()[1]
        pages.launch(page, "127.0.0.1", port, LARGEST_MB)
        address = f"http://127.0.0.1:{port}"
        yield address, client.Client(address, verbose=False, analytics_enabled=False)
        page.close(verbose=False)


def speak(served, source: Path, prompt: Path, mode: str = "voice_conversion", stream=False):
    client = pytest.importorskip("gradio_client")
    files = [client.handle_file(str(path)) for path in (source, prompt)]
    return served[1].predict(mode, *files, "", None, 0, stream, api_name="/speak")


@pytest.mark.parametrize("stream", [False, True])
def test_speech_with_spectrograms_units_and_times(stored, served, stream):
    audio, message, details = speak(served, stored / "who.wav", stored / "who.wav", stream=stream)
    wav, rate = soundfile.read(audio)
    assert rate == RATE
    assert len(wav) / rate == pytest.approx(1.2, abs=0.05)
    assert "real-time factor" in message
    assert ("first audio" in message) == stream
    assert details.count("<img ") == 3
    assert "Mel spectrogram: Source recording" in details
    assert " units</summary>" in details
    assert str(stored) not in message + details


def test_visitors_queue(stored, synthesizer, served, monkeypatch):
    """The model is called once at a time, and each visitor gets an answer."""
    client = pytest.importorskip("gradio_client")
    running, most, generate = [], [], synthesizer.generate

    def watched(requests):
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        speech = generate(requests)
        running.pop()
        return speech

    monkeypatch.setattr(synthesizer, "generate", watched)
    file = client.handle_file(str(stored / "who.wav"))
    jobs = [
        served[1].submit("voice_conversion", file, file, "", 0, seed, False, api_name="/speak")
        for seed in range(3)
    ]
    assert all("real-time factor" in job.result(60)[1] for job in jobs)
    assert most == [1, 1, 1]


def test_bad_input_is_a_message_without_paths(stored, served):
    audio, message, details = speak(served, stored / "who.wav", stored / "silent.wav")
    assert audio is None
    assert not details
    assert 'role="alert"' in message
    assert "Voice prompt" in message
    assert "--" not in message
    assert "/tmp" not in message


def test_other_files_of_the_machine_are_not_served(stored, served):
    httpx = pytest.importorskip("httpx")
    for path in ("/etc/passwd", str(Path.cwd() / "setup.py"), str(stored / "silent.wav")):
        answer = httpx.get(f"{served[0]}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path
    config = httpx.get(f"{served[0]}/config").text
    assert str(stored) not in config
    assert str(Path.cwd()) not in config


def test_a_path_of_the_machine_is_no_upload(stored, served):
    """A visitor who names a file instead of sending it gets neither speech nor the file."""
    httpx = pytest.importorskip("httpx")
    file = {"path": str(stored / "who.wav"), "meta": {"_type": "gradio.FileData"}}
    data = {"data": ["voice_conversion", file, file, "", 0, 0, False]}
    address = f"{served[0]}/gradio_api/call/speak"
    event = httpx.post(address, json=data).json()["event_id"]
    told = httpx.get(f"{address}/{event}", timeout=240).text
    assert "event: error" in told
    assert "real-time factor" not in told


def test_large_uploads_are_refused(stored, served, tmp_path):
    httpx = pytest.importorskip("httpx")
    for size, code in ((1000, 200), (round(LARGEST_MB * 1e6) + 100_000, 413)):
        files = {"files": ("a.wav", bytes(size), "audio/wav")}
        assert httpx.post(f"{served[0]}/gradio_api/upload", files=files).status_code == code


def test_modes_are_those_of_the_model(synthesizer, served):
    config = served[1].config["components"]
    radio = next(one for one in config if one["type"] == "radio")
    assert [name for _, name in radio["props"]["choices"]] == list(synthesizer.modes)
    assert list(synthesizer.modes) == ["voice_conversion"]
    text = next(one for one in config if one["props"].get("label") == "Text")
    assert text["props"]["visible"] is False


def test_every_mode_has_a_name():
    assert {name for modes in MODES.values() for name in modes} == set(pages._MODES)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "tts"}, "Mode: choose from voice_conversion"),
        ({"mode": "voice_conversion"}, "Source recording: missing"),
        ({"mode": "voice_conversion", "source": "/no/where.wav"}, "Voice prompt: missing"),
        ({"mode": "voice_conversion", "seed": 0.5}, "Seed: give a whole number"),
    ],
)
def test_missing_input(synthesizer, values, words):
    (*_, last) = answers(synthesizer, values)
    assert last.failed
    assert words in last.message


def test_defects_are_not_shown_to_visitors():
    assert "secret" not in message_of(ValueError("/a/secret"), {})
    assert message_of(UserError("--source=/a/b.wav: bad"), {}) == "Source recording=b.wav: bad"


def test_examples_are_held_out_recordings(stored, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="audio_dir"):
        find_examples(stored / "tokens", tmp_path)
    monkeypatch.setattr(
        "gpst_jax.samples.items.audio_root", lambda directory: stored / "recordings"
    )
    examples = find_examples(stored / "tokens", tmp_path, 2)
    assert 1 <= len(examples) <= 2
    for example in examples:
        assert soundfile.info(example.path).samplerate == RATE
