"""SoundStorm and flow matching generate the same conditions, from stored checkpoints."""

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from absl import flags
from absl.testing import flagsaver

from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences.templates import Example
from experiments import generate
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.samples import writer
from gpst_jax.samples.manifest import read_samples

ARCHIVE = Path(__file__).parents[1] / "data" / "stored_2026_11.tar.xz"
RATE = 16_000
UNITS = np.arange(40, dtype=np.int32) % 24  # that the language model answers with: 0.8 s


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Tokens and tiny runs of all families, with noise for recordings."""
    directory = tmp_path_factory.mktemp("stored")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    rng = np.random.default_rng(0)
    for split in ("valid", "unseen"):
        reader = RecordReader(directory / "tokens", split)
        for record in (reader[index] for index in range(len(reader))):
            path = directory / "recordings" / record.source
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = 0.1 * rng.standard_normal(round((record.end + 0.1) * RATE))
            soundfile.write(path, noise, RATE)
    dialogue = {"id": "a/1", "split": "valid", "question_record": "audio/f5/valid_00000"}
    line = json.dumps(dialogue | {"answer_record": "audio/f2/valid_00000"})
    (directory / "dialogue.jsonl").write_text(line + "\n")
    return directory


@pytest.fixture
def run(stored, monkeypatch):
    """Function (family, *flags) that generates in this process; returns what was decoded.

    Units of the language model are fixed: those of an untrained one end with no speech.
    """
    monkeypatch.chdir(stored)  # stored runs name their data relative to it
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, initializer, initargs: ThreadPoolExecutor(
            1, initializer=initializer, initargs=initargs
        ),
    )
    monkeypatch.setattr(SemanticTasks, "read_aloud", lambda self, texts, _: [UNITS] * len(texts))
    reply = Example(transcript="q", answer_text="a", answer_units=tuple(UNITS.tolist()))
    monkeypatch.setattr(SemanticTasks, "converse", lambda self, speech, _: [reply] * len(speech))
    vocode = writer.SampleWriter.vocode

    def generated(family: str, *arguments: str) -> dict[str, dict[str, np.ndarray]]:
        decoded: dict[str, dict[str, np.ndarray]] = {}

        def spy(self, condition, codes):
            decoded.setdefault(condition, {}).update(codes)
            vocode(self, condition, codes)

        monkeypatch.setattr(writer.SampleWriter, "vocode", spy)
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            flags.FLAGS(
                [
                    "generate",
                    f"--workdir=runs/{family}",
                    "--audio_dir=recordings",
                    "--items=2",
                    "--unseen_items=0",
                    "--prompt_seconds=1",
                    *arguments,
                ]
            )
            assert generate.main(["generate"]) == 0
        return decoded

    return generated


def test_soundstorm_runs_every_task(run, stored, tmp_path, capsys):
    arguments = ("soundstorm", "--lm_workdir=runs/lm", "--dialogue=dialogue.jsonl")
    arguments += (f"--output={tmp_path}", "--soundstorm_steps=2")
    decoded = run(*arguments)

    conditions = read_samples(tmp_path)
    assert set(conditions) == {"recording", "codec", "tts", "voice_conversion", "dialogue"}
    for name in ("tts", "voice_conversion", "dialogue"):
        for sample in conditions[name]:
            codes = decoded[name][sample.id]
            assert codes.dtype == np.int32
            source = decoded["codec"].get(sample.id) if name == "voice_conversion" else None
            # The first codebook is semantic: what is said is exactly what was given.
            np.testing.assert_array_equal(codes[0], UNITS if source is None else source[0])
            seconds = soundfile.info(sample.audio).duration
            assert seconds == pytest.approx(codes.shape[1] / 50, abs=0.03)
            assert sample.prompt_audio.exists()
    assert conditions["dialogue"][0].answer_text == "a"

    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["soundstorm"] == {"steps": 2, "temperature": 1.0, "top_share": 0.3}
    assert "flow" not in settings
    run(*arguments)
    assert "voice_conversion: 2 samples are there" in capsys.readouterr().out
    with pytest.raises(UserError, match="differ in soundstorm"):
        run(*arguments, "--soundstorm_temperature=0")


def test_flow_keeps_its_settings(run, tmp_path):
    arguments = ("--modes=voice_conversion", f"--output={tmp_path}", "--solver=euler")
    decoded = run("flow", *arguments, "--flow_steps=2")
    assert all(latents.dtype == np.float32 for latents in decoded["voice_conversion"].values())
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert list(settings) == [
        *("step", "lm_step", "dataset", "tasks", "items", "unseen_items", "sentences"),
        *("prompt_seconds", "text", "units", "flow", "batch_size", "seed", "workers"),
    ]
    assert settings["flow"] == {
        "solver": "euler",
        "steps": 2,
        "guidance": 0.0,
        "temperature": 1.0,
    }


@pytest.mark.parametrize(
    ("family", "flag", "message"),
    [
        ("soundstorm", "--flow_steps=16", "^--flow_steps: .*'flow'.*'soundstorm'"),
        ("soundstorm", "--guidance=0", "^--guidance: "),
        ("soundstorm", "--solver=euler", "^--solver: "),
        ("soundstorm", "--flow_temperature=1", "^--flow_temperature: "),
        ("flow", "--soundstorm_steps=8", "^--soundstorm_steps: "),
        ("flow", "--soundstorm_temperature=1", "^--soundstorm_temperature: "),
        ("soundstorm", "--modes=tts", "give --lm_workdir"),
        ("lm", "--dataset=tokens", "'semantic_lm' generates no audio"),
    ],
)
def test_what_does_not_fit_the_family_is_named(run, tmp_path, family, flag, message):
    with pytest.raises(UserError, match=message):
        run(family, f"--output={tmp_path / 'samples'}", flag)
    assert not (tmp_path / "samples").exists()
