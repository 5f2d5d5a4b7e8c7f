"""Speech from files: as from a dataset, alone as in a batch, of the stated length, every mode."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings
from stored_model import make_config, make_dataset, random_params, save_run

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.sequences.templates import Example
from data_pipeline.sources import Utterance
from data_pipeline.tokenization.shard import ShardTask, _Tokenizers
from gpst_jax.config import MeshConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.parallel import sharding
from gpst_jax.synthesis.gpst import GPSTSettings
from gpst_jax.synthesis.models import open_model
from gpst_jax.synthesis.requests import MODES, SpeechRequest
from gpst_jax.synthesis.synthesizer import SynthesisSettings, Synthesizer, load

RATE = 16_000
SAID = np.arange(60, dtype=np.int32) % 24  # what the language model says: 1.2 s
GREEDY = SamplingConfig(1.0, 1)
_slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise of changing loudness: speech to an energy detector."""
    random = np.random.default_rng(seed)
    size = round(seconds * RATE)
    envelope = np.repeat(random.uniform(0.05, 0.3, size // 800 + 1), 800)[:size]
    return (envelope * random.standard_normal(size)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    for name, seconds, seed in (("what", 1.2, 1), ("who", 1.0, 2), ("long", 8.0, 3)):
        soundfile.write(directory / f"{name}.wav", voice(seconds, seed), RATE)
    return directory


@pytest.fixture(scope="module")
def hires(tmp_path_factory) -> Path:
    """A model of 16 codebooks."""
    directory = tmp_path_factory.mktemp("hires")
    spec = make_dataset(directory / "dataset", 16)
    config = make_config(directory / "dataset")
    save_run(directory / "run", config, spec, {4: {"params": random_params(config, spec)}})
    return directory / "run"


@pytest.fixture(scope="module")
def synthesizer(stored, hires) -> Callable[..., Synthesizer]:
    """Function (family, greedy) -> a loaded model; `hires` has 16 codebooks."""

    @functools.cache
    def make(family: str, greedy: bool = False, language: bool = True) -> Synthesizer:
        # An untrained model repeats itself.
        gpst = GPSTSettings(guards=None)
        if greedy:
            gpst = GPSTSettings(GREEDY, GREEDY, guards=None)
        stages = {"flow": FlowSettings("euler", 2), "soundstorm": SoundStormSettings(2)}
        settings = SynthesisSettings(
            gpst=gpst, perceptual=stages.get(family), units=GREEDY, prompt_seconds=1.0
        )
        run = hires if family == "hires" else stored / "runs" / family
        lm = stored / "runs" / "lm" if language and family != "hires" else None
        dataset = None if family == "hires" else stored / "tokens"
        language_model = open_model(lm, dataset=stored / "sequences") if lm else None
        return Synthesizer(
            open_model(run, dataset=dataset), language_model, settings, lambda line: None
        )

    return make


@pytest.fixture
def fixed_words(monkeypatch):
    """Answers of the language model are fixed: an untrained one hardly ever ends its text."""
    reply = Example(transcript="q", answer_text="a", answer_units=tuple(SAID.tolist()))
    monkeypatch.setattr(SemanticTasks, "read_aloud", lambda self, texts, items: [SAID] * len(texts))
    monkeypatch.setattr(
        SemanticTasks, "converse", lambda self, speech, items: [reply] * len(speech)
    )


def request(stored: Path, mode: str, source: str = "what", **fields) -> SpeechRequest:
    """A request of a mode with all that it needs."""
    kind = next(modes[mode] for modes in MODES.values() if mode in modes)
    inputs = {
        "source": stored / f"{source}.wav", "prompt": stored / "who.wav", "text": "three four",
    }  # fmt: skip
    needed = {name: inputs[name] for name in kind.needs}
    return SpeechRequest(mode=mode, id=mode, **(needed | fields))


@pytest.mark.parametrize("family", ["gpst", _slow("gpst_paper")])
def test_a_recording_is_read_as_from_a_dataset(stored, synthesizer, family):
    """Greedy: the codes are those of the same recordings in a corpus, token by token."""
    tokenizers = stored / "tokens" / "tokenizers"
    task = ShardTask(
        tuple(Utterance(name, str(stored / f"{name}.wav"), "a") for name in ("what", "who")),
        *(str(stored), str(tokenizers / "semantic"), str(tokenizers / "codec"), 0.1, 30.0, "", ""),
    )
    encoded = [item for *_, item in _Tokenizers(task.semantic, task.codec).encode(task)]
    what, who = (item.tokens[0] for item in encoded)
    model = open_model(stored / "runs" / family, dataset=stored / "tokens")
    spec, config = DatasetSpec.load(stored / "tokens"), model.loaded.config
    decoder = Decoder(config.model, spec.layout(), model.loaded.params, config.data.positions)
    silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
    builder = RequestBuilder(spec.layout(), silence, config.data.deduplicate)
    expected = decoder.decode(
        [
            builder.semantic_to_acoustic(what[0], item=0),
            builder.speaker_transfer([who], [what], item=1),
            builder.continuation([what], 0.5, item=2),
        ],
        semantic=GREEDY,
        acoustic=GREEDY,
    )
    made = synthesizer(family, greedy=True).generate(
        [
            request(stored, "semantic_to_acoustic"),
            request(stored, "speaker_transfer"),
            request(stored, "continuation", seconds=0.5),
        ]
    )
    for speech, result in zip(made, expected, strict=True):
        given = speech.frames.shape[1] - result.codes.shape[1]
        np.testing.assert_array_equal(speech.frames[:, given:], result.codes)
        np.testing.assert_array_equal(speech.frames[:, :given], what[1][:, :given])


@pytest.mark.parametrize(
    "family", [_slow("gpst"), _slow("gpst_paper"), _slow("hires"), "flow", "soundstorm"]
)
def test_every_mode_alone_and_in_a_batch(stored, synthesizer, fixed_words, family):
    """Finite audio of the stated length, and the same whatever else is made with it."""
    model = synthesizer(family)
    requests = [request(stored, mode, seed=number) for number, mode in enumerate(model.modes)]
    requests += [dataclasses.replace(requests[0], id="again", seed=99)]
    if "unconditional" in model.modes:
        requests[0] = dataclasses.replace(requests[0], seconds=0.5)
    together = model.generate(requests)
    layout = model.spec.layout()
    for speech in together:
        assert np.isfinite(speech.wav).all()
        continuous = np.issubdtype(speech.frames.dtype, np.floating)
        frames = len(speech.frames) if continuous else speech.frames.shape[1]
        hop = model.sample_rate / layout.frame_rate
        assert len(speech.wav) == pytest.approx(frames * hop, abs=hop)
        seconds = frames / layout.frame_rate
        mode = speech.request.mode
        if mode in ("unconditional", "speech_continuation") or family == "gpst_paper":
            assert seconds <= 0.1 + {"unconditional": 4.0, "speech_continuation": 5.2}.get(
                mode, 2.4
            )
        else:
            assert seconds == pytest.approx(1.2, abs=0.03)
        assert speech.info["seconds"] == pytest.approx(
            len(speech.wav) / model.sample_rate, abs=1e-3
        )
    for number in (1, len(requests) - 1):
        (alone,) = model.generate([requests[number]])
        tolerance = {"rtol": 0, "atol": 1e-5 if family == "flow" else 0}  # latents are sums
        np.testing.assert_allclose(alone.frames, together[number].frames, **tolerance)
        if family != "flow":
            np.testing.assert_array_equal(alone.wav, together[number].wav)


@pytest.mark.parametrize("family", ["gpst", _slow("gpst_paper"), _slow("soundstorm"), "flow"])
def test_long_speech_goes_from_window_to_window(stored, synthesizer, monkeypatch, family):
    """Four windows of 2 s: no request is longer, and each begins where the one before ends."""
    model = synthesizer(family, greedy=True)
    mode = "voice_conversion" if family in ("soundstorm", "flow") else "speaker_transfer"
    layout, calls = model.spec.layout(), []
    sampler = model._perceptual._stage if model._perceptual else model._gpst.decoder
    name = "sample" if model._perceptual else "decode"
    original = getattr(sampler, name)

    def spy(requests, **options):
        results = original(requests, **options)
        calls.append((requests[0], results[0]))
        return results

    monkeypatch.setattr(sampler, name, spy)
    (speech,) = model.generate([request(stored, mode, "long")])
    assert len(calls) >= 4
    window = 2.0 + 1.1  # a prompt and silence stand before the first piece
    assert all(len(asked.units) <= window * layout.unit_rate for asked, _ in calls)
    if family != "gpst_paper":
        assert speech.info["seconds"] == pytest.approx(8.0, abs=0.05)
    if model._gpst:
        made = [result.codes for _, result in calls]
        np.testing.assert_array_equal(np.concatenate(made, axis=1), speech.frames)
        prompt = calls[0][0].codes  # and silence
        for (asked, _), before in zip(calls[1:], made, strict=False):
            np.testing.assert_array_equal(asked.codes[:, : prompt.shape[1]], prompt)
            end = asked.codes[:, prompt.shape[1] :]
            assert 0 < end.shape[1] <= before.shape[1]
            np.testing.assert_array_equal(end, before[:, -end.shape[1] :])
        calls.clear()
        model.generate([request(stored, "semantic_to_acoustic", "long")])
        assert len(calls) >= 4
        for (asked, _), (_, result) in zip(calls[1:], calls, strict=False):
            np.testing.assert_array_equal(asked.codes, result.codes)  # the voice is in the frames
    if family == "soundstorm":
        for (asked, _), (_, before) in zip(calls[1:], calls, strict=False):
            overlap = asked.prompt_codes[:, -50:]
            np.testing.assert_array_equal(overlap, before[:, -50:])


def test_a_beginning_is_kept_and_goes_on(stored, synthesizer):
    model = synthesizer("gpst")
    layout = model.spec.layout()
    short = request(stored, "speech_continuation", seconds=0.8)
    long = request(stored, "speech_continuation", "long", seconds=5.0)
    (beginning, after_long) = model.generate([short, long])
    codes = model._encoder.source(short.source, "--source")[1]
    np.testing.assert_array_equal(beginning.frames[:, : codes.shape[1]], codes)
    assert beginning.info["given_seconds"] == pytest.approx(1.2, abs=0.02)
    for speech, given, most in ((beginning, 1.2, 0.8), (after_long, 8.0, 5.0)):
        seconds = speech.frames.shape[1] / layout.frame_rate
        assert given - 0.02 <= seconds <= given + most + 0.04
        ended = speech.info["ended_by"]
        assert ended in ("end", "length")
        if ended == "length":
            assert seconds == pytest.approx(given + most, abs=0.04)


@pytest.mark.parametrize(
    ("family", "mode"), [("gpst", "continuation"), _slow("flow", "voice_conversion")]
)
def test_a_stream_is_the_speech(stored, synthesizer, family, mode):
    """Frames equal those of the whole; samples are handed on before the last frame is made."""
    model = synthesizer(family)
    wanted = request(stored, mode, "long" if family == "flow" else "what")
    (whole,) = model.generate([wanted])
    chunks, speech = [], None
    stream = model.stream(wanted, chunk_frames=16)
    while speech is None:
        try:
            chunks.append(next(stream))
        except StopIteration as stopped:
            speech = stopped.value
    np.testing.assert_allclose(speech.frames, whole.frames, rtol=0, atol=1e-4)
    joined = np.concatenate(chunks)
    np.testing.assert_array_equal(joined, speech.wav)
    assert joined.shape == whole.wav.shape
    assert len(chunks) > 2
    assert 0 < speech.info["first_audio_seconds"] < speech.info["wall_seconds"]


def test_what_was_read_understood_and_written_is_told(stored, synthesizer, fixed_words):
    model = synthesizer("flow")
    spoken, answer = model.generate([request(stored, "tts"), request(stored, "dialogue")])
    assert spoken.info["text"] == "three four"
    assert (answer.info["understood"], answer.info["written"]) == ("q", "a")
    np.testing.assert_array_equal(answer.units, SAID)
    recipe = spoken.info["recipe"]
    assert (recipe["family"], recipe["step"], recipe["lm_step"]) == ("flow", 4, 4)


@pytest.mark.slow
def test_the_language_model_reads_alone_as_in_a_batch(stored, synthesizer):
    """Nothing said is no audio, not an error."""
    model = synthesizer("gpst")
    requests = [request(stored, "tts", text=text, seconds=0.5) for text in ("one", "two nine")]
    together = model.generate(requests)
    (alone,) = model.generate(requests[1:])
    np.testing.assert_array_equal(alone.units, together[1].units)
    np.testing.assert_array_equal(alone.frames, together[1].frames)


def test_an_export_brings_its_tokenizers(stored):
    """Also in the format of transformers, and without the run's dataset."""
    settings = SynthesisSettings(gpst=GPSTSettings(GREEDY, GREEDY, guards=None), prompt_seconds=1.0)
    wanted = request(stored, "speaker_transfer")
    made = [
        load(stored / "exports" / name, settings=settings, report=lambda line: None)
        .generate([wanted])[0]
        .frames
        for name in ("gpst_hf", "gpst_params")
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.slow
def test_weights_may_be_divided_among_devices(stored, synthesizer):
    """The codes are those of one device; no device holds all of the largest weights."""
    wanted = request(stored, "speaker_transfer")
    (expected,) = synthesizer("gpst", greedy=True).generate([wanted])
    mesh = sharding.make_mesh(MeshConfig(1, 1, 2), jax.devices()[:2])
    settings = SynthesisSettings(gpst=GPSTSettings(GREEDY, GREEDY, guards=None), prompt_seconds=1.0)
    with jax.set_mesh(mesh):
        model = open_model(stored / "runs" / "gpst", dataset=stored / "tokens", mesh=mesh)
        largest = max(jax.tree.leaves(model.loaded.params), key=lambda leaf: leaf.size)
        assert largest.addressable_shards[0].data.size == largest.size // 2
        (found,) = Synthesizer(model, None, settings, lambda line: None).generate([wanted])
    np.testing.assert_array_equal(found.frames, expected.frames)
