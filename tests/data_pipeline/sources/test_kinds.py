"""Every kind of source lists all its recordings or their failures, and its audio can be read."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from data_pipeline.audio.io import AudioError
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import (
    FolderSource,
    HFDatasetSource,
    KaldiSource,
    LhotseSource,
    ManifestSource,
    TarSource,
    TFDSSource,
    Utterance,
    open_source,
    read_audio,
)

RATE = 16_000


def signal(seed: int, seconds: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.3 * rng.standard_normal(round(seconds * RATE))).clip(-1, 1).astype(np.float32)


def write(path, wav: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, RATE, subtype="PCM_16")
    return path


def wav_bytes(wav: np.ndarray, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, RATE, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def assert_audio(utterance: Utterance, expected: np.ndarray):
    np.testing.assert_allclose(read_audio(utterance, RATE), expected, atol=1e-4)


def lines(path, *rows: str):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def reasons(failures) -> dict[str, str]:
    assert all(failure.stage == "list" for failure in failures)
    return {failure.id: failure.reason for failure in failures}


@pytest.fixture
def recordings(tmp_path):
    write(tmp_path / "audio/ann/a.wav", signal(0))
    write(tmp_path / "audio/bob/b.flac", signal(1, 2.0))
    return tmp_path


def test_jsonl_and_csv_manifests_say_the_same(recordings):
    rows = [
        {"path": "audio/ann/a.wav", "speaker": "ann", "text": "one, two", "language": "en"},
        {"path": "bob/b.flac", "split": "dev", "duration": 2.0, "weight": None},
        {"path": "audio/none.wav"},
        {"path": "audio/ann/a.txt"},
        {"path": "audio/ann/a.wav", "split": "holdout"},
        {"text": "no path"},
    ]
    jsonl = lines(recordings / "m.jsonl", *map(json.dumps, rows))
    zipped = recordings / "m.jsonl.gz"  # audiocraft's data.jsonl.gz
    zipped.write_bytes(gzip.compress(jsonl.read_bytes()))
    table = lines(
        recordings / "m.csv",
        "path,speaker,text,language,split",
        'audio/ann/a.wav,ann,"one, two",en,',
        "bob/b.flac,,,,dev",
        "audio/none.wav,,,,",
        "audio/ann/a.txt,,,,",
        "audio/ann/a.wav,,,,holdout",
        ",,no path,,",
    )
    for manifest in (jsonl, zipped, table):
        source = ManifestSource(manifest, recordings / "audio", language="de")
        utterances, failures = source.list()
        found = [(u.id, u.speaker, u.text, u.language, u.split) for u in utterances]
        assert found == [
            ("ann/a", "ann", "one, two", "en", ""),
            ("bob/b", "bob", None, "de", "valid"),
        ]
        assert len(failures) == 4
        text = " ".join(reasons(failures).values())
        for part in ("does not exist", "a.txt", "'holdout'", "no path"):
            assert part in text
        assert_audio(utterances[0], signal(0))


def test_a_segment_is_that_stretch_of_its_recording(recordings):
    manifest = lines(
        recordings / "m.jsonl",
        '{"audio_filepath": "audio/bob/b.flac", "offset": 0.5, "duration": 0.25}',
        '{"audio_filepath": "audio/bob/b.flac", "offset": 0.0, "duration": 2.0}',
        '{"audio_filepath": "audio/bob/b.flac", "start": 1.5, "end": 9.0}',
        '{"audio_filepath": "audio/bob/b.flac", "start": 1.5}',
        '{"audio_filepath": "audio/bob/b.flac", "start": 1.5, "end": 1.0}',
    )
    utterances, failures = ManifestSource(manifest).list()
    by_id = {utterance.id: utterance for utterance in utterances}
    assert sorted(by_id) == ["audio/bob/b", "audio/bob/b@0.500", "audio/bob/b@1.500"]
    assert_audio(by_id["audio/bob/b"], signal(1, 2.0))
    assert_audio(by_id["audio/bob/b@0.500"], signal(1, 2.0)[8_000:12_000])
    with pytest.raises(AudioError, match="before the segment"):
        read_audio(by_id["audio/bob/b@1.500"], RATE)
    assert len(failures) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "file,text\n", "path"),
        ("m.jsonl", "{not json\n", "line 1"),
        ("m.jsonl", "", "no recordings"),
        ("m.xml", "<a/>", "not one of"),
        ("m.jsonl.gz", "not gzip", "m.jsonl.gz"),
        ("gone.csv", None, "gone.csv"),
    ],
)
def test_manifests_that_cannot_be_read_are_user_errors(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        ManifestSource(tmp_path / name).list()


def test_kaldi_directories_with_and_without_segments(recordings):
    data = recordings / "data"
    data.mkdir()
    lines(
        data / "wav.scp",
        "ann-1 audio/ann/a.wav",
        "bob-1 audio/bob/b.flac",
        "cmd-1 rm -rf / |",
        "ark-1 foo.ark:17",
        "gone-1 audio/gone.wav",
    )
    lines(data / "text", "ann-1 ONE TWO", "cmd-1 X", "ark-1 X", "gone-1 X")
    lines(data / "utt2spk", "ann-1 ann", "bob-1 bob")
    utterances, failures = KaldiSource(data, recordings).list()
    assert [(u.id, u.speaker, u.text) for u in utterances] == [("ann-1", "ann", "ONE TWO")]
    assert_audio(utterances[0], signal(0))
    said = reasons(failures)
    assert "transcript" in said["bob-1"]
    assert "command" in said["cmd-1"]
    assert "archives" in said["ark-1"]
    assert "does not exist" in said["gone-1"]

    (data / "text").unlink()
    lines(data / "segments", "s1 bob-1 0.5 1.0", "s2 other 0 1", "s3 ann-1 x y")
    utterances, failures = KaldiSource(data, recordings).list()
    assert [u.id for u in utterances] == ["s1"]
    assert_audio(utterances[0], signal(1, 2.0)[8_000:16_000])
    assert {"s2", "s3", "ann-1", "cmd-1"} <= set(reasons(failures))


def make_tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def test_tar_shards_list_samples_and_read_them_by_offset(tmp_path):
    make_tar(
        tmp_path / "s-000.tar",
        {
            "a/0001.flac": wav_bytes(signal(2), "FLAC"),
            "a/0001.txt": b"one two\n",
            "a/0001.json": b'{"speaker": 17, "language": "en"}',
            "a/0002.wav": wav_bytes(signal(3)),
            "a/0003.txt": b"no audio",
            "a/0004.wav": b"not audio",
            "a/0005.wav": wav_bytes(signal(4)),
            "a/0005.txt": b"\xff\xfe",
        },
    )
    make_tar(tmp_path / "s-001.tar", {"a/0001.wav": wav_bytes(signal(5))})
    utterances, failures = TarSource(tmp_path, language="de").list()
    assert [u.id for u in utterances] == [
        "s-000/a/0001", "s-000/a/0002", "s-000/a/0004", "s-001/a/0001",
    ]  # fmt: skip
    first, second, broken, other = utterances
    assert (first.speaker, first.text, first.language) == ("17", "one two", "en")
    assert (second.speaker, second.text, second.language) == ("unknown", None, "de")
    assert_audio(first, signal(2))
    assert_audio(second, signal(3))
    assert_audio(other, signal(5))
    with pytest.raises(AudioError, match="decoded"):
        read_audio(broken, RATE)
    said = reasons(failures)
    assert "no .wav" in said["s-000/a/0003"]
    assert "UTF-8" in said["s-000/a/0005"]
    assert len(failures) == 2


def test_damaged_and_compressed_tar_shards_are_failures_with_the_rest_used(tmp_path):
    whole = make_tar(tmp_path / "a.tar", {f"{i}.wav": wav_bytes(signal(i)) for i in range(3)})
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "c.tar").write_bytes(gzip.compress(whole.read_bytes()))
    utterances, failures = TarSource(tmp_path / "?.tar").list()
    assert {u.id for u in utterances} >= {"a/0", "a/1", "a/2", "b/0"}
    assert {failure.id for failure in failures} == {"b", "c"}
    with pytest.raises(UserError, match="no tar files"):
        TarSource(tmp_path / "*.zip").list()


def make_tfds(root, *, lazy: bool = False, file_format: str = "array_record", rate=str(RATE)):
    """A prepared dataset in the layout that TFDS writes, two shards of `train_clean`."""
    pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    root.mkdir(parents=True)
    for shard in range(2):
        name = f"librispeech-train_clean.{file_format}-{shard:05d}-of-00002"
        writer = ArrayRecordWriter(str(root / name), "group_size:1")
        for row in range(3):
            seed = 10 * shard + row
            example = tf_example_pb2.Example()
            feature = example.features.feature
            if lazy:
                feature["speech"].bytes_list.value.append(wav_bytes(signal(seed), "FLAC"))
            else:
                pcm = np.round(signal(seed) * 32767).astype(int)
                feature["speech"].int64_list.value.extend(pcm.tolist())
            feature["text"].bytes_list.value.append(b"WORDS")
            feature["id"].bytes_list.value.append(f"19-198-{seed:04d}".encode())
            feature["speaker_id"].int64_list.value.append(19)
            writer.write(example.SerializeToString())
        writer.close()
    package = "tensorflow_datasets.core.features"
    speech = {
        "pythonClassName": f"{package}.audio_feature.Audio",
        "audio": {
            "shape": {"dimensions": ["-1"]},
            "dtype": "int16",
            "encoding": "none",
            "sampleRate": rate,
            "lazyDecode": lazy,
        },
    }
    features = {"speech": speech, "text": {"pythonClassName": f"{package}.text_feature.Text"}}
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    info = {
        "name": "librispeech",
        "fileFormat": file_format,
        "splits": [
            {
                "name": "train_clean",
                "shardLengths": ["3", "3"],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        ],
    }
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("lazy", [False, True])
def test_tfds_audio_datasets_are_read_without_tensorflow(tmp_path, lazy):
    directory = make_tfds(tmp_path / "librispeech/2.1.2", lazy=lazy)
    for source in (TFDSSource(directory), TFDSSource("librispeech", data_dir=str(tmp_path))):
        utterances, failures = source.list()
        assert failures == []
        assert len(utterances) == 6
        fifth = next(u for u in utterances if u.id == "train_clean/19-198-0011")
        assert (fifth.speaker, fifth.text, fifth.split) == ("19", "WORDS", "")
        np.testing.assert_allclose(read_audio(fifth, RATE), signal(11), atol=2e-4)


def test_tfds_datasets_that_do_not_fit_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        TFDSSource(make_tfds(tmp_path / "a/1.0.0"), split="test").list()
    with pytest.raises(UserError, match="--file_format=array_record"):
        TFDSSource(make_tfds(tmp_path / "b/1.0.0", file_format="tfrecord")).list()
    silent = make_tfds(tmp_path / "c/1.0.0", rate="0")
    with pytest.raises(UserError, match="sample_rate="):
        TFDSSource(silent).list()
    assert len(TFDSSource(silent, sample_rate=RATE).list()[0]) == 6
    with pytest.raises(UserError, match="tfds build ljspeech"):
        TFDSSource("ljspeech", data_dir=str(tmp_path)).list()


def test_sources_by_name(tmp_path):
    assert open_source("/some/where") == FolderSource("/some/where")
    assert open_source("manifest:m.csv?language=en") == ManifestSource("m.csv", language="en")
    assert open_source("kaldi:data/train") == KaldiSource("data/train")
    assert open_source("webdataset:s-???.tar?language=en") == TarSource("s-???.tar", "en")
    assert open_source("webdataset:s-???.tar") == TarSource("s-???.tar")
    expected = TFDSSource("librispeech", split="a+b", sample_rate=16000)
    assert open_source("tfds:librispeech?split=a%2Bb&sample_rate=16000") == expected
    expected = LhotseSource("cuts.jsonl.gz", per="cut", language="en")
    assert open_source("lhotse:cuts.jsonl.gz?per=cut&language=en") == expected
    expected = HFDatasetSource("org/name", config="en", split="train+test", audio="clip")
    assert open_source("hf:org/name?config=en&split=train%2Btest&audio=clip") == expected
    for name, message in {
        "manifest:": "no location",
        "manifest:m.csv?speed=3": "unknown option 'speed'",
        "tfds:x?sample_rate=fast": "must be an integer",
    }.items():
        with pytest.raises(UserError, match=message):
            open_source(name)


def test_duplicate_ids_are_refused_in_every_source(recordings):
    manifest = lines(
        recordings / "m.jsonl",
        '{"path": "audio/ann/a.wav", "id": "x"}',
        '{"path": "audio/bob/b.flac", "id": "x"}',
    )
    utterances, failures = ManifestSource(manifest).list()
    assert [u.id for u in utterances] == ["x"]
    assert "duplicate id" in failures[0].reason
