"""build_sequences: every planned sequence accounted for, exact, resumable, self-contained."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import build_sequences as program
from data_pipeline import fit_text_tokenizer
from data_pipeline.build_sequences import SequencesConfig, build_sequences
from data_pipeline.datasets.sequence_dataset import DIALOGUE, SequenceIndex, SequenceSpec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences import templates
from data_pipeline.sequences.templates import Template
from data_pipeline.tokenizers.text import MODEL_FILE, load_text_tokenizer

ROOT = Path(program.__file__).parents[1]
TASKS = ("pretrain", "asr", "tts", "dialogue")
WITHOUT_TEXT, TRAIN, VALID = 3, 40, 6
LONGEST = 150


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_dataset, make_token_record) -> Path:
    """A token dataset `tokens` with its tokenizers, a text tokenizer, and a list of dialogues."""
    root = tmp_path_factory.mktemp("build")

    def record(number: int):
        text = None if number < WITHOUT_TEXT else f"number {number}"
        return dataclasses.replace(make_token_record(number), text=text)

    made = [record(number) for number in range(TRAIN + VALID)]
    write_dataset(root / "tokens", {"train": made[:TRAIN], "valid": made[TRAIN:]})
    for stream in ("semantic", "codec"):
        directory = root / "tokens" / "tokenizers" / stream
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(stream)
    (root / "text").mkdir()
    model = fit_text_tokenizer.train(["number", *templates.all_texts()], 420)
    (root / "text" / MODEL_FILE).write_bytes(model)
    _write_dialogues(
        root / "dialogue.jsonl",
        {"id": "a", "split": "train", "question_record": "0/4", "answer_record": "0/5"},
        {"id": "b", "split": "train", "question_record": "0/6", "answer_record": "0/9000"},
        {"id": "c", "split": "train", "question_record": "0/0", "answer_record": "0/7"},
        {"id": "d", "split": "valid", "question_record": "0/8", "answer_record": f"0/{TRAIN}"},
    )
    return root


def _write_dialogues(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _config(root: Path, output: Path, **changes) -> SequencesConfig:
    values = {
        "tokens": str(root / "tokens"),
        "output": str(output),
        "text_tokenizer": str(root / "text"),
        "tasks": TASKS,
        "dialogue": str(root / "dialogue.jsonl"),
        "copies": 2,
        "max_length": LONGEST,
        "records_per_shard": 10,
    }
    if "dialogue" not in changes.get("tasks", TASKS):
        values["dialogue"] = None
    return SequencesConfig(**values | changes)


@pytest.fixture(scope="module")
def built(root) -> Path:
    build_sequences(_config(root, root / "built"))
    return root / "built"


def _content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_every_planned_sequence_is_written_or_a_failure_with_its_reason(root, built) -> None:
    spec = SequenceSpec.load(built)
    failures = [json.loads(line) for line in (built / "failures.jsonl").read_text().splitlines()]
    written = [record for split in spec.splits for record in SequenceReader(built, split)]
    ids = [record.id for record in written] + [failure["id"] for failure in failures]
    expected = {
        f"0/{number}:{task}{copy}"
        for number in range(TRAIN + VALID)
        for task, copies in (("pretrain", ("",)), ("asr", ("", ":1")), ("tts", ("", ":1")))
        for copy in copies
    }
    expected |= {f"{d}:{task}{copy}" for d in "abcd" for task in DIALOGUE for copy in ("", ":1")}
    assert Counter(ids) == Counter(expected)
    counts = spec.statistics
    assert counts["planned"] == counts["written"] + counts["failed"] == len(expected)
    kinds = Counter(failure["kind"] for failure in failures)
    assert {f"failed_{kind}": number for kind, number in kinds.items()} == {
        name: number for name, number in counts.items() if name.startswith("failed_")
    }
    assert kinds["no_record"] == 8
    assert kinds["no_transcript"] == 4 * WITHOUT_TEXT + 8
    assert kinds["too_long"] > 0
    reasons = {failure["id"]: failure["reason"] for failure in failures}
    assert reasons["b:speech_to_text"] == "no record of the dataset has the id 0/9000"
    assert reasons["0/0:asr"] == reasons["c:text_to_text"] == "no transcript of 0/0"
    by_task = Counter(record.task for record in written)
    assert all(counts[task] == number for task, number in by_task.items())
    assert counts["ids"] == sum(len(record.ids) for record in written)
    assert counts["predicted_ids"] == sum(int(record.loss_mask[1:].sum()) for record in written)


def test_the_content_is_what_the_records_hold(root, built) -> None:
    spec = SequenceSpec.load(built)
    tokenizer = load_text_tokenizer(built / spec.text_tokenizer.path)
    assert tokenizer.sha256 == spec.text_tokenizer.sha256
    template = Template(spec.vocabulary, tokenizer, spec.system)
    source = {r.id: r for name in spec.splits for r in RecordReader(root / "tokens", name)}
    checked = Counter()
    for split in spec.splits:
        index = SequenceIndex.load(built, spec, split)
        for number, record in enumerate(SequenceReader(built, split)):
            assert index.lengths[number] == len(record.ids) <= LONGEST
            assert index.tasks[index.task[number]] == record.task
            found = template.parse(record.ids)
            assert found.task == record.task
            np.testing.assert_array_equal(record.loss_mask, template.build(found).loss_mask("all"))
            name = record.id.split(":")[0]
            if name in source:  # every frame has its unit: nothing is collapsed
                units = found.answer_units if record.task != "asr" else found.question_units
                np.testing.assert_array_equal(units, source[name].units)
            checked[record.task] += 1
    assert set(checked) == set(spec.tasks)
    dialogue = next(r for r in SequenceReader(built, "valid") if r.id == "d:text_to_text:1")
    assert template.parse(dialogue.ids).answer_text == f"number {TRAIN}"


def test_the_dataset_is_self_contained_and_sealed(root, built) -> None:
    spec, source = SequenceSpec.load(built), DatasetSpec.load(root / "tokens")
    assert (spec.semantic, spec.codec, spec.silence) == (
        source.semantic,
        source.codec,
        source.silence,
    )
    assert spec.source_fingerprint == source.fingerprint
    assert spec.layout() == source.layout()
    for path, content in ((spec.semantic.path, "semantic"), (spec.codec.path, "codec")):
        assert (built / path / "config.json").read_text() == content
    assert not (built / ".reports").exists()
    assert "sentencepiece" in spec.describe()
    damaged = json.loads((built / "dataset.json").read_text()) | {"max_length": 7}
    with pytest.raises(UserError, match="does not match its fingerprint"):
        SequenceSpec.parse(damaged, "here")
    damaged["vocabulary"] = damaged["vocabulary"] | {"num_units": 7}
    with pytest.raises(UserError, match="the vocabulary does not match"):
        SequenceSpec.parse(damaged, "here")


def test_tfds_reads_it_without_tensorflow(built) -> None:
    code = f"""
import sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(built)!r}).as_data_source("train")
example = source[0]
assert example["ids"].dtype == "int32" and example["loss_mask"].dtype == "uint8"
assert example["ids"].shape == example["loss_mask"].shape
assert not {{"tensorflow", "jax"}} & set(sys.modules)
import data_pipeline.build_sequences, data_pipeline.fit_text_tokenizer
assert not {{"tensorflow", "jax", "gpst_jax"}} & set(sys.modules)
print(example["id"].decode(), len(source))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    expected = SequenceReader(built, "train")
    assert found.stdout.split() == [expected[0].id, str(len(expected))]


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(root, built, tmp_path) -> None:
    build_sequences(_config(root, tmp_path / "out", num_workers=2))
    assert _content(tmp_path / "out") == _content(built)


def test_an_interrupted_run_goes_on_and_a_finished_one_does_nothing(
    root, built, tmp_path, monkeypatch
) -> None:
    config = _config(root, tmp_path / "out")
    work, done = program.write_shard, []

    def breaks(task):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task)
        return work(task)

    monkeypatch.setattr(program, "write_shard", breaks)
    with pytest.raises(KeyboardInterrupt):
        build_sequences(config)
    assert not (tmp_path / "out" / "dataset.json").exists()
    monkeypatch.setattr(program, "write_shard", work)
    (tmp_path / "out" / ".dataset.json.x.tmp").write_text("half")
    assert build_sequences(config)["resumed_shards"] == 2
    assert _content(tmp_path / "out") == _content(built)
    monkeypatch.setattr(program, "write_shard", None)
    again = build_sequences(config)
    assert again["fingerprint"] == SequenceSpec.load(built).fingerprint
    with pytest.raises(UserError, match="holds another run: copies was 2, is 3"):
        build_sequences(dataclasses.replace(config, copies=3))
    other = fit_text_tokenizer.train(["number", *templates.all_texts()], 421)
    (tmp_path / MODEL_FILE).write_bytes(other)
    with pytest.raises(UserError, match="holds another run: text_tokenizer was"):
        build_sequences(dataclasses.replace(config, text_tokenizer=str(tmp_path)))
    next((tmp_path / "out").glob("*train.array_record-00001-*")).unlink()
    with pytest.raises(UserError, match=r"train.array_record-00001-of-00005 is missing: restore"):
        build_sequences(config)


def test_train_on_the_answer_only(root, tmp_path) -> None:
    config = _config(root, tmp_path / "out", tasks=("asr",), train_on="answer")
    build_sequences(config)
    spec = SequenceSpec.load(tmp_path / "out")
    assistant = spec.vocabulary.id("assistant")
    for record in SequenceReader(tmp_path / "out", "valid"):
        begin = record.ids.tolist().index(assistant) + 1
        np.testing.assert_array_equal(record.loss_mask, np.arange(len(record.ids)) >= begin)


def test_without_transcripts_there_are_failures_and_no_dataset(
    write_dataset, make_token_record, root, tmp_path
) -> None:
    write_dataset(tmp_path / "silent", {"train": [make_token_record(n) for n in range(5)]})
    changes = {"tokens": str(tmp_path / "silent"), "tasks": ("tts",)}
    result = build_sequences(_config(root, tmp_path / "out", **changes))
    assert result["fingerprint"] is None
    assert result["statistics"] == {"planned": 10, "failed": 10}
    assert len(Path(result["failures_file"]).read_text().splitlines()) == 10
    assert not list((tmp_path / "out").glob("*.array_record*"))


def test_a_split_without_sequences_is_left_out(root, tmp_path) -> None:
    lines = [{"id": "a", "split": "train", "question_record": "0/4", "answer_record": "0/5"}]
    pairs = str(_write_dialogues(tmp_path / "pairs.jsonl", *lines))
    build_sequences(
        _config(root, tmp_path / "out", tasks=("text_to_text",), dialogue=pairs, copies=3)
    )
    spec = SequenceSpec.load(tmp_path / "out")
    assert spec.tasks == ("text_to_text",)
    assert {name: split.num_records for name, split in spec.splits.items()} == {"train": 3}
    assert spec.splits["train"].hours == 0


LINE = {"id": "a", "split": "train", "question_record": "0/1", "answer_record": "0/2"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no dialogues"),
        ([LINE, LINE], "line 2: the id 'a' comes twice"),
        ([LINE | {"split": "test"}], "no split 'test' in the dataset, choose one of train, valid"),
        ([LINE | {"answer": "x"}], "line 1: expected an object with the keys id, split"),
        ([LINE | {"answer_record": 4}], "line 1: answer_record must be text"),
    ],
)
def test_a_wrong_list_of_dialogues_is_refused(root, tmp_path, lines, message) -> None:
    path = str(_write_dialogues(tmp_path / "pairs.jsonl", *lines))
    with pytest.raises(UserError, match=message):
        build_sequences(_config(root, tmp_path / "out", dialogue=path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("pretrain", "sing")}, "--tasks=pretrain,sing: choose from pretrain, inter"),
        ({"dialogue": None}, "require each other"),
        ({"tasks": ("asr",), "dialogue": "x"}, "require each other"),
        ({"train_on": "human"}, "--train_on=human: choose one of all, answer"),
        ({"copies": 0}, "--copies=0 must be positive"),
        ({"num_workers": -1}, "--num_workers=-1 must not be negative"),
    ],
)
def test_impossible_settings_are_refused(root, tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        _config(root, tmp_path / "out", **changes)


def test_inputs_that_are_not_there_are_refused(root, tmp_path) -> None:
    for changes, message in (
        ({"tokens": str(tmp_path)}, "dataset.json does not exist"),
        ({"text_tokenizer": str(tmp_path)}, "holds neither tokenizer.model nor"),
        ({"dialogue": str(tmp_path / "none")}, "--dialogue=.*none"),
    ):
        with pytest.raises(UserError, match=message):
            build_sequences(_config(root, tmp_path / "out", **changes))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_program_reports_and_counts_failures(root, tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "data_pipeline.build_sequences",
        f"--tokens={root / 'tokens'}",
        f"--output={tmp_path / 'out'}",
        f"--text_tokenizer={root / 'text'}",
        "--tasks=pretrain,asr",
        "--num_workers=0",
        f"--json_out={tmp_path / 'result.json'}",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 3
    assert f"{WITHOUT_TEXT} of {2 * (TRAIN + VALID)} sequences failed: reasons in" in found.stderr
    assert "train: 77 sequences, 1 shards" in found.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["fingerprint"] == SequenceSpec.load(tmp_path / "out").fingerprint
