"""Every task of SpeechGPT-Gen with either perceptual stage, from stored checkpoints."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences.templates import Example
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.config import ConfigError
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.samples import writer
from gpst_jax.samples.coig import CoIGConfig, CoIGSamples
from gpst_jax.samples.manifest import read_samples

UNITS = np.arange(40, dtype=np.int32) % 24  # what the language model answers with: 0.8 s


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    dialogue = {"id": "a/1", "split": "valid", "question_record": "audio/f5/valid_00000"}
    line = json.dumps(dialogue | {"answer_record": "audio/f2/valid_00000"})
    (directory / "dialogue.jsonl").write_text(line + "\n")
    return directory


@pytest.fixture
def generate(stored, monkeypatch):
    """Function (family, output, **config) -> what was decoded, by condition and name.

    Answers of the language model are fixed: an untrained one hardly ever ends its text.
    """
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
    )
    monkeypatch.setattr(SemanticTasks, "read_aloud", lambda self, texts, _: [UNITS] * len(texts))
    reply = Example(transcript="q", answer_text="a", answer_units=tuple(UNITS.tolist()))
    monkeypatch.setattr(SemanticTasks, "converse", lambda self, speech, _: [reply] * len(speech))
    vocode, decoded = writer.SampleWriter.vocode, {}

    def spy(self, condition, codes):
        decoded.setdefault(condition, {}).update(codes)
        vocode(self, condition, codes)

    monkeypatch.setattr(writer.SampleWriter, "vocode", spy)

    def run(family: str, output: Path, report=print, language: bool = True, **config):
        decoded.clear()
        tokens = stored / "tokens"
        lm = (load_params(stored / "runs" / "lm"), stored / "sequences") if language else None
        CoIGSamples(
            load_params(stored / "runs" / family),
            lm,
            tokens,
            DatasetSpec.load(tokens),
            stored / "recordings",
            output,
            str(stored / "dialogue.jsonl"),
            CoIGConfig(items=2, unseen_items=0, prompt_seconds=1.0, **config),
            report,
        ).run()
        return dict(decoded)

    return run


def test_soundstorm_runs_every_task_and_resumes(generate, tmp_path):
    settings, lines = SoundStormSettings(2), []
    decoded = generate("soundstorm", tmp_path, lines.append, perceptual=settings)
    conditions = read_samples(tmp_path)
    assert set(conditions) == {"recording", "codec", "tts", "voice_conversion", "dialogue"}
    for name in ("tts", "voice_conversion", "dialogue"):
        for sample in conditions[name]:
            codes = decoded[name][sample.id]
            assert codes.dtype == np.int32
            # The first codebook is semantic: it is the units that were given.
            source = decoded["codec"][sample.id][0] if name == "voice_conversion" else UNITS
            np.testing.assert_array_equal(codes[0], source)
            seconds = soundfile.info(sample.audio).duration
            assert seconds == pytest.approx(codes.shape[1] / 50, abs=0.03)
            assert sample.prompt_audio.exists()
    assert conditions["dialogue"][0].answer_text == "a"

    stored_settings = json.loads((tmp_path / "settings.json").read_text())
    assert stored_settings["soundstorm"] == {"steps": 2, "temperature": 1.0, "top_share": 0.3}
    assert not {"flow", "perceptual"} & set(stored_settings)
    assert generate("soundstorm", tmp_path, lines.append, perceptual=settings) == {}
    assert lines[-1] == "dialogue: 1 samples are there"
    with pytest.raises(UserError, match="differ in flow, soundstorm"):
        generate("flow", tmp_path)
    models = tmp_path / "models.json"
    held = json.loads(models.read_text())
    assert set(held) == {"stage", "language"}
    models.write_text(json.dumps(held | {"language": "0" * 32}))  # of another run
    with pytest.raises(UserError, match=r"samples of other parameters are there \(language\)"):
        generate("soundstorm", tmp_path, lines.append, perceptual=settings)
    models.unlink()  # of an older version
    assert generate("soundstorm", tmp_path, lines.append, perceptual=settings) == {}


def test_flow_keeps_the_settings_of_old_directories(generate, tmp_path):
    settings = FlowSettings("euler", 2)
    decoded = generate("flow", tmp_path, tasks=("voice_conversion",), perceptual=settings)
    assert all(latents.dtype == np.float32 for latents in decoded["voice_conversion"].values())
    stored_settings = json.loads((tmp_path / "settings.json").read_text())
    assert list(stored_settings) == [
        *("step", "lm_step", "dataset", "tasks", "items", "unseen_items", "sentences"),
        *("prompt_seconds", "text", "units", "flow", "batch_size", "seed", "workers"),
    ]
    expected = {"solver": "euler", "steps": 2, "guidance": 0.0, "temperature": 1.0}
    assert stored_settings["flow"] == expected


def test_what_does_not_fit_is_named(generate, tmp_path):
    with pytest.raises(UserError, match="give --lm_workdir"):
        generate("soundstorm", tmp_path, language=False, perceptual=SoundStormSettings())
    with pytest.raises(ConfigError, match=r"'soundstorm' is not the family .* FlowConfig"):
        generate("soundstorm", tmp_path)
    with pytest.raises(ConfigError, match=r"'flow' is not the family .* SoundStormConfig"):
        generate("flow", tmp_path, perceptual=SoundStormSettings())
