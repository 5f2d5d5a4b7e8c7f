"""A model of frames alone on single requests: it goes on from frames, window by window."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.runtime.errors import UserError
from gpst_jax.generation.gpst_modes import MODES_WITHOUT_UNITS
from gpst_jax.synthesis.gpst import GPSTSettings
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.requests import SpeechRequest
from gpst_jax.synthesis.synthesizer import SynthesisSettings, Synthesizer

RATE = 16_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    random = np.random.default_rng(0)
    for name, seconds in (("what", 1.2), ("long", 4.0)):
        noise = 0.1 * random.standard_normal(round(seconds * RATE))
        soundfile.write(directory / f"{name}.wav", noise, RATE)
    return directory


@pytest.fixture(scope="module")
def synthesizer(stored) -> Synthesizer:
    """The stored run, as if it had been trained without units."""
    model = open_model(stored / "runs" / "gpst", dataset=stored / "tokens")
    config = model.loaded.config.override(["data.units=none"])
    model = dataclasses.replace(model, loaded=model.loaded._replace(config=config))
    settings = SynthesisSettings(gpst=GPSTSettings(guards=None), prompt_seconds=1.0)
    return Synthesizer(model, None, settings, lambda line: None)


def test_speech_is_of_the_stated_length_also_beyond_the_window(stored, synthesizer):
    what, long = stored / "what.wav", stored / "long.wav"
    requests = [
        SpeechRequest(mode="unconditional", id="short", seconds=0.5),
        SpeechRequest(mode="unconditional", id="beyond", seconds=5.0, seed=1),
        SpeechRequest(mode="continuation", id="replaced", source=what, seconds=0.4),
        SpeechRequest(mode="continuation", id="replaced long", source=long, seconds=0.4),
        SpeechRequest(mode="speech_continuation", id="more", source=what, seconds=0.8),
    ]
    assert tuple(synthesizer.modes) == MODES_WITHOUT_UNITS
    made = synthesizer.generate(requests)
    rate = synthesizer.spec.layout().frame_rate
    for speech, (given, most, exact) in zip(
        made,
        [(0, 0.5, False), (0, 5.0, False), (0.4, 1.2, True), (0.4, 4.0, True), (1.2, 2.0, False)],
        strict=True,
    ):
        seconds = speech.frames.shape[1] / rate
        assert speech.info["given_seconds"] == pytest.approx(given, abs=0.03)
        if exact or speech.info["ended_by"] == "length":
            assert seconds == pytest.approx(most, abs=0.06)
        else:
            assert speech.info["ended_by"] == "end"
            assert given - 0.03 <= seconds <= most + 0.03
        assert np.isfinite(speech.wav).all()
        assert not len(speech.units)
    (alone,) = synthesizer.generate(requests[3:4])
    np.testing.assert_array_equal(alone.frames, made[3].frames)
    codes = synthesizer._encoder.source(what, "--source")[1]
    np.testing.assert_array_equal(made[4].frames[:, : codes.shape[1]], codes)


def test_each_request_begins_where_the_one_before_ends(stored, synthesizer, monkeypatch):
    calls, decoder = [], synthesizer._gpst.decoder
    original = decoder.decode

    def spy(requests, **options):
        results = original(requests, **options)
        calls.append((requests[0], results[0]))
        return results

    monkeypatch.setattr(decoder, "decode", spy)
    wanted = SpeechRequest(mode="continuation", source=stored / "long.wav", seconds=0.4)
    (speech,) = synthesizer.generate([wanted])
    window = round(2.0 * synthesizer.spec.layout().frame_rate)  # of the stored run
    assert len(calls) >= 3
    so_far = calls[0][0].codes
    for asked, result in calls:
        assert not len(asked.units)
        assert asked.codes.shape[1] + asked.max_frames <= window
        np.testing.assert_array_equal(asked.codes, so_far[:, -asked.codes.shape[1] :])
        so_far = np.concatenate([so_far, result.codes], axis=1)
    np.testing.assert_array_equal(so_far, speech.frames)


def test_a_stream_is_the_speech(synthesizer):
    wanted = SpeechRequest(mode="unconditional", seconds=3.0, seed=3)
    (whole,) = synthesizer.generate([wanted])
    chunks, stream = [], synthesizer.stream(wanted, chunk_frames=16)
    while True:
        try:
            chunks.append(next(stream))
        except StopIteration as stopped:
            np.testing.assert_array_equal(stopped.value.frames, whole.frames)
            break
    np.testing.assert_array_equal(np.concatenate(chunks), whole.wav)


def test_a_mode_that_renders_units_is_refused(stored, synthesizer):
    wanted = SpeechRequest(mode="semantic_to_acoustic", source=stored / "what.wav")
    with pytest.raises(UserError, match="--mode=semantic_to_acoustic renders units"):
        synthesizer.generate([wanted])
