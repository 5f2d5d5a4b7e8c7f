"""A manifest goes on where it was interrupted: what is there and would be the same is kept."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.synthesis.files import SpeechFiles
from gpst_jax.synthesis.fingerprints import fingerprints
from gpst_jax.synthesis.requests import SpeechRequest
from gpst_jax.synthesis.synthesizer import Speech

RATE = 16_000
NOTHING = np.zeros(0, int), np.zeros((2, 0), int)


def speech(name: str, samples: int) -> Speech:
    request = SpeechRequest(mode="unconditional", id=name)
    wav = np.full(samples, 0.1, np.float32)
    return Speech(request, wav, RATE, *NOTHING, {"id": name, "seconds": samples / RATE})


def test_results_are_kept_where_the_audio_and_the_fingerprint_are(tmp_path):
    prints = {name: f"print of {name}" for name in "abcd"}
    SpeechFiles(tmp_path, single=False).write([speech("a", 800), speech("b", 0)], prints)
    SpeechFiles(tmp_path, single=False).write([speech("c", 800), speech("d", 800)], prints)
    (tmp_path / "d.wav").unlink()
    files = SpeechFiles(tmp_path, single=False)
    assert list(files.kept(prints)) == ["a", "b", "c"]  # nothing was said in b: there is no audio
    assert list(files.kept({"a": "another", "c": prints["c"]})) == ["c"]
    made = files.write([speech("d", 400)], prints)
    lines = [json.loads(line) for line in files.results.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    assert lines[3] == made[0]
    assert lines[3]["seconds"] == 400 / RATE


def test_results_without_fingerprints_are_made_again(tmp_path):
    files = SpeechFiles(tmp_path, single=False)
    files.write([speech("a", 800)])
    assert files.kept({"a": "print"}) == {}


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}'])
def test_results_that_are_none_are_named(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"results.jsonl line 1: no result: delete the file"):
        SpeechFiles(tmp_path, single=False)


def test_a_fingerprint_is_of_all_that_speech_depends_on(tmp_path):
    for name in ("what.wav", "who.wav"):
        (tmp_path / name).write_bytes(name.encode())
    request = SpeechRequest(
        mode="speaker_transfer", source=tmp_path / "what.wav", prompt=tmp_path / "who.wav"
    )
    model = SimpleNamespace(params={"kernel": jnp.arange(6.0)})

    def of(request, recipe="recipe", model=model) -> str:
        return fingerprints([request], {"settings": recipe}, [model])["speech"]

    first = of(request)
    assert of(dataclasses.replace(request, where="line 3")) == first
    elsewhere = tmp_path / "copy.wav"
    elsewhere.write_bytes(b"what.wav")
    assert of(dataclasses.replace(request, source=elsewhere)) == first
    trained = SimpleNamespace(params={"kernel": jnp.arange(6.0).at[2].add(1e-3)})
    others = [
        of(dataclasses.replace(request, seed=1)),
        of(dataclasses.replace(request, mode="continuation")),
        of(dataclasses.replace(request, source=request.prompt, prompt=request.source)),
        of(request, recipe="another"),
        of(request, model=trained),
    ]
    assert len({first, *others}) == 6
    with pytest.raises(UserError, match=r"^line 2: source=.*gone.wav: cannot be read: No such"):
        of(dataclasses.replace(request, source=Path(tmp_path / "gone.wav"), where="line 2"))
