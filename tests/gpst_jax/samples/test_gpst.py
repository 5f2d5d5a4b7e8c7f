"""The modes of GPST on held-out recordings, those that add speech or a language model."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stored_archive import unpack_with_recordings

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.evaluation import suite
from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.generation.gpst_requests import Result
from gpst_jax.generation.guards import Guards
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.samples import items, writer
from gpst_jax.samples.coig import CoIGConfig
from gpst_jax.samples.gpst import GPSTSamples
from gpst_jax.samples.gpst_config import DEFAULT_MODES, GenerationConfig, default_modes
from gpst_jax.samples.manifest import read_samples

UNITS = np.arange(40, dtype=np.int32) % 24  # what the language model answers with: 0.8 s


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


def samples(
    stored: Path, output: Path, report, language: bool = True, units: str = "front", **config
) -> GPSTSamples:
    tokens = stored / "tokens"
    lm = (load_params(stored / "runs" / "lm"), stored / "sequences") if language else None
    model = load_params(stored / "runs" / "gpst")
    model = model._replace(config=model.config.override([f"data.units={units}"]))
    return GPSTSamples(
        model,
        tokens,
        DatasetSpec.load(tokens),
        stored / "recordings",
        output,
        GenerationConfig(items=2, unseen_items=0, prompt_seconds=0.5, **config),
        lm,
        report,
    )


def test_texts_and_beginnings_are_spoken(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
    )
    nothing = np.zeros(0, np.int32)
    monkeypatch.setattr(
        SemanticTasks, "read_aloud", lambda self, texts, _: [UNITS, nothing][: len(texts)]
    )
    modes = ("tts", "speech_continuation")
    counts = samples(
        *(stored, tmp_path, print),
        modes=modes,
        continuation_seconds=0.6,
    ).run()
    conditions = read_samples(tmp_path)
    assert counts["tts"] == counts["speech_continuation"] == 2

    first, second = conditions["tts"]
    assert first.text
    assert first.source_audio is None
    assert first.speaker == first.prompt_speaker
    assert first.prompt_audio.exists()
    assert 0 < soundfile.info(first.audio).duration <= 0.83
    assert not second.audio.exists()  # nothing was said: evaluation counts it as failed

    for sample in conditions["speech_continuation"]:
        assert sample.text is None
        assert sample.source_audio.exists()
        assert 0.48 <= soundfile.info(sample.audio).duration <= 1.13

    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["lm_step"], settings["continuation_seconds"]) == (4, 0.6)


def test_guards_that_fired_are_reported_as_a_rate(stored, tmp_path, monkeypatch):
    lines: list[str] = []
    made = samples(stored, tmp_path, lines.append, guards=Guards())
    nothing = np.zeros(0, np.int32), np.zeros((2, 0), np.int32)
    endings = ("end", "guard:silence", "length", "guard:collapse", "guard:silence")
    results = [Result(*nothing, "given", ending, 0.0, 0.0) for ending in endings]
    monkeypatch.setattr(made.decoder, "decode", lambda requests, **options: results)
    assert made._sample("transfer", [None] * 5) == results
    assert lines == ["transfer: guards ended 3 of 5 (collapse 1, silence 2)"]


def test_settings_of_older_directories_stay_what_they_are():
    names = GenerationConfig().provenance()
    assert list(names) == [
        *("modes", "items", "unseen_items", "prompt_seconds", "unconditional_seconds"),
        *("semantic", "acoustic", "batch_size", "seed", "workers"),
    ]


@pytest.mark.parametrize(("sentences", "expected"), [(None, 2), (0, 0), (7, 7)])
def test_a_fifth_more_are_sentences_unless_a_number_is_given(
    stored, tmp_path, monkeypatch, sentences, expected
):
    made = samples(stored, tmp_path, print, modes=(), sentences=sentences)
    made.config = dataclasses.replace(made.config, items=10)
    asked = []
    monkeypatch.setattr(made.writer, "splits", lambda *sizes: asked.append(sizes) or iter(()))
    made.run()
    assert asked == [(10, 0, expected)]


def test_what_does_not_fit_is_named(stored, tmp_path):
    with pytest.raises(UserError, match="tts needs a language model: give --lm_workdir"):
        samples(stored, tmp_path, print, language=False, modes=("tts",))
    with pytest.raises(UserError, match="--mode: unknown 'sing'; choose from unconditional"):
        GenerationConfig(modes=("sing",))


def test_without_units_speech_is_of_unknown_words(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
    )
    data = load_params(stored / "runs" / "gpst").config.data
    assert default_modes(data, True) == (*DEFAULT_MODES, "tts")
    data = dataclasses.replace(data, units="none")
    modes = default_modes(data, True)
    assert modes == ("unconditional", "continuation")
    made = samples(
        *(stored, tmp_path, print),
        language=False,
        units="none",
        modes=(*modes, "speech_continuation"),
        unconditional_seconds=0.5,
        continuation_seconds=0.6,
    )
    counts = made.run()
    assert counts["unconditional"] == 2
    conditions = read_samples(tmp_path)
    for name in (*modes, "speech_continuation"):
        for sample in conditions[name]:
            assert sample.text is None
            assert sample.pair is None
            assert soundfile.info(sample.audio).duration > 0
    assert {one.ended_by for one in conditions["unconditional"]} <= {"end", "length"}
    whole = {sample.id: soundfile.info(sample.audio) for sample in conditions["codec"]}
    for sample in conditions["continuation"]:  # the rest of the recording, to the frame
        assert soundfile.info(sample.audio).frames == whole[sample.id].frames
    metrics = registry.configure(wer=(DIGITS_RECIPE,), similarity_items=0, mos_items=0, wer_items=2)
    results, _ = suite.evaluate(
        tmp_path, suite.EvaluationConfig(metrics, processes=1), show_progress=False
    )
    assert results["modes"]["unconditional"][DIGITS_RECIPE]["value"] is None

    with pytest.raises(UserError, match="--mode=semantic_to_acoustic renders units"):
        samples(stored, tmp_path, print, language=False, units="none")


def test_content_and_voice_may_be_of_different_languages(stored, tmp_path, monkeypatch):
    """Every speaker speaks both; the prompt is by another one, and holds the other language."""

    class Reader(RecordReader):
        def __getitem__(self, index):
            language = ("en", "de")[index % 2]
            return dataclasses.replace(super().__getitem__(index), language=language)

    monkeypatch.setattr(items, "RecordReader", Reader)
    spec = DatasetSpec.load(stored / "tokens")
    made = writer.SampleWriter(
        *(stored / "tokens", spec, stored / "recordings", tmp_path),
        provenance={}, seed=0, workers=1, languages=("en", "de"), report=print,
    )  # fmt: skip
    ((of_items, chosen, _),) = made.splits(4, 0)
    assert chosen
    assert {item.language for item in chosen} == {"en"}
    prompts = [made.prompt(of_items, item, 0.5) for item in chosen]
    for item, prompt in zip(chosen, prompts, strict=True):
        assert prompt.speaker != item.speaker
        assert {segment.language for segment in prompt.segments} == {"de"}


def test_languages_are_in_the_settings_where_they_are_chosen():
    assert GenerationConfig(languages=("de", "en")).provenance()["languages"] == ("de", "en")
    assert "languages" not in GenerationConfig().provenance()
    assert "languages" not in CoIGConfig().provenance()
