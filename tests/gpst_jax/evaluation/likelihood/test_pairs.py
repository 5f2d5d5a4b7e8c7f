"""Minimal pairs: lists and published layouts, the score of a pair, and pairs made of a dataset."""

import json

import numpy as np
import pytest

from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.controls import coin_pairs, identical_pairs, shuffled_units
from gpst_jax.evaluation.likelihood.files import FileScore
from gpst_jax.evaluation.likelihood.minimal_pairs import score_pairs
from gpst_jax.evaluation.likelihood.pair_layouts import find_layout, read_pairs
from gpst_jax.evaluation.likelihood.pairs import Pair
from gpst_jax.evaluation.likelihood.scores import Failure, Score


class Stub:
    """Scores recordings by a table of log-likelihoods per token: of units, and of codes."""

    fingerprint = "stub"

    def __init__(self, table, tokens=(10, 30)):
        self._table, self._tokens = table, tokens

    def files(self, paths):
        return [self._row(path) for path in paths]

    def _row(self, path):
        values = self._table[path.stem]
        if isinstance(values, str):
            return FileScore(path, failure=values)
        names = ("semantic", "acoustic_q0")
        nats = {n: -v * k for n, v, k in zip(names, values, self._tokens, strict=True)}
        return FileScore(path, "", 1.0, Score(nats, dict(zip(names, self._tokens, strict=True))))


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def _pairs(tmp_path, *rows):
    return [
        Pair(name, tmp_path / f"{positive}.wav", tmp_path / f"{negative}.wav", group, cluster)
        for name, positive, negative, group, cluster in rows
    ]


def test_the_score_is_the_mean_per_token_and_a_tie_counts_half(tmp_path):
    scoring = Stub({"a": (-1.0, -5.0), "b": (-2.0, -1.0), "c": (-1.0, -5.0)})
    pairs = _pairs(
        tmp_path, ("0", "a", "b", "x", ""), ("1", "b", "a", "x", ""), ("2", "a", "c", "y", "")
    )
    result, items = score_pairs(scoring, pairs, resamples=100)
    # Over units a is better than b, over all (10 units, 30 codes) b: -4.0 and -1.25.
    assert [item["units"] for item in items] == [1.0, 0.0, 0.5]
    assert [item["all"] for item in items] == [0.0, 1.0, 0.5]
    assert items[0]["all_per_token"] == [-4.0, -1.25]
    assert result["units"]["accuracy"]["value"] == 0.5
    assert result["units"]["ties"] == 1
    assert result["units"]["by_group"]["x"] == result["all"]["by_group"]["x"]
    assert result["units"]["by_group"]["y"]["n"] == 1
    assert json.loads(json.dumps([result, items], allow_nan=False)) == [result, items]


def test_length_does_not_decide(tmp_path):
    """Twice the tokens at the same likelihood per token: a tie, and no loss of the longer one."""

    class Longer(Stub):
        def _row(self, path):
            self._tokens = (20, 60) if path.stem == "long" else (10, 30)
            return super()._row(path)

    scoring = Longer({"long": (-2.0, -2.0), "short": (-2.0, -2.0)})
    _, items = score_pairs(scoring, _pairs(tmp_path, ("0", "long", "short", "", "")))
    assert items[0]["units"] == items[0]["all"] == 0.5


def test_a_failure_counts_as_wrong_and_is_named(tmp_path):
    scoring = Stub({"a": (-1.0, -1.0), "b": "is silent"})
    result, items = score_pairs(
        scoring, _pairs(tmp_path, ("p", "a", "b", "", ""), ("q", "a", "a", "", ""))
    )
    assert result["failed"] == [{"id": "p", "path": str(tmp_path / "b.wav"), "reason": "is silent"}]
    assert [item["all"] for item in items] == [0.0, 0.5]
    assert result["all"]["accuracy"]["value"] == 0.25


def test_pairs_of_one_cluster_are_resampled_together(tmp_path):
    scoring = Stub({"a": (-1.0, -1.0), "b": (-2.0, -2.0)})
    rows = [(f"{i}", *("ab" if i < 10 else "ba"), "", f"w{i // 10}") for i in range(20)]
    clustered, _ = score_pairs(scoring, _pairs(tmp_path, *rows))
    alone, _ = score_pairs(scoring, _pairs(tmp_path, *[(*row[:4], "") for row in rows]))
    low, high = clustered["all"]["accuracy"]["ci95"]
    assert low < 0.1
    assert high > 0.9
    assert clustered["all"]["accuracy"]["interval"]["over"] == "clusters"
    assert alone["all"]["accuracy"]["ci95"][0] > 0.2


def test_lists_of_pairs_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("positive,negative,group\nx.wav,sub/y.wav,g\nz.wav,y.wav,\n")
    rows = [
        {"positive": "x.wav", "negative": "sub/y.wav", "group": "g", "id": 0},
        {"positive": "z.wav", "negative": "y.wav", "id": "1"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.csv", "a.jsonl"):
        one, other = read_pairs(tmp_path / name)
        assert (one.id, one.group, other.id, other.group) == ("0", "g", "1", "")
        assert (one.positive, one.negative) == (tmp_path / "x.wav", tmp_path / "sub" / "y.wav")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "positive\nx.wav\n", "line 2: 'negative' must be the path"),
        ("b.csv", "positive,negative\n", "lists no pairs"),
        ("c.csv", "positive,negative,id\nx,y,1\nz,w,1\n", "line 3: id '1' occurs twice"),
        ("d.jsonl", '{"positive": 1, "negative": "y"}', "line 1: 'positive' must be"),
        ("e.jsonl", '{"positive": "x", "negative": "y", "group": 1.5}', "'group' must be text"),
        ("f.txt", "x y", "give FILE.csv or FILE.jsonl"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / name)


def test_swuggy_pairs_words_with_non_words_of_their_voice(tmp_path):
    rows = ["id,filename,voice,frequency,word,phones,length,correct"]
    for word, frequency in enumerate(("0", "3", "20", "100")):
        for voice in "AB":
            rows.append(f"{word},w{word}{voice},{voice},{frequency},word,w er d,3,1")
            rows.append(f"{word},n{word}{voice},{voice},{frequency},wurd,w uh d,3,0")
    (tmp_path / "gold.csv").write_text("\n".join(rows))
    pairs = read_pairs(tmp_path)
    assert find_layout(tmp_path) == "swuggy"
    assert len(pairs) == 8
    assert pairs[3].positive == tmp_path / "w1B.wav"
    assert pairs[3].negative == tmp_path / "n1B.wav"
    assert [pair.group for pair in pairs[::2]] == ["oov", "1-5", "21-100", ">100"]
    assert [pair.cluster for pair in pairs] == [str(word) for word in range(4) for _ in "AB"]
    assert len({pair.id for pair in pairs}) == 8


def test_sblimp_pairs_sentences_by_phenomenon(tmp_path):
    rows = ["id,filename,voice,type,subtype,transcription,correct"]
    for subtype in ("s1", "s2"):
        rows += [f"7,{subtype}good,A,agreement,{subtype},the cat runs,1"]
        rows += [f"7,{subtype}bad,A,agreement,{subtype},the cat run,0"]
    (tmp_path / "gold.csv").write_text("\n".join(rows))
    one, other = read_pairs(f"sblimp:{tmp_path}")
    assert find_layout(tmp_path) == "sblimp"
    assert (one.positive.name, one.negative.name) == ("s1good.wav", "s1bad.wav")
    assert one.group == other.group == "agreement"
    assert one.cluster != other.cluster


def test_salmon_prefers_option_0(tmp_path):
    for part in ("speaker_consistency", "bg_alignment"):
        _touch(tmp_path / part, *(f"sample_{i}_{k}.wav" for i in (0, 2, 10) for k in (0, 1)))
        (tmp_path / part / "metadata.json").write_text("[]")
    pairs = read_pairs(tmp_path)
    assert len(pairs) == 6
    assert {pair.group for pair in pairs} == {
        "speaker_consistency",
        "bg_alignment",
    }
    for pair in pairs:
        assert pair.positive.stem.endswith("_0")
        assert pair.negative.stem.endswith("_1")
        assert pair.positive.stem[:-2] == pair.negative.stem[:-2]
    assert [pair.group for pair in read_pairs(tmp_path / "bg_alignment")] == ["bg_alignment"] * 3


def test_storycloze_pairs_endings(tmp_path):
    for folder in ("sSC", "tSC"):
        _touch(
            tmp_path / folder, *(f"{i}_{e}.wav" for i in (1, 2) for e in ("correct", "incorrect"))
        )
    pairs = read_pairs(tmp_path)
    assert [pair.group for pair in pairs] == ["sSC", "sSC", "tSC", "tSC"]
    assert pairs[0].positive == tmp_path / "sSC" / "1_correct.wav"
    assert pairs[0].negative == tmp_path / "sSC" / "1_incorrect.wav"
    assert {pair.group for pair in read_pairs(f"storycloze:{tmp_path / 'tSC'}")} == {""}


def test_incomplete_sets_are_refused(tmp_path):
    _touch(tmp_path / "salmon" / "part", "sample_0_0.wav", "sample_0_1.wav", "sample_1_0.wav")
    _touch(tmp_path / "story", "1_correct.wav", "1_incorrect.wav", "2_correct.wav")
    _touch(tmp_path / "wrong", "1_correct.wav", "1_incorrect.wav", "2_incorrect.wav")
    _touch(tmp_path / "nothing", "x.wav")
    header = "id,filename,voice,correct\n"
    for name, rows in (("gold", "1,a,A,1\n1,b,A,0\n2,c,A,1\n"), ("label", "1,a,A,yes\n")):
        _touch(tmp_path / name)
        (tmp_path / name / "gold.csv").write_text(header + rows)
    for name, message in {
        "salmon": "sample 1 has the options",
        "story": "2_incorrect.wav is missing",
        "wrong": "its right ending is missing",
        "nothing": "in none of the layouts",
        "gold": "2, A has 1 correct and 0 incorrect rows",
        "label": "correct is 'yes'",
    }.items():
        with pytest.raises(UserError, match=message):
            read_pairs(tmp_path / name)
    with pytest.raises(UserError, match="no such directory"):
        read_pairs(f"salmon:{tmp_path / 'absent'}")


class Smooth:
    """Scores sequences by how seldom their units change: what a model of speech may learn."""

    fingerprint = "smooth"

    def __init__(self, scoring):
        self.scorer, self.item = scoring.scorer, scoring.item

    def items(self, items, what=""):
        return [self._score(item[0]) for item in items]

    def _score(self, units):
        if len(units) < 2:
            return Failure("too short")
        return Score({"semantic": float(np.count_nonzero(np.diff(units)))}, {"semantic": 1})


def test_shuffled_units_are_the_same_units_in_another_order(stored, scorings):
    pairs = shuffled_units(scorings("gpst"), stored / "tokens", count=5)
    assert len(pairs) == 5
    for pair in pairs:
        (units, codes), (shuffled, same) = pair.positive, pair.negative
        np.testing.assert_array_equal(codes, same)
        np.testing.assert_array_equal(np.sort(units), np.sort(shuffled))
        assert (units != shuffled).any()
    again = shuffled_units(scorings("gpst"), stored / "tokens", count=3)
    for pair, other in zip(pairs, again, strict=False):
        np.testing.assert_array_equal(pair.negative[0], other.negative[0])
    # One that knows how speech runs tells them apart.
    result, _ = score_pairs(Smooth(scorings("gpst")), pairs)
    assert result["units"]["accuracy"]["value"] == 1.0


def test_nothing_can_be_known_of_a_coin(stored, scorings):
    """The same two utterances come in both orders, whatever they are."""
    orders = []
    for seed in range(40):
        pairs = coin_pairs(scorings("gpst"), stored / "tokens", count=4, seed=seed)
        assert 0 < len(pairs) <= 4
        _result, items = score_pairs(Smooth(scorings("gpst")), pairs)
        orders += [item["units"] for item in items if item["units"] != 0.5]
    assert len(orders) > 80
    assert abs(np.mean(orders) - 0.5) < 2.6 * 0.5 / np.sqrt(len(orders))


def test_identical_pairs_are_ties_under_a_real_model(stored, scorings):
    for name, dataset in (("gpst", "tokens"), ("lm", "sequences")):
        pairs = identical_pairs(scorings(name), stored / dataset, count=4)
        result, _ = score_pairs(scorings(name), pairs, resamples=50)
        for over in ("units", "all"):
            assert result[over]["ties"] == len(pairs) > 1
            assert result[over]["accuracy"]["value"] == 0.5


def test_controls_of_the_language_model_are_its_own_sequences(stored, scorings):
    scoring = scorings("lm")
    pairs = shuffled_units(scoring, stored / "sequences", count=3)
    reader = SequenceReader(stored / "sequences", "valid")
    records = {reader[place].id: reader[place] for place in range(len(reader))}
    vocabulary = scoring.scorer.spec.vocabulary
    for pair in pairs:
        record, (ids, mask) = records[pair.id], pair.negative
        assert record.task == "tts"  # the stored sequences have none of nothing but speech
        np.testing.assert_array_equal(pair.positive[0], record.ids)
        np.testing.assert_array_equal(np.sort(ids), np.sort(record.ids))
        same = ~vocabulary.is_unit(ids)
        np.testing.assert_array_equal(ids[same], record.ids[same])
        np.testing.assert_array_equal(mask, record.loss_mask)
        assert (ids != record.ids).any()
    result, items = score_pairs(scoring, pairs, resamples=50)
    assert result["pairs"] == len(items) == 3
    assert not result["failed"]
