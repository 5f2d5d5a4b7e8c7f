"""Token datasets: specs and indices survive a round trip, and every mismatch is reported."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipeline.datasets.token_dataset import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from data_pipeline.runtime.errors import UserError


def _index(size: int = 3) -> LengthIndex:
    return LengthIndex(
        units=np.arange(1, size + 1, dtype=np.int32),
        units_dedup=np.ones(size, np.int32),
        frames=np.arange(2, size + 2, dtype=np.int32),
        speaker=np.arange(size, dtype=np.int32) % 2,
        language=np.zeros(size, np.int32),
        speakers=("Zoë", "unknown"),
        languages=("und",),
    )


def _spec(index_sha256: str = "0", records: int = 3) -> DatasetSpec:
    return DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("kmeans", "aa", 100, 50.0, "tokenizers/semantic"),
        codec=CodecSpec("rvq", "bb", 2, 64, 75.0, 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=("und",),
        silence=SilenceSpec(0.1, (1, 1), ((2, 3), (4, 5))),
        splits={"train": SplitSpec(records, 1, 0.5, index_sha256, "cc")},
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={"inputs": 3},
    ).sealed()


def test_spec_survives_a_round_trip(tmp_path) -> None:
    _spec().save(tmp_path)
    assert DatasetSpec.load(tmp_path) == _spec()
    layout = DatasetSpec.load(tmp_path).layout()
    assert (layout.semantic_vocab, layout.acoustic_vocab) == (104, 132)


def test_unsealed_spec_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="sealed"):
        dataclasses.replace(_spec(), sample_rate=8000).save(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sample_rate", "16000", "sample_rate: expected int, found '16000'"),
        ("sample_rate", True, "sample_rate: expected int, found True"),
        ("semantic", [], "semantic: expected an object"),
        ("semantic.extra", 1, "semantic: unknown key 'extra'"),
        ("codec.num_codebooks", None, "missing key 'num_codebooks'"),
        ("silence.codes", 3, "silence: codes: expected a list"),
        ("splits.train.hours", "x", "splits: train: hours: expected a number"),
        ("version", 99, "version is 99"),
        ("chunk_seconds", 20.0, "does not match its fingerprint"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, path: str, value, message: str) -> None:
    _spec().save(tmp_path)
    file = tmp_path / "dataset.json"
    content = json.loads(file.read_text())
    *parents, name = path.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[name]
    else:
        place[name] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        DatasetSpec.load(tmp_path)
    assert str(file) in str(error.value)


def test_missing_and_damaged_files_are_user_errors(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        DatasetSpec.load(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        DatasetSpec.load(tmp_path)


def test_fingerprint_covers_the_content_of_shards_and_index() -> None:
    spec = _spec()
    split = spec.splits["train"]
    prints = {spec.fingerprint}
    for name in ("index_sha256", "shards_sha256"):
        changed = dataclasses.replace(split, **{name: "other"})
        prints.add(dataclasses.replace(spec, splits={"train": changed}).sealed().fingerprint)
    prints.add(dataclasses.replace(spec, min_seconds=1.0).sealed().fingerprint)
    assert len(prints) == 4


def test_length_index_survives_a_round_trip_and_is_checked(tmp_path) -> None:
    path = index_path(tmp_path, "train")
    digest = _index().save(path)
    assert _index().save(path) == digest
    loaded = LengthIndex.load(tmp_path, _spec(digest), "train")
    for name in LengthIndex.ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(_index(), name))
        assert getattr(loaded, name).dtype == np.int32
    assert (loaded.speakers, loaded.languages) == (("Zoë", "unknown"), ("und",))
    with pytest.raises(UserError, match=r"holds 3 records, dataset.json 4"):
        LengthIndex.load(tmp_path, _spec(digest, records=4), "train")
    with pytest.raises(UserError, match="is not the file that"):
        LengthIndex.load(tmp_path, _spec("other"), "train")
    with pytest.raises(UserError, match="no split 'test'"):
        LengthIndex.load(tmp_path, _spec(digest), "test")
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        LengthIndex.load(tmp_path, _spec(digest), "train")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("units", np.zeros(3, np.int32)),
        ("units", np.ones(3, np.int64)),
        ("frames", np.ones(2, np.int32)),
        ("speaker", np.full(3, 2, np.int32)),
    ],
)
def test_an_invalid_index_is_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(_index(), **{name: value})
