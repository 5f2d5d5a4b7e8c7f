"""The synthesised corpus is reproducible, resumable and a valid folder source."""

import csv
import dataclasses

import numpy as np
import pytest
import soundfile

from data_pipeline import synthesize_corpus as program
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource
from data_pipeline.synthesize_corpus import (
    TRAIN_VOICES,
    UNSEEN_VOICES,
    CorpusConfig,
    plan_corpus,
    synthesize_corpus,
)
from data_pipeline.synthetic.languages import LANGUAGES
from data_pipeline.synthetic.questions import DIGITS

TINY = CorpusConfig(utterances_per_voice=2, valid_per_voice=0, unseen_per_voice=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    directory = tmp_path_factory.mktemp("corpus")
    synthesize_corpus(directory, TINY, num_workers=2)
    return directory


def read(directory) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*.flac")}


def test_plan_of_the_default_corpus_has_the_promised_sizes():
    items = plan_corpus(CorpusConfig())
    assert len({item.path for item in items}) == len(items) == 5990
    valid = [i for i in items if i.split == "valid" and i.text_kind == "digits"]
    assert len(valid) >= 230
    assert len({item.voice for item in items if item.split == "train"}) >= 10
    assert {i.voice for i in items if i.split == "unseen"} == set(UNSEEN_VOICES)
    assert not set(UNSEEN_VOICES) & set(TRAIN_VOICES)
    for item in items:
        words = item.text.split()
        if item.text_kind == "digits":
            assert (3 if item.split == "train" else 4) <= len(words) <= 7
            assert set(words) <= set(DIGITS)
        else:
            assert not set(words) & set(DIGITS)
    free = sum(item.text_kind == "free" for item in items) / len(items)
    assert 0.08 < free < 0.16


def test_no_digit_string_of_validation_is_in_training():
    items = plan_corpus(CorpusConfig(utterances_per_voice=2000))
    texts = {
        split: {i.text for i in items if i.split == split and i.text_kind == "digits"}
        for split in ("train", "valid", "unseen")
    }
    assert not texts["train"] & (texts["valid"] | texts["unseen"])


def test_texts_depend_on_the_seed_only():
    assert plan_corpus(TINY) == plan_corpus(TINY)
    assert plan_corpus(TINY) != plan_corpus(dataclasses.replace(TINY, seed=1))


def test_corpus_is_a_folder_source_of_16_khz_speech(corpus):
    utterances, failures = FolderSource(corpus, corpus / "manifest.csv").list()
    assert failures == []
    assert len(utterances) == 2 * len(TRAIN_VOICES) + len(UNSEEN_VOICES)
    assert {u.split for u in utterances} == {"train", "unseen"}
    assert all(u.language == "en" and u.text for u in utterances)
    for utterance in utterances:
        wav, rate = soundfile.read(utterance.path, dtype="float32")
        assert rate == 16_000
        assert 0.8 < len(wav) / rate < 4.0
        assert 0.01 < np.std(wav) < 0.5
    with (corpus / "manifest.csv").open(newline="") as file:
        kinds = {row["text_kind"] for row in csv.DictReader(file)}
    assert kinds <= {"digits", "free"}


def test_voices_differ(corpus):
    first = {p.parent.name: p.read_bytes() for p in corpus.rglob("train_00000.flac")}
    assert len(set(first.values())) == len(first) == len(TRAIN_VOICES)


def test_what_is_missing_is_made_again_byte_for_byte(corpus):
    before = read(corpus)
    (corpus / "audio/f2/train_00001.flac").unlink()
    (corpus / "audio/klatt4/train_00000.flac").unlink()
    result = synthesize_corpus(corpus, TINY, num_workers=1)
    assert result["chunks_done_before"] == result["chunks"] - 2
    assert read(corpus) == before
    again = synthesize_corpus(corpus, TINY, num_workers=1)
    assert again["chunks_done_before"] == again["chunks"]


def test_a_directory_of_another_corpus_or_that_cannot_be_written_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="another --output"):
        synthesize_corpus(corpus, dataclasses.replace(TINY, seed=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        synthesize_corpus(tmp_path / "file" / "corpus", TINY)


def test_every_voice_speaks_every_language(tmp_path, monkeypatch):
    """English is what it is alone; the other texts are in words of their own language."""
    pytest.importorskip("espeakng_loader")
    config = dataclasses.replace(TINY, utterances_per_voice=9, languages=("de", "en", "es"))
    alone = dataclasses.replace(config, languages=("en",))
    items = plan_corpus(config)
    assert [item for item in items if item.language == "en"] == plan_corpus(alone)
    assert len({item.path for item in items}) == len(items) == 3 * len(plan_corpus(alone))
    for code, language in LANGUAGES.items():
        texts = {
            kind: [i.text for i in items if i.language == code and i.text_kind == kind]
            for kind in ("digits", "free")
        }
        assert {word for text in texts["digits"] for word in text.split()} <= set(language.digits)
        assert not {word for text in texts["free"] for word in text.split()} & set(language.digits)
        held = {i.text for i in items if i.language == code and i.split == "unseen"}
        assert held.isdisjoint(i.text for i in items if i.language == code and i.split == "train")

    chosen = [i for i in items if i.voice.name == "f2" and i.path.endswith("train_00000.flac")]
    monkeypatch.setattr(program, "plan_corpus", lambda config: chosen)
    synthesize_corpus(tmp_path, config, num_workers=1)
    utterances, failures = FolderSource(tmp_path, tmp_path / "manifest.csv").list()
    assert failures == []
    assert sorted(u.language for u in utterances) == ["de", "en", "es"]
    assert {u.speaker for u in utterances} == {"f2"}
    for utterance in utterances:
        wav, rate = soundfile.read(utterance.path, dtype="float32")
        assert 0.8 < len(wav) / rate < 5.0
        assert np.std(wav) > 0.01


def test_a_corpus_of_older_versions_goes_on():
    """Their settings name no languages."""
    assert "languages" not in CorpusConfig().settings()
    assert CorpusConfig(languages=("en", "de")).settings()["languages"] == ["en", "de"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"languages": ("en", "xx")}, "--languages=xx: choose from en, de, es"),
        ({"languages": ()}, "--languages=: name each language once"),
        ({"languages": ("en", "en")}, "--languages=en,en: name each language once"),
        ({"languages": ("de",), "questions_per_voice": 1}, "questions are in English: add en"),
    ],
)
def test_languages_that_nobody_speaks_are_refused(fields, reason):
    with pytest.raises(UserError, match=reason):
        CorpusConfig(**fields)
