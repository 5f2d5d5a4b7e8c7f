"""Sequences: from records, their packing, and exact resume of the loader over them."""

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import build_sequences, fit_text_tokenizer
from data_pipeline.build_sequences import SequencesConfig
from data_pipeline.datasets.kinds import parse_spec, read_spec
from data_pipeline.datasets.sequence_dataset import DIALOGUE, SequenceIndex, SequenceSpec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.loader import Loader
from data_pipeline.loading.mixture import dataset_with, load_spec
from data_pipeline.loading.sequence_rows import build_sequence_row
from data_pipeline.packing.sequence_plan import SequencePlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences import templates
from data_pipeline.sequences.maker import SequenceMaker, Unusable
from data_pipeline.sequences.templates import Template
from data_pipeline.tokenizers.text import MODEL_FILE, load_text_tokenizer
from data_pipeline.tokens.vocabulary import Vocabulary

LENGTH = 300
PACKING = PackingConfig(
    sequence_length=LENGTH, frame_budget=1, crop_seconds=1.0, seed=5, arrangement="sequences"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_dataset, make_token_record) -> Path:
    """Token datasets `one` and `two`, a tokenizer `text`, and sequences of both."""
    root = tmp_path_factory.mktemp("sequences")
    (root / "text").mkdir()
    (root / "text" / MODEL_FILE).write_bytes(
        fit_text_tokenizer.train(["one two three", *templates.all_texts()], 420)
    )
    for seed, name in enumerate(("one", "two")):
        made = [
            dataclasses.replace(make_token_record(n, "ab"[n % 2], seed=seed), text=f"text {n}")
            for n in range(40)
        ]
        write_dataset(root / name, {"train": made, "valid": made[:9]})
        build(root, name, f"sequences_{name}", tasks=("pretrain", "asr", "tts"))
    return root


def build(root: Path, tokens: str, output: str, **changes) -> SequenceSpec:
    settings = {"tasks": ("pretrain",)} | changes
    build_sequences.build_sequences(
        SequencesConfig(str(root / tokens), str(root / output), str(root / "text"), **settings)
    )
    return SequenceSpec.load(root / output)


@pytest.fixture(scope="module")
def sequences(root) -> Path:
    return root / "sequences_one"


@pytest.fixture(scope="module")
def mixed(root) -> Path:
    path = root / "mixture.json"
    entries = [
        {"path": "sequences_one", "weight": 1},
        {"path": "sequences_two", "weight": 3},
    ]
    path.write_text(json.dumps({"datasets": entries}))
    return path


@pytest.fixture(scope="module")
def maker(root) -> SequenceMaker:
    tokenizer = load_text_tokenizer(root / "text")
    return SequenceMaker(Template(Vocabulary(tokenizer.vocab_size, 20), tokenizer), "all", 500)


def test_a_record_becomes_a_sequence_of_each_task(maker, make_token_record) -> None:
    record = dataclasses.replace(make_token_record(3), text="seven")
    units = tuple(record.units.tolist())
    assert any(one == other for one, other in itertools.pairwise(units))  # repeats are kept
    found = {task: maker.from_record(record, task) for task in ("pretrain", "asr", "tts")}
    assert [(s.id, s.task) for s in found.values()] == [(f"0/3:{t}", t) for t in found]
    parsed = {task: maker.template.parse(sequence.ids) for task, sequence in found.items()}
    assert parsed["pretrain"].answer_units == units
    assert (parsed["asr"].question_units, parsed["asr"].transcript) == (units, "seven")
    assert (parsed["tts"].question_text, parsed["tts"].answer_units) == ("seven", units)
    again = maker.from_record(record, "asr", 4)
    assert again.id == "0/3:asr:4"
    drawn = {maker.from_record(record, "asr", copy).ids.tobytes() for copy in range(20)}
    assert len(drawn) > 2


def test_a_dialogue_becomes_a_sequence_of_each_format(maker, make_token_record) -> None:
    question, answer = (
        dataclasses.replace(make_token_record(number), text=text)
        for number, text in ((0, "how many"), (1, "four"))
    )
    heard, said = tuple(question.units.tolist()), tuple(answer.units.tolist())
    for task in DIALOGUE:
        found = maker.template.parse(maker.from_dialogue("d", question, answer, task).ids)
        assert found.task == task
        assert found.answer_text == "four"
        if task.startswith("speech"):
            assert (found.question_units, found.transcript) == (heard, "how many")
        else:
            assert found.question_text == "how many"
        assert found.answer_units == (said if task.endswith("to_speech") else None)
    with pytest.raises(ValueError, match="is not a dialogue task"):
        maker.from_dialogue("d", question, answer, "asr")


def test_what_cannot_be_made_says_why(maker, make_token_record) -> None:
    record = make_token_record(3)
    for text in (None, "", "  "):
        with pytest.raises(Unusable, match="no transcript"):
            maker.from_record(dataclasses.replace(record, text=text), "asr")
    with pytest.raises(Unusable, match=r"longer than max_length: \d+ ids, 10 are allowed"):
        dataclasses.replace(maker, max_length=10).from_record(record, "pretrain")
    strange = dataclasses.replace(record, units=np.array([20], np.uint16))
    with pytest.raises(Unusable, match="not all in"):
        maker.from_record(strange, "pretrain")


def test_a_row_predicts_the_next_id_where_the_mask_asks_for_it() -> None:
    vocabulary = Vocabulary(5, 4)
    first = np.array([3, 16, 17, 18], np.int32), np.array([0, 1, 0, 1], np.uint8)
    second = np.array([4, 19], np.int32), np.array([1, 1], np.uint8)
    row = build_sequence_row(vocabulary, 8, [first, second])
    padding = vocabulary.padding
    expected = {
        "tokens": [3, 16, 17, 18, 4, 19, padding, padding],
        "positions": [0, 1, 2, 3, 0, 1, 0, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 0, 0],
        "targets": [16, -1, 18, -1, 19, -1, -1, -1],  # never across a boundary
    }
    assert {name: array.tolist() for name, array in row.items()} == expected
    assert all(array.dtype == np.int32 for array in row.values())
    empty = build_sequence_row(vocabulary, 8, [])
    assert (empty["segment_ids"] == 0).all()
    assert (empty["targets"] == -1).all()


def _index(lengths: np.ndarray) -> SequenceIndex:
    lengths = lengths.astype(np.int32)
    return SequenceIndex(lengths, np.zeros_like(lengths), ("pretrain",))


def _librispeech(count: int) -> np.ndarray:
    """Ids of units at 50 Hz: utterances of up to 16 s, most of them 12 to 16 s long."""
    random = np.random.default_rng(0)
    long = random.normal(14, 1.5, count)
    seconds = np.where(random.random(count) < 0.75, long, random.uniform(1.5, 14, count))
    return np.ceil(50 * seconds.clip(1.3, 16.5)) + 3


@pytest.mark.parametrize("sequence_length", [2048, 4096])
def test_librispeech_like_lengths_fill_the_rows(sequence_length) -> None:
    lengths = _librispeech(20_000)
    config = dataclasses.replace(PACKING, sequence_length=sequence_length)
    plan = SequencePlan(config, _index(lengths))
    rows = [plan.row(row) for row in range(plan.num_rows(0))]
    assert Counter(number for row in rows for number in row) == Counter(range(len(lengths)))
    assert all(lengths[row].sum() <= sequence_length for row in rows)
    share = plan.efficiency(0)["positions"]
    assert share == lengths.sum() / (len(rows) * sequence_length)
    assert share >= 0.95


def test_epochs_differ_and_a_plan_is_a_function_of_seed_and_lengths() -> None:
    lengths = _librispeech(500)
    plan, same = (SequencePlan(dataclasses.replace(PACKING, sequence_length=2048), _index(lengths))
                  for _ in range(2))  # fmt: skip
    first = [plan.row(row) for row in range(plan.num_rows(0))]
    second = [plan.row(plan.num_rows(0) + row) for row in range(plan.num_rows(1))]
    assert first != second
    chained = itertools.chain.from_iterable
    assert sorted(chained(first)) == sorted(chained(second))
    assert [same.row(row) for row in range(len(first))] == first
    assert same.fingerprint == plan.fingerprint
    other = dataclasses.replace(plan.config, seed=6)
    assert SequencePlan(other, _index(lengths)).fingerprint != plan.fingerprint
    assert SequencePlan(plan.config, _index(lengths[::-1])).fingerprint != plan.fingerprint
    unread = dataclasses.replace(plan.config, frame_budget=9, crop_seconds=3.0)
    assert SequencePlan(unread, _index(lengths)).fingerprint == plan.fingerprint


def _take(loader: Loader, count: int) -> list[dict[str, np.ndarray]]:
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return batches


def _assert_equal(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_one_epoch_holds_every_sequence(sequences) -> None:
    loader = Loader(sequences, "train", PACKING, 4, repeat=False)
    found: Counter[bytes] = Counter()
    predicted: Counter[bytes] = Counter()
    for batch in loader:
        assert all(array.shape == (4, LENGTH) for array in batch.values())
        for row in range(4):
            segments = batch["segment_ids"][row]
            for number in range(1, segments.max() + 1):
                inside = segments == number
                found[batch["tokens"][row][inside].tobytes()] += 1
                predicted[batch["targets"][row][inside].tobytes()] += 1
    records = list(SequenceReader(sequences, "train"))
    assert found == Counter(record.ids.tobytes() for record in records)
    targets = (np.append(np.where(r.loss_mask[1:], r.ids[1:], -1), -1) for r in records)
    assert predicted == Counter(target.astype(np.int32).tobytes() for target in targets)


@pytest.mark.parametrize("which", ["sequences", "mixed"])
def test_hosts_together_read_the_batches_of_one_and_resume_exactly(which, request) -> None:
    path = request.getfixturevalue(which)
    whole = _take(Loader(path, "train", PACKING, 4), 30)  # beyond the first epoch
    hosts = [Loader(path, "train", PACKING, 4, host=host, num_hosts=2) for host in range(2)]
    parts = [_take(host, 11) for host in hosts]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    _assert_equal(joined, whole[:11])
    state = json.loads(json.dumps(hosts[0].get_state()))
    assert state == json.loads(json.dumps(hosts[1].get_state()))
    later = Loader(path, "train", PACKING, 4)
    later.set_state(state)
    _assert_equal(_take(later, 19), whole[11:])
    later.set_state(state)
    later.skip(4 * 12, 4 * 14)
    _assert_equal(_take(later, 3), [whole[11], whole[14], whole[15]])


def test_worker_processes_give_the_same_rows(sequences) -> None:
    expected = _take(Loader(sequences, "train", PACKING, 4), 3)
    _assert_equal(_take(Loader(sequences, "train", PACKING, 4, num_workers=1), 3), expected)


def test_a_mixture_has_its_shares_and_one_spec(mixed, sequences) -> None:
    loader = Loader(mixed, "train", PACKING, 4)
    rows = Counter(loader.plan.source(row)[0] for row in range(4096))
    assert rows[1] == 3 * rows[0]
    spec, first = load_spec(mixed), SequenceSpec.load(sequences)
    assert isinstance(spec, SequenceSpec)
    assert spec.vocabulary == first.vocabulary
    assert spec.splits["train"].num_records == 2 * first.splits["train"].num_records
    assert parse_spec(json.loads(json.dumps(dataclasses.asdict(spec))), "a checkpoint") == spec
    assert dataset_with(mixed, "valid") == str(sequences)


def test_kinds_of_datasets_are_told_apart(root, sequences, mixed, tmp_path) -> None:
    assert isinstance(read_spec(root / "one"), DatasetSpec)
    assert isinstance(read_spec(sequences), SequenceSpec)
    assert isinstance(load_spec(sequences), SequenceSpec)
    with pytest.raises(UserError, match=r"dataset of sequences, but one of tokens is needed"):
        Loader(sequences, "train", dataclasses.replace(PACKING, arrangement="interleaved"), 4)
    with pytest.raises(
        UserError, match=r"dataset of tokens, but one of sequences is needed.*build_seq"
    ):
        Loader(root / "one", "train", PACKING, 4)
    with pytest.raises(UserError, match="unknown kind 'pictures'"):
        parse_spec({"kind": "pictures"}, "here")
    both = tmp_path / "both.json"
    entries = [{"path": str(root / "one")}, {"path": str(sequences)}]
    both.write_text(json.dumps({"datasets": entries}))
    with pytest.raises(UserError, match="cannot be mixed: they differ in kind"):
        load_spec(both)
    entries = [{"path": str(sequences), "languages": {"en": 1.0}}]
    both.write_text(json.dumps({"datasets": entries}))
    with pytest.raises(UserError, match="only datasets of tokens can be read by languages"):
        Loader(both, "train", PACKING, 4)


def test_sequences_of_other_vocabularies_are_not_mixed(root, tmp_path) -> None:
    build(root, "one", "otherwise", system="Hello.")
    path = tmp_path / "mixture.json"
    entries = [{"path": str(root / name)} for name in ("sequences_one", "otherwise")]
    path.write_text(json.dumps({"datasets": entries}))
    with pytest.raises(UserError, match="cannot be mixed: system is"):
        load_spec(path)


def test_a_sequence_longer_than_a_row_is_named_with_the_remedy(sequences) -> None:
    records = list(SequenceReader(sequences, "train"))
    longest = max(records, key=lambda record: len(record.ids))
    message = (
        rf"{longest.id} of the split train has {len(longest.ids)} ids, sequence_length is 60: raise"
    )
    with pytest.raises(UserError, match=message):
        next(Loader(sequences, "train", dataclasses.replace(PACKING, sequence_length=60), 4))
