"""Items of datasets of every source: their audio is found, their transcripts are kept."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_corpus import RATE, calls, config, signal  # noqa: F401
from stored_archive import unpack_with_recordings

from data_pipeline import tokenize_corpus
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization.inputs import INPUTS_FILE
from gpst_jax.samples.items import Item, ItemSet, find_audio

SECONDS = 2.0
SPOKEN = {f"u{number}": signal(SECONDS, number) for number in range(3)}


def wav_bytes(wav: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wav, RATE, format="WAV")
    return content.getvalue()


def talk() -> np.ndarray:
    """A recording that holds all of `SPOKEN`, 0.5 s after it begins."""
    return np.concatenate([np.zeros(RATE // 2, np.float32), *SPOKEN.values()])


def bounds() -> list[tuple[str, float, float]]:
    return [(name, 0.5 + SECONDS * n, 0.5 + SECONDS * (n + 1)) for n, name in enumerate(SPOKEN)]


def manifest(folder: Path) -> str:
    soundfile.write(folder / "why? a talk.wav", talk(), RATE)
    rows = [f"why? a talk.wav,{name},{start},{end},s,words of {name},valid"
            for name, start, end in bounds()]  # fmt: skip
    path = folder / "table.csv"
    path.write_text("\n".join(["path,id,start,end,speaker,text,split", *rows]) + "\n")
    return f"manifest:{path}"


def kaldi(folder: Path) -> str:
    soundfile.write(folder / "talk.wav", talk(), RATE)
    data = folder / "data" / "train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text(f"talk {folder / 'talk.wav'}\n")
    for name, rows in {
        "segments": [f"{name} talk {start} {end}" for name, start, end in bounds()],
        "text": [f"{name} words of {name}" for name in SPOKEN],
        "utt2spk": [f"{name} s" for name in SPOKEN],
    }.items():
        (data / name).write_text("\n".join(rows) + "\n")
    return f"kaldi:{data}"


def tar(folder: Path) -> str:
    with tarfile.open(folder / "a.tar", "w") as file:
        for name, wav in SPOKEN.items():
            content = {"wav": wav_bytes(wav), "txt": f"words of {name}".encode()}
            content["json"] = json.dumps({"speaker": "s"}).encode()
            for suffix, data in content.items():
                entry = tarfile.TarInfo(f"in/{name}.{suffix}")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    return f"webdataset:{folder / 'a.tar'}"


def tfds(folder: Path) -> str:
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    root = folder / "spoken" / "1.0.0"
    root.mkdir(parents=True)
    writer = ArrayRecordWriter(
        str(root / "spoken-some.array_record-00000-of-00001"), "group_size:1"
    )
    for name, wav in SPOKEN.items():
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["speech"].bytes_list.value.append(wav_bytes(wav))
        feature["text"].bytes_list.value.append(f"words of {name}".encode())
        feature["id"].bytes_list.value.append(name.encode())
        feature["speaker_id"].bytes_list.value.append(b"s")
        writer.write(example.SerializeToString())
    writer.close()
    audio = {"shape": {"dimensions": ["-1"]}, "encoding": "none", "sampleRate": str(RATE)}
    features = {"speech": {"pythonClassName": "Audio", "audio": audio}}
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    split = {"name": "some", "shardLengths": ["3"]}
    info = {"name": "spoken", "fileFormat": "array_record", "splits": [split]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return f"tfds:{root}"


def tokenised(config, source: str, **changes) -> tuple[Path, DatasetSpec]:  # noqa: F811
    changes = {"valid_fraction": 0.0, "audio_dir": None, "source": source} | changes
    tokenize_corpus.tokenize_corpus(dataclasses.replace(config, **changes))
    return Path(config.output), DatasetSpec.load(config.output)


def items_of(config, source: str, audio_dir=None, **changes) -> tuple[ItemSet, dict[str, Item]]:  # noqa: F811
    """The items by their texts."""
    dataset, spec = tokenised(config, source, **changes)
    (split,) = spec.splits
    items = ItemSet(dataset, spec, split, find_audio(dataset, [split], audio_dir))
    return items, {str(item.text): item for item in items.all}


@pytest.mark.parametrize("make", [manifest, kaldi, tar, tfds])
def test_the_audio_of_every_source_is_found(config, tmp_path, make):  # noqa: F811
    folder = tmp_path / "corpus? start"
    folder.mkdir()
    items, found = items_of(config, make(folder))
    assert set(found) == {f"words of {name}" for name in SPOKEN}
    for name, wav in SPOKEN.items():
        audio = items.audio(found[f"words of {name}"].segments)
        np.testing.assert_allclose(audio, wav, atol=1e-4)
    tables = folder / "data" / "train" if make is kaldi else folder / "spoken"
    assert find_audio(config.output, [items.split], tables) == items.audio_dir  # it was there


def test_a_moved_corpus_is_named_or_refused_in_one_line(config, tmp_path):  # noqa: F811
    folder = tmp_path / "corpus"
    folder.mkdir()
    items_of(config, tar(folder))
    folder.rename(tmp_path / "moved")
    assert find_audio(config.output, ["train"], tmp_path / "moved") == tmp_path / "moved"
    with pytest.raises(UserError, match=r"--audio_dir=.*corpus: it has no a\.tar, which the train"):
        find_audio(config.output, ["train"], None)
    Path(config.output, INPUTS_FILE).unlink()
    with pytest.raises(UserError, match="does not say where its recordings were"):
        find_audio(config.output, ["train"], None)


def long_corpus(config, lengths: list[float]) -> str:  # noqa: F811
    """Recordings of some lengths with transcripts; returns the table."""
    folder = Path(config.audio_dir, "long")
    folder.mkdir()
    rows = []
    for number, seconds in enumerate(lengths):
        soundfile.write(folder / f"{number}.wav", signal(seconds, number), RATE)
        rows.append(f"{number}.wav,s,text {number}")
    (folder / "table.csv").write_text("\n".join(["path,speaker,text", *rows]) + "\n")
    return f"manifest:{folder / 'table.csv'}"


def test_recordings_of_ordinary_length_keep_their_transcripts(config):  # noqa: F811
    items, found = items_of(config, long_corpus(config, [4.0, 12.0, 29.9]))
    assert set(found) == {"text 0", "text 1", "text 2"}
    assert [item.seconds for item in found.values()] == pytest.approx([4.0, 12.0, 29.9], abs=0.01)
    assert all(len(item.segments) == 1 for item in items.all)


@pytest.mark.parametrize("chunking", ["even", "paper"])
def test_cut_recordings_are_joined_with_their_transcripts(config, chunking):  # noqa: F811
    lengths = [1.5, 7.5, 31.5] if chunking == "even" else [1.5, 7.5, 6.5, 31.5]
    source = long_corpus(config, lengths)
    settings = {"chunk_seconds": 3.0, "chunking": chunking, "min_seconds": 1.0}
    items, found = items_of(config, source, **settings)
    records = list(RecordReader(config.output, "train"))
    # No part has the transcript of the whole, and only the first one tells it.
    parts = [record for record in records if record.id.startswith("1#")]
    assert [record.text for record in parts] == [None] * 3
    assert [record.recording_text for record in parts] == ["text 1", None, None]
    assert next(r for r in records if r.id == "0").recording_text is None
    # 31.5 s are too long for an item, and of 6.5 s the paper's rule drops the end.
    assert set(found) == {"text 0", "text 1", "None"}
    item = found["text 1"]
    assert item.seconds == pytest.approx(7.5, abs=0.01)
    wav, _ = soundfile.read(Path(config.audio_dir, "long", "1.wav"), dtype="float32")
    np.testing.assert_allclose(items.audio(item.segments), wav, atol=1e-4)
    ((units, codes),) = [segment.part for segment in item.segments]
    assert (len(units), codes.shape[1]) == pytest.approx((375, 562), abs=3)
    assert sum(i.seconds for i in items.all if i.text is None) == pytest.approx(
        31.5 if chunking == "even" else 31.5 + 1.5 + 6.0, abs=0.1
    )


def test_a_limit_on_segments_holds_for_all_and_one_on_items_for_the_rest(config):  # noqa: F811
    dataset, spec = tokenised(config, long_corpus(config, [4.0, 12.0]))
    for options, texts in (
        ({"max_seconds": 5.0}, {"text 0", None}),
        ({"max_seconds": 3.0}, {None}),
        ({"max_item_seconds": 11.0}, {"text 0", None}),
        ({"max_item_seconds": 12.1}, {"text 0", "text 1"}),
    ):
        items = ItemSet(dataset, spec, "train", ".", **options).all
        assert {item.text for item in items} == texts
        assert sum(item.seconds for item in items) == pytest.approx(16.0, abs=0.05)


def test_languages_of_items(config, tmp_path):  # noqa: F811
    rows = []
    for number, language in enumerate(["en", "", "zh"]):
        soundfile.write(tmp_path / f"{number}.wav", signal(1.2, number), RATE)
        rows.append(f"{number}.wav,s,text {number},{language}")
    (tmp_path / "t.csv").write_text("\n".join(["path,speaker,text,language", *rows]) + "\n")
    _, found = items_of(config, f"manifest:{tmp_path / 't.csv'}")
    assert [found[f"text {n}"].language for n in range(3)] == ["en", None, "zh"]
    segments = tuple(segment for item in found.values() for segment in item.segments)
    assert Item("all", "s", segments).language == "mul"


def test_datasets_without_the_new_feature_are_read_as_before(tmp_path):
    directory = unpack_with_recordings(tmp_path)
    tokens = directory / "tokens"
    records = list(RecordReader(tokens, "valid"))
    assert records
    assert all(record.recording_text is None for record in records)
    spec = DatasetSpec.load(tokens)
    audio_dir = find_audio(tokens, ["valid", "unseen"], directory / "recordings")
    items = ItemSet(tokens, spec, "valid", audio_dir)
    assert sum(item.seconds for item in items.all) == pytest.approx(
        sum(record.end - record.start for record in records), abs=1e-3
    )
    assert all(item.text for item in items.all)
    assert len(items.audio(items.all[0].segments)) > 0
