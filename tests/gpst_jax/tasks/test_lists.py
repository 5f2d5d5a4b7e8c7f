"""The rules that choose items, on made-up corpora of the same layout as the real ones."""

import dataclasses

import numpy as np
import pytest
import soundfile

from data_pipeline.runtime.errors import UserError
from gpst_jax.tasks import demo_list, librispeech, seed_tts, vctk
from gpst_jax.tasks.base import Item, ItemList, Request, by_hash
from gpst_jax.tasks.registry import TASKS, get_task

RATE = 8000


def record(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * RATE), np.float32), RATE)


def make_librispeech(root, speakers=("61", "121", "237"), seconds=(3.9, 4.0, 7.0, 10.0, 10.1)):
    """SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac, with the texts of a chapter in one file."""
    for speaker in speakers:
        folder = root / "test-clean" / speaker / "70"
        for number, length in enumerate(seconds):
            record(folder / f"{speaker}-70-{number:04d}.flac", length)
        lines = [f"{speaker}-70-{n:04d} WORDS {n} OF {speaker}\n" for n in range(len(seconds))]
        (folder / f"{speaker}-70.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def libri(tmp_path_factory):
    return make_librispeech(tmp_path_factory.mktemp("libri"))


def test_gpst_takes_utterances_of_4_to_10_seconds_with_prompts_of_others(libri):
    chosen = librispeech.choose_gpst(Request(corpus_dir=libri))
    assert [item.id for item in chosen.items] == sorted(
        f"{speaker}-70-{number:04d}" for speaker in ("61", "121", "237") for number in (1, 2, 3)
    )
    for item in chosen.items:
        assert item.speaker != item.prompt_speaker
        assert item.prompt.startswith(f"{item.prompt_speaker}/70/{item.prompt_speaker}-70-")
        assert item.text == f"WORDS {int(item.id[-4:])} OF {item.speaker}"
    assert len({item.prompt_speaker for item in chosen.items}) > 1


def test_the_list_is_the_same_wherever_the_corpus_lies(libri, tmp_path):
    here = librispeech.choose_gpst(Request(corpus_dir=libri))
    direct = librispeech.choose_gpst(Request(corpus_dir=libri / "test-clean"))
    moved = librispeech.choose_gpst(Request(corpus_dir=make_librispeech(tmp_path)))
    assert here.sha256 == direct.sha256 == moved.sha256
    assert here.describe() == {"count": 9, "sha256": here.sha256}


def test_other_speakers_leave_the_choice_within_a_speaker(libri, tmp_path):
    """A corpus with one speaker more has the same items; prompts move to that speaker at most."""
    more = make_librispeech(tmp_path, speakers=("61", "121", "237", "999"))
    before = {i.id: i for i in librispeech.choose_gpst(Request(corpus_dir=libri)).items}
    after = {i.id: i for i in librispeech.choose_gpst(Request(corpus_dir=more)).items}
    assert before.keys() < after.keys()
    for name, item in before.items():
        assert after[name].prompt == item.prompt or after[name].prompt_speaker == "999"


def test_an_incomplete_corpus_is_refused(tmp_path):
    root = make_librispeech(tmp_path)
    (root / "test-clean" / "61" / "70" / "61-70-0002.flac").unlink()
    with pytest.raises(UserError, match=r"no 61/70/61-70-0002.flac, which has a text"):
        librispeech.choose_gpst(Request(corpus_dir=root))
    with pytest.raises(UserError, match=r"no SPEAKER/CHAPTER/\*.trans.txt"):
        librispeech.choose_gpst(Request(corpus_dir=tmp_path / "test-clean" / "121"))
    with pytest.raises(UserError, match="needs --corpus_dir"):
        librispeech.choose_gpst(Request())


def pair(prompt, name):
    return f"{prompt}\t4.0\tThe prompt.\t{name}\t7.0\tWhat, then, is said?"


def test_a_cross_sentence_list_is_read_as_it_is_published(libri, tmp_path):
    path = tmp_path / "pairs.lst"
    lines = [pair("61-70-0001", "61-70-0002"), pair("121-70-0003", "121-70-0000")]
    path.write_text("\n".join(lines) + "\n")
    request = Request(corpus_dir=libri, list_file=path)
    chosen = librispeech.choose_cross_sentence(request)
    first, second = chosen.items
    assert first == Item(
        id="61-70-0002",
        speaker="61",
        text="What, then, is said?",
        source="61/70/61-70-0002.flac",
        prompt="61/70/61-70-0001.flac",
        prompt_speaker="61",
        language="en",
    )
    assert second.id == "121-70-0000"  # in the order of the list, not sorted
    assert chosen.describe()["list"]["file"] == "pairs.lst"
    assert len(chosen.describe()["list"]["sha256"]) == 64

    path.write_text(pair("61-70-0001", "61-70-0009") + "\n")
    with pytest.raises(UserError, match=r"1 of 2 recordings are not in .*61-70-0009.flac"):
        librispeech.choose_cross_sentence(request)
    path.write_text("61-70-0001\t4.0\n")
    with pytest.raises(UserError, match=r"line 1: 2 columns, expected 6"):
        librispeech.choose_cross_sentence(request)
    path.write_text("\n".join(lines[:1] * 2))
    with pytest.raises(UserError, match="comes twice"):
        librispeech.choose_cross_sentence(request)
    with pytest.raises(UserError, match="needs --list"):
        librispeech.choose_cross_sentence(Request(corpus_dir=libri))


def test_a_list_of_seed_tts_eval(tmp_path):
    folder = tmp_path / "en"
    for name in ("prompt-wavs/p1.wav", "prompt-wavs/p2.wav", "wavs/p1-t1.wav"):
        record(folder / name, 3.0)
    lines = [
        "p1-t1|Said before.|prompt-wavs/p1.wav|What is said.",
        "p2-t2.wav|Said before.|prompt-wavs/p2.wav|Something else.",
    ]
    (folder / "meta.lst").write_text("\n".join(lines))
    chosen = seed_tts.choose(Request(corpus_dir=tmp_path))
    first, second = chosen.items
    assert (first.id, first.text, first.source) == ("p1-t1", "What is said.", "wavs/p1-t1.wav")
    assert (second.id, second.source) == ("p2-t2", None)  # no recording of that text
    assert {item.speaker for item in chosen.items} == {"p1", "p2"}
    named = seed_tts.choose(Request(list_file=folder / "meta.lst"))
    assert named.sha256 == chosen.sha256

    (folder / "meta.lst").write_text("p1-t1|Said before.|prompt-wavs/none.wav|What is said.")
    with pytest.raises(UserError, match=r"prompt-wavs/none.wav"):
        seed_tts.choose(Request(corpus_dir=tmp_path))
    with pytest.raises(UserError, match=r"holds no meta.lst"):
        seed_tts.choose(Request(corpus_dir=folder / "wavs"))


def make_vctk(root, folder="wav48_silence_trimmed", ending="_mic1.flac"):
    for speaker in ("p225", "p226", "s5"):
        for number in (1, 24, 25, 26, 27, 28):
            seconds = 1.0 if number == 26 else 3.5
            record(root / folder / speaker / f"{speaker}_{number:03d}{ending}", seconds)
            text = root / "txt" / speaker / f"{speaker}_{number:03d}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"Sentence {number} of {speaker}.\n")
    record(root / folder / "p315" / f"p315_025{ending}", 3.5)  # a speaker without texts
    return root


@pytest.mark.parametrize("layout", [(), ("wav48", ".wav")], ids=["0.92", "0.80"])
def test_vctk_converts_sentences_of_their_own_to_other_speakers(tmp_path, layout):
    chosen = vctk.choose(Request(corpus_dir=make_vctk(tmp_path, *layout)))
    assert len(chosen.items) == 6
    assert {item.speaker for item in chosen.items} == {"p225", "p226", "s5"}
    for item in chosen.items:
        assert int(item.id.split("_")[1]) in (25, 27, 28)  # not shared, long enough
        assert item.speaker != item.prompt_speaker
        assert int(item.prompt.split("_")[-2 if not layout else -1].split(".")[0]) in (25, 27, 28)
        assert item.text == f"Sentence {int(item.id.split('_')[1])} of {item.speaker}."


def test_a_folder_that_is_not_vctk(tmp_path):
    with pytest.raises(UserError, match="holds no txt beside wav48_silence_trimmed"):
        vctk.choose(Request(corpus_dir=tmp_path))


def test_few_items_are_a_fixed_choice_in_the_order_of_the_list(tmp_path):
    items = tuple(Item(id=f"{n:02d}", speaker="a", text=str(n)) for n in range(30))
    whole = ItemList(items, tmp_path)
    few, more = whole.few(5), whole.few(9)
    assert [item.id for item in few.items] == sorted(item.id for item in few.items)
    assert {item.id for item in few.items} < {item.id for item in more.items}
    assert few.items != items[:5]  # the first of a corpus are of few speakers
    assert whole.few(100).sha256 == whole.sha256 != few.sha256
    other = (dataclasses.replace(items[0], text="another"), *items[1:])
    assert ItemList(other, tmp_path).sha256 != whole.sha256
    assert by_hash(["a", "b", "c"], 0, "k") == by_hash(["c", "a", "b"], 0, "k")


def test_the_frozen_list_of_the_demo_has_its_numbers():
    counts = [len(ids) for ids in (demo_list.VALID, demo_list.SENTENCES, demo_list.UNSEEN)]
    assert counts == [100, 20, 60]
    assert not demo_list.VALID & demo_list.SENTENCES


def test_every_task_names_its_source_and_rule():
    for name, task in TASKS.items():
        assert get_task(name) is task
        assert task.source
        assert task.rule
    assert get_task(None).name == "held-out"
    with pytest.raises(UserError, match="choose from librispeech-gpst"):
        get_task("librispeech")
