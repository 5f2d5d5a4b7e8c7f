"""Corpus to shards: every input becomes records, exact after interruption."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from fake_corpus import RATE, FakeCodec, FakeSemantic, failures_of, files_of, signal

from data_pipeline import tokenize_corpus
from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization import config as corpus_config
from data_pipeline.tokenization import finish, shard
from data_pipeline.tokens import deduplicate


def test_every_recording_becomes_a_record(config) -> None:
    result = tokenize_corpus.tokenize_corpus(config)
    spec = DatasetSpec.load(config.output)
    assert result["fingerprint"] == spec.fingerprint
    assert {name: split.num_records for name, split in spec.splits.items()} == {
        "train": 22,
        "valid": 2,
    }
    assert spec.splits["train"].num_shards == 5
    assert spec.statistics == {"inputs": 24, "recorded": 24, "failed": 0, "records": 24}
    assert failures_of(config) == []
    found = {}
    for split in spec.splits:
        reader, index = (
            RecordReader(config.output, split),
            LengthIndex.load(config.output, spec, split),
        )
        assert len(reader) == len(index)
        for number in range(len(reader)):
            record = reader[number]
            sizes = len(record.units), record.codes.shape[1]
            assert sizes == (index.units[number], index.frames[number])
            assert index.speakers[index.speaker[number]] == record.speaker
            assert index.units_dedup[number] == len(deduplicate(record.units)[0])
            found[record.id] = record
    assert len(found) == 24
    for name, record in found.items():
        speaker, file = name.split("/")
        number = int(file[-2:])
        wav, _ = soundfile.read(Path(config.audio_dir, f"{name}.wav"), dtype="float32")
        semantic = FakeSemantic(config.semantic, 50.0, [])
        np.testing.assert_array_equal(record.units, semantic.encode(wav, RATE))
        codec = FakeCodec(config.codec, 75.0, [])
        np.testing.assert_array_equal(record.codes, codec.encode(wav, RATE))
        assert (record.speaker, record.source, record.text) == (speaker, f"{name}.wav", None)
        assert record.end - record.start == pytest.approx(0.3 + 0.15 * number, abs=1e-3)
    seconds = sum(split.hours for split in spec.splits.values()) * 3600
    assert seconds == pytest.approx(2 * sum(0.3 + 0.15 * n for n in range(12)), abs=0.1)
    assert (spec.silence.seconds, len(spec.silence.units)) == (0.1, 5)
    assert np.shape(spec.silence.codes) == (2, 8)
    assert Path(config.output, spec.semantic.path, "config.json").read_text() == "semantic digest"


def test_a_finished_run_has_nothing_to_do(config, calls) -> None:
    tokenize_corpus.tokenize_corpus(config)
    before = files_of(config.output)
    calls.clear()
    result = tokenize_corpus.tokenize_corpus(config)
    assert not calls
    assert result["real_time_factor"] is None
    assert files_of(config.output) == before
    moved = dataclasses.replace(config, output=config.output + "-moved")
    os.rename(config.output, moved.output)
    tokenize_corpus.tokenize_corpus(moved)
    assert not calls


# Shards hold 5, 5, 5, 5, 2 (train) and 2 (valid) recordings; whole ones are kept.
@pytest.mark.parametrize(
    ("stop", "shards", "kept"), [(1, 0, 0), (9, 1, 5), (23, 5, 22), (24, 6, 24)]
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    config, calls, monkeypatch, stop: int, shards: int, kept: int
) -> None:
    whole = dataclasses.replace(config, output=config.output + "-whole")
    tokenize_corpus.tokenize_corpus(whole)

    encode = FakeSemantic.encode

    def interrupted(self, wav, sample_rate):
        if len(calls) >= stop:
            raise KeyboardInterrupt
        return encode(self, wav, sample_rate)

    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FakeSemantic, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus.tokenize_corpus(config)
    assert not Path(config.output, "dataset.json").exists()
    calls.clear()
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["resumed_shards"] == shards
    assert len(calls) == 24 - kept + 1  # and the silence
    assert files_of(config.output) == files_of(whole.output)


def test_stopping_while_the_dataset_is_finished_loses_nothing(config, calls, monkeypatch) -> None:
    whole = dataclasses.replace(config, output=config.output + "-whole")
    tokenize_corpus.tokenize_corpus(whole)

    def stop(*_args):
        raise KeyboardInterrupt

    for name in ("_split", "encode_silence"):
        with monkeypatch.context() as patch:
            patch.setattr(finish, name, stop)
            with pytest.raises(KeyboardInterrupt):
                tokenize_corpus.tokenize_corpus(config)
    calls.clear()
    tokenize_corpus.tokenize_corpus(config)
    assert len(calls) == 1
    assert files_of(config.output) == files_of(whole.output)


class BatchCodec(FakeCodec):
    """Encodes in batches, and wrongly where `faulty`."""

    equal_lengths = False
    batches: ClassVar[list[int]] = []
    faulty = False

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        self.batches.append(len(wavs))
        if any(0.58 < len(wav) / sample_rate < 0.62 for wav in wavs):
            raise ValueError("no voice in it")
        found = [self.encode(wav, sample_rate) for wav in wavs]
        if self.faulty:
            found[0][0, 0] ^= 1
        return found


def test_batches_give_the_same_bytes_and_name_what_is_refused(config, monkeypatch) -> None:
    encode = FakeCodec.encode

    def refuses(self, wav, sample_rate):
        if 0.58 < len(wav) / sample_rate < 0.62:
            raise ValueError("no voice in it")
        return encode(self, wav, sample_rate)

    monkeypatch.setattr(FakeCodec, "encode", refuses)
    tokenize_corpus.tokenize_corpus(config)
    for module in (corpus_config, tokenize_corpus, shard):
        monkeypatch.setattr(module, "load_codec", lambda path: BatchCodec(path, 75.0, []))
    BatchCodec.batches.clear()
    batched = dataclasses.replace(config, output=config.output + "-batched")
    tokenize_corpus.tokenize_corpus(batched)
    assert 5 in BatchCodec.batches  # a whole shard at once
    alone, found = files_of(config.output), files_of(batched.output)
    for name in alone:
        if "array_record" in name or name == "failures.jsonl":
            assert found[name] == alone[name], name
    assert [failure["reason"] for failure in failures_of(batched)] == ["no voice in it"] * 2


@pytest.mark.parametrize("faulty", [False, True])
def test_tokens_that_batches_change_are_counted(config, monkeypatch, faulty: bool) -> None:
    for module in (corpus_config, tokenize_corpus, shard):
        monkeypatch.setattr(module, "load_codec", lambda path: BatchCodec(path, 75.0, []))
    monkeypatch.setattr(BatchCodec, "faulty", faulty)
    for path in Path(config.audio_dir).rglob("*02.wav"):
        path.unlink()
    statistics = tokenize_corpus.tokenize_corpus(config)["statistics"]
    assert statistics["codec_batch_different"] == (1 if faulty else 0)
    assert statistics["codec_batch_tokens"] > 1000
    assert "semantic_batch_tokens" not in statistics


def test_splits_and_shards_without_records(config) -> None:
    """One shard of two has no good recording; a split has none at all and is left out."""
    root = Path(config.audio_dir)
    for number in range(5):
        (root / "anna" / f"anna{number:02d}.wav").write_bytes(b"")
    config = dataclasses.replace(config, valid_fraction=0.0, heldout_speakers=("bert",))
    for number in range(12):
        (root / "bert" / f"bert{number:02d}.wav").write_bytes(b"")
    result = tokenize_corpus.tokenize_corpus(config)
    assert list(result["splits"]) == ["train"]
    assert result["statistics"]["failed"] == 17
    assert [RecordReader(config.output, "train")[i].id for i in (0, 6)] == [
        "anna/anna05",
        "anna/anna11",
    ]
    assert not list(Path(config.output).glob("*unseen*"))


def test_no_usable_recording_gives_no_dataset(config) -> None:
    for path in Path(config.audio_dir).rglob("*.wav"):
        path.write_bytes(b"")
    for _ in range(2):
        result = tokenize_corpus.tokenize_corpus(config)
        assert result["splits"] == {}
        assert result["statistics"] == {"inputs": 24, "failed": 24}
        assert len(failures_of(config)) == 24
        assert not Path(config.output, "dataset.json").exists()


def test_long_recordings_are_cut_without_loss(config) -> None:
    wav = signal(7.33, 3)
    soundfile.write(Path(config.audio_dir, "anna", "long.wav"), wav, RATE)
    config = dataclasses.replace(config, chunk_seconds=2.0, valid_fraction=0.0)
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"]["records"] == 24 + 4
    reader = RecordReader(config.output, "train")
    chunks = [record for record in reader if record.id.startswith("anna/long")]
    assert [chunk.id[-5:] for chunk in chunks] == ["#0000", "#0001", "#0002", "#0003"]
    assert chunks[0].start == 0
    assert chunks[-1].end == pytest.approx(7.33, abs=1e-3)
    for before, after in itertools.pairwise(chunks):
        assert before.end == after.start
    whole = FakeSemantic(config.semantic, 50.0, [])._loudness(
        soundfile.read(Path(config.audio_dir, "anna", "long.wav"), dtype="float32")[0], 50
    )
    np.testing.assert_array_equal(np.concatenate([chunk.units for chunk in chunks]), whole)
    assert all(len(chunk.units) <= 100 and chunk.codes.shape[1] <= 150 for chunk in chunks)


def test_the_papers_chunks_overlap_in_their_offsets(config) -> None:
    soundfile.write(Path(config.audio_dir, "anna", "long.wav"), signal(7.33, 3), RATE)
    soundfile.write(Path(config.audio_dir, "bert", "tail.wav"), signal(6.5, 4), RATE)
    config = dataclasses.replace(
        config, chunk_seconds=3.0, chunking="paper", min_seconds=1.0, valid_fraction=0.0
    )
    result = tokenize_corpus.tokenize_corpus(config)
    records = {record.id: record for record in RecordReader(config.output, "train")}
    offsets = [(r.start, r.end) for name, r in records.items() if "long" in name]
    np.testing.assert_allclose(offsets, [(0, 3), (3, 6), (4.33, 7.33)], atol=1e-4)
    assert [(r.start, r.end) for name, r in records.items() if "tail" in name] == [(0, 3), (3, 6)]
    assert result["statistics"]["left_out_seconds"] == 0  # half a second, rounded
    assert {Path(f["path"]).name[-6:] for f in failures_of(config)} == {
        f"{number:02d}.wav" for number in range(5)
    }
    with pytest.raises(UserError, match="chunking was 'paper', is None"):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, chunking="even"))


def test_trimmed_silence_shows_in_the_offsets(config) -> None:
    wav = np.concatenate([np.zeros(2 * RATE), signal(1.0, 3), np.zeros(3 * RATE)])
    soundfile.write(Path(config.audio_dir, "anna", "padded.wav"), wav, RATE)
    config = dataclasses.replace(config, trim_silence=True, valid_fraction=0.0)
    result = tokenize_corpus.tokenize_corpus(config)
    record = next(r for r in RecordReader(config.output, "train") if r.id == "anna/padded")
    assert record.start == pytest.approx(1.9, abs=0.03)
    assert record.end == pytest.approx(3.1, abs=0.03)
    assert len(record.units) == pytest.approx(60, abs=3)
    assert result["statistics"]["left_out_seconds"] == 5


def test_a_source_by_name_reads_the_same_records(config) -> None:
    tokenize_corpus.tokenize_corpus(config)
    named = dataclasses.replace(
        config,
        audio_dir=None,
        source=f"folder:{config.audio_dir}",
        output=config.output + "-named",
    )
    tokenize_corpus.tokenize_corpus(named)
    assert files_of(named.output) == files_of(config.output)
