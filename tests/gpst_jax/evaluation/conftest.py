"""Synthesised digit strings, and toy audio that toy models decode exactly."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gpst_jax.evaluation.metrics import mos, registry, speaker, wer
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe

SAMPLE_RATE = 16000
SYMBOL = 1600  # samples of one toy word

# A process holds one synthesiser, and another test may use it, so this one gets its own process.
_SPEAK = """
import json, sys, soundfile, soxr
from data_pipeline.synthetic.espeak import Espeak
espeak = Espeak()
for path, text, voice in json.load(sys.stdin):
    wav = soxr.resample(espeak.synthesize(text, voice), espeak.sample_rate, 16000)
    soundfile.write(path, wav, 16000)
"""


@pytest.fixture(scope="session")
def spoken_digits(tmp_path_factory):
    """Files of spoken digit strings: a list of (path, text, voice), two voices in turn."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("spoken")
    rng = np.random.default_rng(0)
    spoken = []
    for i in range(10):
        text = " ".join(rng.choice(wer.DIGITS, 5))
        voice = ("en-us+klatt4", "en-us+f2")[i % 2]
        spoken.append((str(folder / f"{i}.wav"), text, voice))
    root = Path(registry.__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", _SPEAK], input=json.dumps(spoken), text=True, cwd=root, check=True
    )
    return [(Path(path), text, voice) for path, text, voice in spoken]


def toy_sound(path, words, voice):
    """Writes toy audio: one level for the voice (an angle in 0..1), then one per word."""
    levels = [voice / 2 + 0.25, *((wer.DIGITS.index(word) + 1) / 20 for word in words.split())]
    wav = np.repeat(np.asarray(levels, np.float32), SYMBOL)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, SAMPLE_RATE)


def _levels(wav):
    return wav.reshape(-1, SYMBOL).mean(axis=1)


def _toy_transcriber():
    return lambda wav: " ".join(wer.DIGITS[round(v * 20) - 1] for v in _levels(wav)[1:])


def _toy_encoder():
    def embed(wav):
        angle = (_levels(wav)[0] - 0.25) * np.pi
        return [float(np.cos(angle)), float(np.sin(angle))]

    return embed


def _toy_scorer():
    return lambda wav: {"ovrl_mos": 3.0, "sig_mos": 3.0, "bak_mos": 3.0, "p808_mos": 4.0}


@pytest.fixture(scope="module")
def toy_recipes():
    """Registers recipes that decode toy audio."""
    with pytest.MonkeyPatch.context() as patch:
        _register_toys(patch)
        yield


def _register_toys(monkeypatch):

    def register(module, recipe_class, id_, kind, load, **fields):
        measurement = Measurement(f"toy/{kind}", 1, SAMPLE_RATE, (), load)
        texts = {"model": "toy", "normalisation": "none", "aggregation": "mean"}
        made = recipe_class(id=id_, kind=kind, measurement=measurement, **texts, **fields)
        monkeypatch.setitem(module.RECIPES, id_, made)

    transcripts = {"text_kinds": ("digits",), "normalise": wer.normalise_digits}
    register(wer, wer.TranscriptRecipe, "wer/toy", "wer", _toy_transcriber, **transcripts)
    register(speaker, Recipe, "sim-o/toy", "similarity", _toy_encoder)
    register(mos, mos.OpinionRecipe, "mos/toy", "mos", _toy_scorer, output="ovrl_mos")


@pytest.fixture(scope="module")
def toy_settings(toy_recipes):
    """Settings that choose the toy recipes."""
    return {"wer": ("wer/toy",), "similarity": "sim-o/toy", "mos": ("mos/toy",)}


def write_manifest(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")


VOICES = {"anna": 0.0, "bert": 0.9}


@pytest.fixture
def toy_samples(tmp_path):
    """A directory of toy samples, see `write_toy_samples`."""
    return write_toy_samples(tmp_path / "samples")


@pytest.fixture(scope="module")
def toy_samples_of_module(tmp_path_factory):
    """The same for tests that leave them as they are."""
    return write_toy_samples(tmp_path_factory.mktemp("toys") / "samples")


def write_toy_samples(root):
    """Four conditions of 12 toy utterances with errors that can be counted by hand.

    recording: no errors. codec: every sixth utterance has one of its four words wrong.
    speaker_transfer: as codec, in the prompt's voice except every fourth one; one file is
    missing. unconditional: six pairs, one of which differs in one of four words.
    """
    texts = [" ".join(wer.DIGITS[(i + k) % 10] for k in range(4)) for i in range(12)]
    rows = {name: [] for name in ("recording", "codec", "speaker_transfer", "unconditional")}
    for name, voice in VOICES.items():
        toy_sound(root / "originals" / f"{name}_prompt.wav", "one two", voice)
        toy_sound(root / "originals" / f"{name}_other.wav", "three four", voice)
    for i, text in enumerate(texts):
        speaker, other = ("anna", "bert") if i % 2 else ("bert", "anna")
        wrong = text if i % 6 else " ".join(["nine" if i == 0 else "zero", *text.split()[1:]])
        toy_sound(root / "originals" / f"{i}.wav", text, VOICES[speaker])
        base = {"id": f"u{i}", "text": text, "text_kind": "digits", "speaker": speaker}
        base |= {"source_audio": f"../originals/{i}.wav"}
        own = {"prompt_speaker": speaker, "prompt_audio": f"../originals/{speaker}_prompt.wav"}
        for name in ("recording", "codec"):
            toy_sound(
                root / name / f"{i}.wav", text if name == "recording" else wrong, VOICES[speaker]
            )
            rows[name].append(base | own | {"audio": f"{i}.wav"})
        if i != 5:
            voice = VOICES[speaker if i % 4 == 0 else other]
            toy_sound(root / "speaker_transfer" / f"{i}.wav", wrong, voice)
        moved = {"prompt_speaker": other, "prompt_audio": f"../originals/{other}_prompt.wav"}
        moved["prompt_reference_audio"] = f"../originals/{other}_other.wav"
        moved["prompt_reference_codec_audio"] = f"../originals/{other}_other.wav"
        rows["speaker_transfer"].append(base | moved | {"audio": f"{i}.wav"})
        sung = texts[i // 2] if i != 1 else " ".join(["five", *texts[0].split()[1:]])
        toy_sound(root / "unconditional" / f"{i}.wav", sung, 0.5)
        free = {"id": f"r{i}", "audio": f"{i}.wav", "text": None, "text_kind": "digits"}
        rows["unconditional"].append(free | {"speaker": "unknown", "pair": f"p{i // 2}"})
    for name, lines in rows.items():
        write_manifest(root / name, lines)
    return root
