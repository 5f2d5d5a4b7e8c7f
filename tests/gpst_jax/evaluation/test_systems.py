"""Systems from stored results: pairing, runs of one system, refusals; votes; lists for VERSA."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation import systems, versa, votes
from gpst_jax.samples.manifest import Sample

WER, SIM, MOS = "wer/whisper-base-english", "sim-o/resemblyzer-smoke", "mos/distillmos"
OPTIONS = {"resamples": 200, "seed": 0}
_RECIPE = {"version": 1, "model": "m", "normalisation": "n", "aggregation": "corpus"}


def write_run(folder: Path, name: str, errors, *, cosines=None, recipe=None, text="a b c d"):
    """Results and items of one condition of items with four words; returns the two paths."""
    row = {"value": 0.1, "ci95": None, "n": len(errors)}
    results = {
        "modes": {"tts": {WER: row, SIM: row, MOS: row}},
        "ceilings": {},
        "recipes": {WER: _RECIPE | (recipe or {}), SIM: _RECIPE, MOS: _RECIPE},
        "settings": {"wer": [WER], "similarity": SIM},
    }
    lines = []
    for number, count in enumerate(errors):
        counts = {"words": 4, "substitutions": count, "deletions": 0, "insertions": 0}
        counts |= {"empty": False, "failed": False}  # as stored before there were runaway shares
        item = {"condition": "tts", "id": f"u{number}", "text": text, "errors": counts}
        item |= {"speaker": f"s{number // 2}", "transcript": "x", "mos": {"distillmos": 3.0}}
        item["similarity"] = 0.5 if cosines is None else cosines[number]
        lines.append(json.dumps(item))
    paths = folder / f"{name}.json", folder / f"{name}.jsonl"
    paths[0].write_text(json.dumps(results), encoding="utf-8")
    paths[1].write_text("\n".join(lines), encoding="utf-8")
    return tuple(map(str, paths))


def load(*runs, names=()):
    return systems.load_systems([r for r, _ in runs], [i for _, i in runs], names=names)


def test_differences_are_paired_and_over_speakers(tmp_path):
    first = write_run(tmp_path, "a", [1, 0] * 6)
    second = write_run(tmp_path, "b", [2, 1] * 6, cosines=[0.7] * 12)
    base, system = load(first, second)
    rows = systems.differences(system, base, **OPTIONS)["tts"]
    row = rows[WER]
    assert row["value"] == pytest.approx(12 / 48)
    assert (row["system"], row["base"]) == (pytest.approx(18 / 48), pytest.approx(6 / 48))
    assert row["interval"]["over"] == "speakers"
    assert row["interval"]["units"] == 6
    assert row["ci95"] == pytest.approx([0.25, 0.25])
    assert row["p"] == pytest.approx(2 / 64)  # of six speakers
    assert rows[SIM]["value"] == pytest.approx(0.2)
    assert rows[MOS]["value"] == 0
    assert rows[MOS]["p"] == 1
    assert "left_out" not in row


def test_items_of_one_system_alone_are_counted(tmp_path):
    base, system = load(write_run(tmp_path, "a", [1] * 12), write_run(tmp_path, "b", [1] * 10))
    row = systems.differences(system, base, **OPTIONS)["tts"][WER]
    assert (row["n"], row["left_out"]) == (10, 2)


def test_runs_of_equal_names_are_seeds_of_one_system(tmp_path):
    rng = np.random.default_rng(0)
    runs = [
        write_run(tmp_path, f"{name}{seed}", rng.integers(0, 2 + (name == "b"), 12).tolist())
        for name in "ab"
        for seed in range(3)
    ]
    base, system = load(*runs, names=list("aaabbb"))
    assert [len(base.runs), len(system.runs)] == [3, 3]
    row = systems.differences(system, base, **OPTIONS)["tts"][WER]
    assert row["interval"]["over"] == "runs and speakers"
    assert row["runs"] == [3, 3]
    assert row["value"] == pytest.approx(row["system"] - row["base"])
    assert row["ci95"][0] < row["value"] < row["ci95"][1]
    alone = systems.differences(*load(runs[3], runs[0]), **OPTIONS)["tts"][WER]
    assert alone["n"] == row["n"]


def test_numbers_of_different_recipes_are_not_compared(tmp_path):
    base, system = load(
        write_run(tmp_path, "a", [1] * 12),
        write_run(tmp_path, "b", [1] * 12, recipe={"version": 2}),
    )
    rows = systems.differences(system, base, **OPTIONS)["tts"]
    assert rows[WER]["value"] is None
    assert "another version" in rows[WER]["reason"]
    assert rows[SIM]["value"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, i: Path(r).write_text("{}", encoding="utf-8"), "'modes' is missing"),
        (lambda r, i: Path(r).write_text("{", encoding="utf-8"), "cannot be read as JSON"),
        (lambda r, i: Path(i).write_text('{"id": "a"}', encoding="utf-8"), "line 1: not an item"),
        (lambda r, i: Path(i).unlink(), "cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, change, message):
    runs = write_run(tmp_path, "a", [1] * 4), write_run(tmp_path, "b", [1] * 4)
    change(*runs[1])
    with pytest.raises(UserError, match=message):
        load(*runs)


def test_what_cannot_be_paired_is_refused(tmp_path):
    first, second = write_run(tmp_path, "a", [1] * 4), write_run(tmp_path, "b", [1] * 4)
    with pytest.raises(UserError, match="two systems are needed"):
        load(first, second, names=["x", "x"])
    with pytest.raises(UserError, match="--items has 1 entries, --results 2"):
        systems.load_systems([first[0], second[0]], [first[1]])
    other = write_run(tmp_path, "c", [1] * 4, text="e f g h")
    with pytest.raises(UserError, match="another text"):
        systems.differences(*load(first, other), **OPTIONS)


# Votes.

TRIALS = [votes.Trial("tts", f"u{number}", f"s{number // 2}") for number in range(12)]
SYSTEMS = ["a", "b"]
KEY = votes.comparison_key(SYSTEMS, TRIALS)


def write_votes(path, choices, **fields):
    entries = [
        {"condition": "tts", "id": f"u{number}", "first": "a", "choice": choice, "blind": True}
        for number, choice in enumerate(choices)
    ]
    saved = {"key": KEY, "systems": SYSTEMS, "listener": "", "votes": entries} | fields
    path.write_text(json.dumps(saved), encoding="utf-8")
    return path


def test_votes_are_summarised_with_interval_and_sign_test(tmp_path):
    path = write_votes(tmp_path / "v.json", ["b"] * 8 + ["a"] * 2 + [""] * 2)
    key, found = votes.read_votes(path, {KEY: (SYSTEMS, TRIALS)})
    assert key == KEY
    row = votes.summarise(found, "b", **OPTIONS)
    assert (row["wins"], row["losses"], row["ties"], row["n"]) == (8, 2, 2, 12)
    assert row["value"] == pytest.approx((8 + 1) / 12)
    assert row["p"] == pytest.approx(2 * sum((1, 10, 45)) / 2**10)  # eight or more of ten
    assert 0 <= row["ci95"][0] < row["value"] < row["ci95"][1] <= 1
    assert row["interval"]["over"] == "speakers"
    opposite = votes.summarise(found, "a", **OPTIONS)
    assert opposite["value"] == pytest.approx(1 - row["value"])
    unanimous = votes.summarise([v for v in found if v.choice == "b"], "b", **OPTIONS)
    assert unanimous["value"] == 1
    assert unanimous["ci95"][0] < 0.9


def test_votes_with_names_in_sight_are_left_out_and_counted(tmp_path):
    path = write_votes(tmp_path / "v.json", ["b", "a"])
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["votes"][1]["blind"] = False
    path.write_text(json.dumps(saved), encoding="utf-8")
    _, found = votes.read_votes(path, {KEY: (SYSTEMS, TRIALS)})
    row = votes.summarise(found, "b", **OPTIONS)
    assert (row["n"], row["not_blind"], row["wins"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "0" * 16}, "of another comparison"),
        ({"votes": [{"condition": "tts", "id": "u0"}]}, r"votes\[0\]: needs"),
        ({"votes": None}, "'votes' is no list"),
        (
            {"votes": [{"condition": "tts", "id": "zz", "choice": "a", "blind": True}]},
            "no item 'zz'",
        ),
        (
            {"votes": [{"condition": "tts", "id": "u0", "choice": "c", "blind": True}]},
            "choice 'c'",
        ),
        (
            {"votes": [{"condition": "tts", "id": "u0", "choice": "a", "blind": True}] * 2},
            "voted on twice",
        ),
    ],
)
def test_votes_that_do_not_belong_are_refused(tmp_path, fields, message):
    path = write_votes(tmp_path / "v.json", ["a"], **fields)
    with pytest.raises(UserError, match=message):
        votes.read_votes(path, {KEY: (SYSTEMS, TRIALS)})


# Lists for VERSA.


def test_lists_hold_sound_reference_and_text_and_name_what_is_missing(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(1600) * 0.1, 16000)
    samples = [
        Sample(id="a", audio=tmp_path / "a.wav", text="one  two", speaker="s"),
        Sample(id="b", audio=tmp_path / "b.wav", text="three", speaker="unknown"),
    ]
    assert versa.write_lists(tmp_path / "out", samples) == ["b"]
    out = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "out").iterdir()}
    assert out["pred.scp"] == f"a {(tmp_path / 'a.wav').resolve()}\n"
    assert out["text"] == "a one two\n"
    assert out["utt2spk"] == "a s\n"
    assert out["missing.txt"] == "b\n"
    assert "gt.scp" not in out
    prompted = [
        Sample(id="a", audio=tmp_path / "a.wav", prompt_audio=tmp_path / "p.wav", speaker="s")
    ]
    versa.write_lists(tmp_path / "out", prompted)
    assert "p.wav" in (tmp_path / "out" / "gt.scp").read_text(encoding="utf-8")
    spaced = [Sample(id="a b", audio=tmp_path / "a.wav", speaker="s")]
    with pytest.raises(UserError, match="no spaces"):
        versa.write_lists(tmp_path / "out", spaced)
