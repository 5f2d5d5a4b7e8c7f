"""Corpus to shards: every input accounted for, exact after interruption, bad input named."""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from data_pipeline import corpus_config, finish_dataset, tokenize_corpus, tokenize_shard
from data_pipeline.chunking import chunk_bounds
from data_pipeline.cli import UserError
from data_pipeline.records import RecordReader
from data_pipeline.spec import DatasetSpec, LengthIndex
from data_pipeline.tokenize_corpus import CorpusConfig
from data_pipeline.tokenize_shard import align
from data_pipeline.tokens import TokenLayout, deduplicate

RATE = 16000
LAYOUT = TokenLayout(num_units=50, num_codebooks=2, codebook_size=32)


class FakeTokenizer:
    """Both tokenizers at once: tokens are loudness, quantised."""

    def __init__(self, path: str | Path, frame_rate: float, calls: list[float]):
        self.sha256 = Path(path, "config.json").read_text()
        self.id = "fake"
        self.sample_rate = RATE
        self.frame_rate = frame_rate
        self.vocab_size = LAYOUT.num_units
        self.num_codebooks = LAYOUT.num_codebooks
        self.codebook_size = LAYOUT.codebook_size
        self._calls = calls

    def _loudness(self, wav: np.ndarray, size: int) -> np.ndarray:
        hop = RATE / self.frame_rate
        count = int(np.ceil(len(wav) / hop))
        bounds = (np.arange(count) * hop).astype(int)
        peaks = np.maximum.reduceat(np.abs(wav), bounds)
        return np.minimum(peaks * size, size - 1).astype(np.uint16)


class FakeSemantic(FakeTokenizer):
    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        assert sample_rate == RATE
        assert wav.dtype == np.float32
        self._calls.append(len(wav) / sample_rate)
        return self._loudness(wav, self.vocab_size)


class FakeCodec(FakeTokenizer):
    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        codes = self._loudness(wav, self.codebook_size)
        return np.stack([codes, self.codebook_size - 1 - codes])


@pytest.fixture
def calls(monkeypatch) -> list[float]:
    """Fake tokenizers in place of real ones; seconds of every encoded signal."""
    calls: list[float] = []
    for module in (corpus_config, tokenize_corpus, tokenize_shard):
        monkeypatch.setattr(module, "load_semantic", lambda path: FakeSemantic(path, 50.0, calls))
        monkeypatch.setattr(module, "load_codec", lambda path: FakeCodec(path, 75.0, calls))
    return calls


def _signal(seconds: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = round(seconds * RATE)
    envelope = np.repeat(random.uniform(0.1, 0.9, size // 1600 + 1), 1600)[:size]
    return (envelope * np.sin(np.arange(size) * 0.3)).astype(np.float32)


@pytest.fixture
def config(tmp_path, calls) -> CorpusConfig:
    """Two speakers with twelve recordings each, 0.3 to 2 s, and where to write."""
    for speaker in ("anna", "bert"):
        folder = tmp_path / "audio" / speaker
        folder.mkdir(parents=True)
        for number in range(12):
            seconds = 0.3 + 0.15 * number
            soundfile.write(folder / f"{speaker}{number:02d}.wav", _signal(seconds, number), RATE)
    for name in ("semantic", "codec"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f"{name} digest")
    return CorpusConfig(
        audio_dir=str(tmp_path / "audio"),
        output=str(tmp_path / "out"),
        semantic=str(tmp_path / "semantic"),
        codec=str(tmp_path / "codec"),
        utterances_per_shard=5,
        num_workers=0,
        valid_fraction=0.1,
    )


def _files(directory: str) -> dict[str, bytes]:
    root = Path(directory)
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _failures(config: CorpusConfig) -> list[dict]:
    lines = Path(config.output, "failures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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
    assert _failures(config) == []
    found = {}
    for split in spec.splits:
        reader, index = (
            RecordReader(config.output, split),
            LengthIndex.load(config.output, spec, split),
        )
        assert len(reader) == len(index)
        for number in range(len(reader)):
            record = reader.read(number, index.units[number], index.frames[number])
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
    before = _files(config.output)
    calls.clear()
    result = tokenize_corpus.tokenize_corpus(config)
    assert not calls
    assert result["real_time_factor"] is None
    assert _files(config.output) == before
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
    assert _files(config.output) == _files(whole.output)


def test_stopping_while_the_dataset_is_finished_loses_nothing(config, calls, monkeypatch) -> None:
    whole = dataclasses.replace(config, output=config.output + "-whole")
    tokenize_corpus.tokenize_corpus(whole)

    def stop(*_args):
        raise KeyboardInterrupt

    for name in ("_split", "encode_silence"):
        with monkeypatch.context() as patch:
            patch.setattr(finish_dataset, name, stop)
            with pytest.raises(KeyboardInterrupt):
                tokenize_corpus.tokenize_corpus(config)
    calls.clear()
    tokenize_corpus.tokenize_corpus(config)
    assert len(calls) == 1
    assert _files(config.output) == _files(whole.output)


def _noise_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _nan(path: Path) -> None:
    wav = _signal(1.0, 0)
    wav[50] = np.nan
    soundfile.write(path, wav, RATE, subtype="FLOAT")


def _truncated_flac(path: Path) -> None:
    soundfile.write(path, _signal(2.0, 0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES: dict[str, Callable[[Path], None]] = {
    "empty.wav": lambda path: path.write_bytes(b""),
    "noise.mp3": _noise_bytes,
    "short.wav": lambda path: soundfile.write(path, _signal(0.05, 0), RATE),
    "silent.wav": lambda path: soundfile.write(path, np.zeros(RATE), RATE),
    "nan.wav": _nan,
    "cut.flac": _truncated_flac,
}


def test_bad_files_are_listed_and_the_rest_is_processed(config, calls) -> None:
    for name, make in BAD_FILES.items():
        make(Path(config.audio_dir, "bert", name))
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"] == {
        "inputs": 30,
        "recorded": 24,
        "failed": 6,
        "failed_decode": 6,
        "records": 24,
    }
    failures = _failures(config)
    assert [Path(failure["path"]).name for failure in failures] == sorted(BAD_FILES)
    assert all(failure["reason"] and failure["stage"] == "decode" for failure in failures)
    files = _files(config.output)
    tokenize_corpus.tokenize_corpus(config)
    assert _files(config.output) == files


def test_listing_failures_are_in_the_manifest(config, tmp_path) -> None:
    rows = [f"bert/bert{n:02d}.wav,bert,two words" for n in range(12)]
    table = tmp_path / "audio" / "table.csv"
    table.write_text("\n".join(["path,speaker,text", *rows, "bert/none.wav,bert,x"]) + "\n")
    config = dataclasses.replace(config, transcripts=str(table))
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"]["inputs"] == 25
    assert result["statistics"]["failed_list"] == 13
    assert {failure["stage"] for failure in _failures(config)} == {"list"}
    assert RecordReader(config.output, "train")[0].text == "two words"


def test_a_recording_that_a_tokenizer_refuses_is_listed(config, monkeypatch) -> None:
    encode = FakeCodec.encode

    def refuses(self, wav, sample_rate):
        if 0.58 < len(wav) / sample_rate < 0.62:
            raise ValueError("no voice in it")
        codes = encode(self, wav, sample_rate)
        return codes[:, :-20] if len(wav) / sample_rate > 1.9 else codes

    monkeypatch.setattr(FakeCodec, "encode", refuses)
    result = tokenize_corpus.tokenize_corpus(config)
    reasons = sorted(failure["reason"] for failure in _failures(config))
    assert reasons[:2] == ["no voice in it"] * 2
    assert all(reason.startswith("the streams disagree by 0.2") for reason in reasons[2:])
    assert result["statistics"]["failed_tokenise"] == len(reasons) == 4


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
    for module in (corpus_config, tokenize_corpus, tokenize_shard):
        monkeypatch.setattr(module, "load_codec", lambda path: BatchCodec(path, 75.0, []))
    BatchCodec.batches.clear()
    batched = dataclasses.replace(config, output=config.output + "-batched")
    tokenize_corpus.tokenize_corpus(batched)
    assert 5 in BatchCodec.batches  # a whole shard at once
    alone, found = _files(config.output), _files(batched.output)
    for name in alone:
        if "array_record" in name or name == "failures.jsonl":
            assert found[name] == alone[name], name
    assert [failure["reason"] for failure in _failures(batched)] == ["no voice in it"] * 2


@pytest.mark.parametrize("faulty", [False, True])
def test_tokens_that_batches_change_are_counted(config, monkeypatch, faulty: bool) -> None:
    for module in (corpus_config, tokenize_corpus, tokenize_shard):
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
        assert len(_failures(config)) == 24
        assert not Path(config.output, "dataset.json").exists()


def test_long_recordings_are_cut_without_loss(config) -> None:
    wav = _signal(7.33, 3)
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
    soundfile.write(Path(config.audio_dir, "anna", "long.wav"), _signal(7.33, 3), RATE)
    soundfile.write(Path(config.audio_dir, "bert", "tail.wav"), _signal(6.5, 4), RATE)
    config = dataclasses.replace(
        config, chunk_seconds=3.0, chunking="paper", min_seconds=1.0, valid_fraction=0.0
    )
    result = tokenize_corpus.tokenize_corpus(config)
    records = {record.id: record for record in RecordReader(config.output, "train")}
    offsets = [(r.start, r.end) for name, r in records.items() if "long" in name]
    np.testing.assert_allclose(offsets, [(0, 3), (3, 6), (4.33, 7.33)], atol=1e-4)
    assert [(r.start, r.end) for name, r in records.items() if "tail" in name] == [(0, 3), (3, 6)]
    assert result["statistics"]["left_out_seconds"] == 0  # half a second, rounded
    assert {Path(f["path"]).name[-6:] for f in _failures(config)} == {
        f"{number:02d}.wav" for number in range(5)
    }
    with pytest.raises(UserError, match="chunking was 'paper', is None"):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, chunking="even"))


def test_trimmed_silence_shows_in_the_offsets(config) -> None:
    wav = np.concatenate([np.zeros(2 * RATE), _signal(1.0, 3), np.zeros(3 * RATE)])
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
    assert _files(named.output) == _files(config.output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_dir": None}, "either --audio_dir or --source"),
        ({"source": "folder:x"}, "either --audio_dir or --source"),
        ({"audio_dir": None, "source": "folder:x", "transcripts": "t"}, "transcripts=FILE"),
        ({"chunking": "odd"}, "odd"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(config, changes: dict, message) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_seconds": 20.0}, r"chunk_seconds was 30.0, is 20.0"),
        ({"seed": 1}, r"seed was 0, is 1"),
        ({"heldout_speakers": ("anna",)}, "heldout_speakers was None"),
    ],
)
def test_a_directory_of_another_run_is_refused(config, changes: dict, message: str) -> None:
    tokenize_corpus.tokenize_corpus(config)
    before = _files(config.output)
    with pytest.raises(UserError, match=message):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, **changes))
    assert _files(config.output) == before


def test_other_tokenizers_and_other_recordings_are_refused(config, tmp_path) -> None:
    tokenize_corpus.tokenize_corpus(config)
    (tmp_path / "codec" / "config.json").write_text("other digest")
    with pytest.raises(UserError, match="codec was 'codec digest', is 'other digest'"):
        tokenize_corpus.tokenize_corpus(config)
    (tmp_path / "codec" / "config.json").write_text("codec digest")
    soundfile.write(Path(config.audio_dir, "anna", "new.wav"), _signal(1.0, 0), RATE)
    with pytest.raises(UserError, match=r"recordings changed \(24 inputs then, 25 now\)"):
        tokenize_corpus.tokenize_corpus(config)


def test_directories_that_cannot_be_used_are_refused(config, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        tokenize_corpus.tokenize_corpus(
            dataclasses.replace(config, output=str(tmp_path / "file" / "out"))
        )
    with pytest.raises(UserError, match="is not empty"):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, output=str(tmp_path)))
    tokenize_corpus.tokenize_corpus(config)
    next(Path(config.output).glob("*train*-00002-*")).unlink()
    with pytest.raises(UserError, match="00002-of-00005 is missing"):
        tokenize_corpus.tokenize_corpus(config)


def test_two_processes_do_not_write_one_directory(config) -> None:
    tokenize_corpus.tokenize_corpus(config)
    description = json.loads(Path(config.output, "run.json").read_text())
    with (
        tokenize_corpus.claimed(Path(config.output), description),
        pytest.raises(UserError, match="another process is writing"),
    ):
        tokenize_corpus.tokenize_corpus(config)


@pytest.mark.parametrize(
    "changes", [{"min_seconds": 0.0}, {"min_seconds": 40.0}, {"chunk_seconds": 0.5}]
)
def test_impossible_settings_are_refused(config, changes: dict) -> None:
    with pytest.raises(UserError, match="seconds"):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("rates", [(50.0, 75.0), (50.0, 12.5), (50.0, 86.1328125)])
@pytest.mark.parametrize("sample_rate", [16000, 24000, 44100])
def test_chunks_cover_a_recording_and_are_short_enough(rates, sample_rate: int) -> None:
    layout = dataclasses.replace(LAYOUT, unit_rate=rates[0], frame_rate=rates[1])
    random = np.random.default_rng(0)
    sizes = [1, 10 * sample_rate, 10 * sample_rate + 1, 36000 * sample_rate]
    for size in [*sizes, *random.integers(1, 200 * sample_rate, 50).tolist()]:
        chunks = np.array(list(chunk_bounds(size, sample_rate, 10.0, layout)))
        assert chunks[0, 0] == 0
        assert chunks[-1, 1] == size
        np.testing.assert_array_equal(chunks[1:, 0], chunks[:-1, 1])
        lengths = np.diff(chunks, axis=1)
        assert lengths.max() <= 10 * sample_rate
        if len(chunks) > 1:
            assert lengths.min() > 3 * sample_rate
        if rates == (50.0, 75.0) and sample_rate == 16000:
            assert (chunks[:, 0] % 640 == 0).all()


@pytest.mark.parametrize(
    ("num_units", "num_frames", "expected"),
    [(100, 150, (100, 150)), (100, 153, (100, 151)), (103, 150, (100, 150)), (1, 1, (1, 1))],
)
def test_streams_are_trimmed_to_within_a_frame(num_units, num_frames, expected) -> None:
    units, codes = align(LAYOUT, np.arange(num_units) % 50, np.ones((2, num_frames), int))
    assert (len(units), codes.shape[1]) == expected
    assert abs(codes.shape[1] - 1.5 * len(units)) <= 1


@pytest.mark.parametrize(
    ("units", "codes", "message"),
    [
        (np.zeros(0, int), np.zeros((2, 0), int), "too short"),
        (np.zeros(100, int), np.zeros((2, 170), int), "disagree by 0.27 s"),
        (np.full(10, 50), np.zeros((2, 15), int), "out of range"),
        (np.zeros(10, int), np.zeros((3, 15), int), "codes must be"),
    ],
)
def test_wrong_streams_are_refused(units, codes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align(LAYOUT, units, codes)
