"""Tasks on a run's own dataset, rates by language, and the choice of recipes."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stored_archive import unpack_with_recordings

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.samples import writer
from gpst_jax.samples.items import ItemSet
from gpst_jax.samples.manifest import Sample, read_samples
from gpst_jax.synthesis.models import open_model
from gpst_jax.tasks import demo_list, held_out, languages, multilingual, recipes, run
from gpst_jax.tasks.base import Request
from gpst_jax.tasks.held_out import HeldOutTask

TOY = HeldOutTask(
    name="toy",
    source="these tests",
    rule="two recordings",
    modes={"gpst": ("semantic_to_acoustic",)},
    items=2,
    unseen_items=1,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def request_(stored) -> Request:
    return Request(dataset=stored / "tokens", audio_dir=stored / "recordings")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(
        writer,
        "ProcessPoolExecutor",
        lambda workers, mp_context, **options: ThreadPoolExecutor(1, **options),
    )


def test_the_items_are_counted_and_named_by_a_digest(stored, request_, tmp_path):
    model = open_model(stored / "runs" / "gpst", dataset=stored / "tokens")

    def generate(output, items=None):
        return held_out.generate(
            TOY, model, None, request_, output, items, 1, report=lambda line: None
        )

    found = generate(tmp_path / "all")
    names = {name: len(samples) for name, samples in read_samples(tmp_path / "all").items()}
    assert names["semantic_to_acoustic"] == names["codec"] == names["recording"] == 2
    assert found["count"] == sum(count for name, count in names.items() if "recording" in name)
    assert held_out.describe(tmp_path / "all") == found
    fewer = generate(tmp_path / "one", items=1)
    assert (fewer["count"], len(fewer["sha256"])) == (2, 64)
    assert fewer["sha256"] != found["sha256"]
    settings = json.loads((tmp_path / "all" / "settings.json").read_text())
    assert settings["guards"]  # as `experiments.generate` has them by default


def test_cells_of_studies_score_training_voices_alone(stored, request_, tmp_path):
    model = open_model(stored / "runs" / "gpst", dataset=stored / "tokens")
    quiet = {"items": 1, "workers": 1, "report": lambda line: None}
    held_out.generate(held_out.SEEN_VOICES, model, None, request_, tmp_path, **quiet)
    # The only voice here has no prompt by another.
    assert read_samples(tmp_path).keys() == {"recording", "codec", "semantic_to_acoustic"}


def test_another_corpus_is_not_the_demo(stored):
    spec = DatasetSpec.load(stored / "tokens")
    with pytest.raises(UserError, match=r"is not the corpus of make demo: .* leave out --task"):
        held_out.DEMO.check(stored / "tokens", spec)


def test_the_demo_is_told_by_the_items_that_the_rule_chooses(monkeypatch, stored):
    spec = DatasetSpec.load(stored / "tokens")
    for split, name in (("valid", "VALID"), ("unseen", "UNSEEN")):
        items = ItemSet(stored / "tokens", spec, split, stored)
        monkeypatch.setattr(demo_list, name, frozenset(item.id for item in items.choose(2)))
    monkeypatch.setattr(demo_list, "SENTENCES", frozenset())
    held_out.DEMO.check(stored / "tokens", spec)


def test_hires_needs_16_codebooks(stored):
    with pytest.raises(UserError, match="codebooks, --task=hires is for 16 or more"):
        held_out.HI_RES.check(stored / "tokens", DatasetSpec.load(stored / "tokens"))


def test_what_a_task_does_not_look_at_is_refused(tmp_path):
    options = {"workdir": "none", "output": tmp_path}
    with pytest.raises(UserError, match="--corpus_dir=c: the recordings of demo are under"):
        run.generate("demo", run.Options(**options, corpus_dir="c"))
    with pytest.raises(UserError, match="--audio_dir=a: the recordings of vctk-vc are under"):
        run.generate("vctk-vc", run.Options(**options, audio_dir="a"))


def test_recordings_of_known_languages_get_prompts_of_others(request_, stored):
    chosen = multilingual.choose(request_)
    assert {item.language for item in chosen.items} == {"en"}
    for item in chosen.items:
        assert item.text
        assert (stored / "recordings" / item.source).is_file()
        assert item.prompt is None or item.prompt_speaker != item.speaker
    assert multilingual.choose(request_).sha256 == chosen.sha256


def test_rates_by_language_are_those_counted_by_hand():
    def sample(name, language, speaker):
        return Sample(id=name, speaker=speaker, language=language, text="x", audio=Path(name))

    def counts(words, errors):
        return {
            "words": words, "substitutions": errors, "deletions": 0, "insertions": 0,
            "empty": False, "failed": False,
        }  # fmt: skip

    samples = [sample("a", "en", "s"), sample("b", "en-US", "t"), sample("c", "zh", "s")]
    items = [
        {"id": "a", "errors": counts(4, 1), "further": None},
        {"id": "b", "errors": counts(6, 0), "further": None},
        {"id": "c", "errors": None, "further": {"cer/x": {"errors": counts(5, 2)}}},
    ]
    rates = languages.by_language(
        {"tts": samples}, {"tts": items}, ("wer/x", "cer/x"), resamples=100, seed=0
    )
    assert set(rates["tts"]) == {"en", "zh"}
    assert rates["tts"]["en"]["wer/x"]["value"] == pytest.approx(1 / 10)
    assert rates["tts"]["en"]["wer/x"]["n"] == 2
    assert rates["tts"]["zh"]["cer/x"]["value"] == pytest.approx(2 / 5)
    assert np.ndim(rates["tts"]["en"]["wer/x"]["ci95"]) == 1


def test_recipes_of_the_source_are_left_out_in_a_line_where_they_are_not_at_hand(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("GPST_WHISPER", str(tmp_path))  # holds no model
    chosen, left_out = recipes.choose(("wer/none", "wer/whisper-large-v3-english"), digits=True)
    assert chosen == (DIGITS_RECIPE,)
    assert left_out[0].startswith("wer/none, the recipe of the task's source, is left out")
    assert "wer/whisper-large-v3-english" in left_out[1]
    assert recipes.choose((DIGITS_RECIPE,), digits=True) == ((DIGITS_RECIPE,), ())
