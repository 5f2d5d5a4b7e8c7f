"""Hugging Face datasets: every row is an utterance or a failure; our reader decodes its bytes."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import soundfile
from fake_corpus import files_of
from hf_rows import RATE, encoded, expected, rows

from data_pipeline import tokenize_corpus
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import HFDatasetSource, open_source, read_audio
from data_pipeline.sources.reading import (
    content_of,
    split_source,
    stored_source,
    stored_utterance,
)
from data_pipeline.tokenization import shard as shards

datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
pa = pytest.importorskip("pyarrow", reason="the extra datasets is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    """No test asks the network, or leaves anything in a cache."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Ten rows of train in two files and several row groups, three of each other split."""
    root = tmp_path_factory.mktemp("repository")
    (root / "data").mkdir()
    names = {"train-00000-of-00002": (0, 7), "train-00001-of-00002": (7, 3)}
    names |= {"validation-00000-of-00001": (10, 3), "test-00000-of-00001": (13, 3)}
    for name, (first, count) in names.items():
        rows(first, count).to_parquet(root / f"data/{name}.parquet", batch_size=3)
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The same rows of train and validation, as save_to_disk writes them."""
    root = tmp_path_factory.mktemp("saved") / "corpus"
    splits = {"train": rows(0, 10), "validation": rows(10, 3)}
    datasets.DatasetDict(splits).save_to_disk(root, num_shards={"train": 2, "validation": 1})
    return root


@pytest.mark.parametrize("layout", ["repository", "saved"])
def test_rows_are_read_as_soundfile_reads_them(layout, request):
    root = request.getfixturevalue(layout)
    utterances, failures = open_source(f"hf:{root}?split=train%2Bvalidation").list()
    assert failures == []
    assert len(utterances) == 13
    for number, item in enumerate(utterances):
        np.testing.assert_array_equal(read_audio(item, RATE), expected(encoded(number)))
        assert item.text == f"text {number}"
        assert item.speaker == str(84 + number % 3)
        assert item.language == ("en", "de")[number % 2]
        assert item.split == ("valid" if number >= 10 else "train")
        stored = stored_source(item, root)
        assert split_source(stored)[1] == item.member
        again = stored_utterance(stored, root)
        np.testing.assert_array_equal(read_audio(again, RATE), read_audio(item, RATE))
    assert len({content_of(item).digest for item in utterances}) == 13
    for item in reversed(utterances):  # in any order
        assert len(read_audio(item, RATE))
    assert "torchcodec" not in sys.modules


def test_splits_that_have_no_name_of_ours_are_split_anew_and_said(repository, capsys):
    utterances, _ = HFDatasetSource(repository).list()
    assert {item.split for item in utterances if item.id.startswith("test/")} == {""}
    assert "train 10, validation 3 (valid), test 3 (split anew" in capsys.readouterr().err
    with pytest.raises(UserError, match="no split 'dev', choose from train, validation, test"):
        HFDatasetSource(repository, split="dev").list()


def test_a_single_saved_dataset(tmp_path):
    rows(0, 4).save_to_disk(tmp_path / "one")
    utterances, failures = HFDatasetSource(tmp_path / "one").list()
    assert (len(utterances), failures) == (4, [])
    np.testing.assert_array_equal(read_audio(utterances[2], RATE), expected(encoded(2)))


def table(**columns):
    return pa.table(columns)


def audio(*values):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([value and {"bytes": value[0], "path": value[1]} for value in values], kind)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_rows_with_paths_and_without_audio(tmp_path, suffix):
    soundfile.write(tmp_path / "beside.wav", 0.5 * np.sin(np.arange(RATE) * 0.1), RATE)
    held = table(
        audio=audio(
            (encoded(0), "0.flac"),
            (None, "beside.wav"),
            (None, "gone.wav"),
            (None, "film.mp4"),
            (None, None),
            None,
            (encoded(1), None),
        ),
        speaker=pa.array([84.0, None, 1.0, 1.0, 1.0, 1.0, 2.5]),
        sentence=["a", None, "c", "d", "e", "f", "line\x00"],
    )
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        parquet.write_table(held, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(path, held.schema) as writer:
            writer.write_table(held, max_chunksize=3)
    utterances, failures = HFDatasetSource(tmp_path, split="train").list()
    assert [item.speaker for item in utterances] == ["84", "unknown"]
    assert [item.text for item in utterances] == ["a", None]
    np.testing.assert_array_equal(read_audio(utterances[0], RATE), expected(encoded(0)))
    assert (utterances[1].path, utterances[1].member) == (str(tmp_path / "beside.wav"), "")
    found = {failure.id.rpartition("-")[2]: failure.reason for failure in failures}
    for name, message in {
        "000002": "row 2: names a file that does not exist: gone.wav",
        "000003": "film.mp4: ",
        "000004": "row 4: no audio in audio",
        "000005": "row 5: no audio in audio",
        "000006": "the text holds the control character U+0000",
    }.items():
        assert message in found.pop(name)
    assert not found


def test_columns_by_name(tmp_path):
    held = table(
        clip=pa.array([encoded(0), encoded(1)]),
        other=audio((encoded(2), None), (encoded(3), None)),
        who=["x", "y"],
        text=["a", "b"],
        words=["c", "d"],
        flag=[True, False],
        key=["one", "two"],
    )
    parquet.write_table(held, tmp_path / "train.parquet")
    source = open_source(f"hf:{tmp_path}?audio=clip&speaker=who&text=words&id=key&language=fr")
    utterances, _ = source.list()
    assert [item.id for item in utterances] == ["train/one", "train/two"]
    assert [item.text for item in utterances] == ["c", "d"]
    assert [item.speaker for item in utterances] == ["x", "y"]
    assert {item.language for item in utterances} == {"fr"}
    np.testing.assert_array_equal(read_audio(utterances[1], RATE), expected(encoded(1)))
    # Without a name, the structs of bytes and path are the audio.
    utterances, _ = HFDatasetSource(tmp_path).list()
    np.testing.assert_array_equal(read_audio(utterances[1], RATE), expected(encoded(3)))
    for options, message in {
        "audio=voice": "no column 'voice' .audio=., it has clip, other",
        "language_column=none": "no column 'none' .language_column=.",
        "audio=who": "column 'who' is string, not encoded audio",
    }.items():
        with pytest.raises(UserError, match=message):
            open_source(f"hf:{tmp_path}?{options}").list()
    _, failures = open_source(f"hf:{tmp_path}?speaker=flag").list()
    assert [failure.reason for failure in failures] == [
        f"row {row}: flag is a bool, not a text or number" for row in (0, 1)
    ]


def test_two_columns_of_audio_are_named_and_arrays_refused(tmp_path):
    both = table(near=audio((encoded(0), None)), far=audio((encoded(1), None)))
    parquet.write_table(both, tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"found near, far: name it as \?audio="):
        HFDatasetSource(tmp_path).list()
    parquet.write_table(table(audio=[[0.5, 0.25]]), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="one column of audio is needed, found none of audio"):
        HFDatasetSource(tmp_path).list()
    with pytest.raises(UserError, match="not encoded audio"):
        HFDatasetSource(tmp_path, audio="audio").list()


def test_missing_and_damaged_files(repository, saved, tmp_path):
    shutil.copytree(repository, tmp_path / "copy")
    damaged = tmp_path / "copy/data/train-00000-of-00002.parquet"
    data = bytearray(damaged.read_bytes())
    group = parquet.ParquetFile(damaged).metadata.row_group(1)
    text = next(
        group.column(n) for n in range(group.num_columns)
        if group.column(n).path_in_schema == "text"
    )  # fmt: skip
    start = text.dictionary_page_offset or text.data_page_offset
    data[start : start + text.total_compressed_size] = bytes(text.total_compressed_size)
    damaged.write_bytes(data)
    utterances, failures = HFDatasetSource(tmp_path / "copy", split="train").list()
    assert len(utterances) == 3 + 3  # the first row group, and the other file
    assert failures[0].reason.startswith("rows from 3 on cannot be read: ")
    damaged.write_bytes(data[:2000])
    utterances, failures = HFDatasetSource(tmp_path / "copy", split="train").list()
    assert (len(utterances), len(failures)) == (3, 1)
    assert failures[0].reason.startswith("not a Parquet or Arrow file, or truncated: ")
    damaged.unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00002\.parquet is missing"):
        HFDatasetSource(tmp_path / "copy").list()
    shutil.copytree(saved, tmp_path / "saved")
    (tmp_path / "saved/train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow"):
        HFDatasetSource(tmp_path / "saved").list()


def test_what_is_no_dataset_of_files_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        HFDatasetSource(tmp_path / "none").list()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: download it"):
        HFDatasetSource("some/corpus").list()
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="code of datasets is never run"):
        HFDatasetSource(tmp_path / "script").list()
    (tmp_path / "files").mkdir()
    soundfile.write(tmp_path / "files/a.wav", np.zeros(RATE), RATE)
    with pytest.raises(UserError, match=r"of kind audiofolder, .*folder:"):
        HFDatasetSource(tmp_path / "files").list()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be used"):
        HFDatasetSource(tmp_path / "empty").list()


def test_configurations_of_a_repository(repository, tmp_path):
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("en", "de")
    )
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    for name, count in {"en": 2, "de": 3}.items():
        (tmp_path / name).mkdir()
        rows(0, count).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="'en', 'de'"):
        HFDatasetSource(tmp_path).list()
    for name, count in {"en": 2, "de": 3}.items():
        assert len(HFDatasetSource(tmp_path, config=name).list()[0]) == count


def test_a_repository_in_the_hubs_cache_needs_no_network(repository, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "cache/datasets--some--corpus"
    shutil.copytree(repository, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    utterances, failures = HFDatasetSource("some/corpus", split="train").list()
    assert (len(utterances), failures) == (10, [])
    (folder / "snapshots" / commit / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is missing"):
        HFDatasetSource("some/corpus", split="train").list()


def test_files_of_the_hub_are_those_of_one_commit(repository, monkeypatch, tmp_path):
    import huggingface_hub

    from data_pipeline.sources.hf_datasets import files

    asked, commit = [], "1" * 40
    (tmp_path / commit).symlink_to(repository)

    def download(repo_id, filename, repo_type, revision):
        asked.append((repo_id, repo_type, revision))
        return str(tmp_path / commit / filename)

    def resolve(commit):
        names = [f"data/train-0000{number}-of-00002.parquet" for number in (0, 1)]
        base = f"hf://datasets/some/corpus@{commit}"
        return lambda *_: {"train": [f"{base}/{name}" for name in names]}

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(files, "_resolve", resolve(commit))
    source = HFDatasetSource("some/corpus", revision="refs/convert/parquet")
    assert len(source.list()[0]) == 10
    assert asked == [("some/corpus", "dataset", "refs/convert/parquet")] * 2
    monkeypatch.setattr(files, "_resolve", resolve("2" * 40))
    with pytest.raises(UserError, match="changed on the hub while it was downloaded"):
        source.list()


def test_an_interrupted_run_goes_on_to_the_same_bytes(repository, config, monkeypatch):
    config = dataclasses.replace(
        config,
        audio_dir=None,
        source=f"hf:{repository}?split=train%2Bvalidation",
        utterances_per_shard=4,
    )
    whole = dataclasses.replace(config, output=config.output + "-whole")
    result = tokenize_corpus.tokenize_corpus(whole)
    assert (result["statistics"]["inputs"], result["statistics"]["failed"]) == (13, 0)
    seen = []

    def stop(*arguments):
        seen.append(arguments)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return read_audio(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_audio", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus.tokenize_corpus(config)
    assert tokenize_corpus.tokenize_corpus(config)["resumed_shards"] == 1
    assert files_of(config.output) == files_of(whole.output)


def test_a_streamed_run_goes_on_to_the_bytes_of_a_local_one(repository, config, monkeypatch):
    """Files that stay on the hub; here opened from a folder instead."""
    from data_pipeline.sources.hf_datasets import files, rows

    base = f"hf://datasets/some/corpus@{'0' * 40}/data"
    names = [f"train-0000{number}-of-00002.parquet" for number in (0, 1)]
    opened = []

    def open_remote(path):
        opened.append(path)
        return open(path.replace(base, str(repository / "data")), "rb")

    monkeypatch.setattr(files, "_cached", lambda *_: "")
    monkeypatch.setattr(
        files, "_resolve", lambda *_: {"train": [f"{base}/{name}" for name in names]}
    )
    monkeypatch.setattr(rows, "open_remote", open_remote)
    config = dataclasses.replace(
        config,
        audio_dir=None,
        source="hf:some/corpus?streaming=true",
        utterances_per_shard=4,
    )
    whole = dataclasses.replace(config, output=config.output + "-whole")
    assert tokenize_corpus.tokenize_corpus(whole)["statistics"]["failed"] == 0
    assert {path.startswith(base) for path in opened} == {True}
    seen = []

    def lose(*arguments):
        seen.append(arguments)
        if len(seen) != 6:
            return read_audio(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(rows, "_audio", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
            return read_audio(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_audio", lose)
        # What the network loses is no failure of a recording.
        with pytest.raises(UserError, match="run again to go on"):
            tokenize_corpus.tokenize_corpus(config)
    assert tokenize_corpus.tokenize_corpus(config)["resumed_shards"] == 1
    assert files_of(config.output) == files_of(whole.output)
    utterance = open_source(config.source).list()[0][3]
    stored = stored_source(utterance, "/anywhere")
    assert stored == f"{utterance.path}?{utterance.member}"
    again = stored_utterance(stored, "/elsewhere")
    np.testing.assert_array_equal(read_audio(again, RATE), expected(encoded(3)))


def test_streaming_is_true_or_false_and_needs_the_network(repository, monkeypatch):
    from data_pipeline.sources.hf_datasets import files

    with pytest.raises(UserError, match="streaming=yes is neither true nor false"):
        HFDatasetSource("some/corpus", streaming="yes").list()
    assert len(HFDatasetSource(repository, split="train", streaming="true").list()[0]) == 10
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        files.open_remote("hf://datasets/some/corpus@1/a.parquet")


def test_without_the_package_one_line_names_the_extra(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'gpst_jax\[datasets\]'"):
        HFDatasetSource(repository).list()
