"""Evaluation items: short recordings are joined, long ones cut, and nothing is left out."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.audio.io import write_audio
from data_pipeline.datasets.token_records import Record
from data_pipeline.tokens import TokenLayout
from gpst_jax.samples import items as items_module
from gpst_jax.samples.items import Item, ItemSet, Segment

RATE = 16_000


@dataclasses.dataclass
class _Silence:
    seconds: float = 0.1


class _Spec:
    sample_rate = RATE
    silence = _Silence()

    def layout(self) -> TokenLayout:
        return TokenLayout(10, 2, 8, unit_rate=50, frame_rate=75)


def record(name: str, speaker: str, seconds: float, text: str | None) -> Record:
    units = np.arange(round(seconds * 50)) % 10
    codes = np.tile(np.arange(round(seconds * 75)) % 8, (2, 1))
    return Record(name, f"{name}.wav", speaker, "en", text, 0.0, seconds, units, codes)


@pytest.fixture
def make_items(monkeypatch, tmp_path):
    def make(records: list[Record], **options) -> ItemSet:
        monkeypatch.setattr(items_module, "RecordReader", lambda directory, split: records)
        return ItemSet("unused", _Spec(), "valid", tmp_path, **options)

    return make


def all_seconds(items: ItemSet) -> float:
    return sum(item.seconds for item in items.all)


def test_short_recordings_are_joined_with_their_words(make_items):
    records = [record(f"r{i}", "ann", 0.4, word) for i, word in enumerate(["one", "two", "six"])]
    items = make_items(records, min_seconds=1.0)
    assert [item.text for item in items.all] == ["one two six"]
    assert items.all[0].text_kind == "digits"


def test_a_short_rest_is_not_left_out(make_items):
    records = [record(f"r{i}", "ann", 0.6, "one") for i in range(5)]
    items = make_items(records, min_seconds=1.0)
    assert all_seconds(items) == pytest.approx(3.0)
    assert [len(item.segments) for item in items.all] == [2, 3]


def test_long_recordings_are_cut_without_text(make_items):
    items = make_items([record("r", "ann", 11.0, "some words")], max_seconds=5.0)
    assert len(items.all) == 3
    assert all(item.text is None for item in items.all)
    assert all_seconds(items) == pytest.approx(11.0)
    units = np.concatenate([item.segments[0].part[0] for item in items.all])
    np.testing.assert_array_equal(units, np.arange(550) % 10)
    for item in items.all:
        segment_units, codes = item.segments[0].part
        assert abs(codes.shape[1] - 1.5 * len(segment_units)) <= 1.5


def test_digit_strings_are_chosen_first_and_speakers_evenly(make_items):
    records = [record(f"a{i}", "ann", 1.0, "one two") for i in range(6)]
    records += [record(f"b{i}", "bob", 1.0, "three") for i in range(6)]
    records += [record("c", "bob", 1.0, "a sentence")]
    chosen = make_items(records).choose(8)
    assert {item.text_kind for item in chosen} == {"digits"}
    assert sorted(item.speaker for item in chosen) == ["ann"] * 4 + ["bob"] * 4


def test_sentences_are_chosen_where_the_rest_are_digit_strings(make_items):
    records = [record(f"d{i}", "ann", 2.0, "one two") for i in range(6)]
    records += [record(f"s{i}", f"speaker{i % 2}", 2.0, f"a river {i}") for i in range(6)]
    records.append(record("none", "ann", 2.0, None))
    items = make_items(records)
    chosen = items.choose_sentences(4)
    assert [item.speaker for item in chosen] == ["speaker0", "speaker1"] * 2
    assert all(item.text_kind == "free" and item.text for item in chosen)
    assert not {item.id for item in chosen} & {item.id for item in items.choose(10)}
    assert items.choose_sentences(0) == []
    assert make_items(records[6:]).choose_sentences(4) == []  # then `choose` takes them


def test_prompt_has_the_length_asked_for_or_is_empty(make_items):
    items = make_items([record(f"a{i}", "ann", 1.4, "one") for i in range(3)])
    own = items.others("ann", [], "key")
    prompt = items.prompt(own, 3.0)
    assert sum(segment.end - segment.start for segment in prompt) == pytest.approx(3.0, abs=0.02)
    assert prompt[-1].text is None
    assert items.prompt(own, 9.0) == []
    kept = items.others("ann", [own[0].id], "key")
    assert own[0].id not in {item.id for item in kept}
    assert len(kept) == 2


def test_audio_is_the_recordings_with_silence_between(make_items, tmp_path):
    wav = np.sin(np.arange(RATE) * 0.05).astype(np.float32) * 0.5
    write_audio(tmp_path / "r.wav", wav, RATE)
    items = make_items([record("r", "ann", 1.0, "one")])
    part = items.all[0].segments[0].part
    pieces = [Segment("r.wav", 0.0, 0.5, part, None), Segment("r.wav", 0.5, 1.0, part, None)]
    audio = items.audio(pieces)
    half, gap = RATE // 2, round(0.1 * RATE)
    assert len(audio) == 2 * half + gap
    np.testing.assert_allclose(audio[:half], wav[:half], atol=1e-3)
    assert not audio[half : half + gap].any()
    np.testing.assert_allclose(audio[half + gap :], wav[half:], atol=1e-3)


def test_text_kind_needs_digits_only():
    def kind(text: str | None) -> str:
        part = (np.zeros(1, int), np.zeros((2, 1), int))
        return Item("id", "ann", (Segment("s", 0, 1, part, text),)).text_kind

    assert kind("one two NINE") == "digits"
    assert kind("one apple") == "free"
    assert kind(None) == "free"


def test_items_of_one_language(make_items):
    records = [record(f"e{i}", "ann", 1.2, "one two") for i in range(3)]
    records += [
        dataclasses.replace(record(f"d{i}", speaker, 1.2, "drei vier"), language="de")
        for i, speaker in enumerate(("ann", "bob"))
    ]
    german = make_items(records, language="de")
    assert german.speakers == ["ann", "bob"]
    assert {item.language for item in german.all} == {"de"}
    assert {item.text_kind for item in german.all} == {"digits"}
    assert make_items(records, language="en").speakers == ["ann"]
    assert len(make_items(records).all) == 5
