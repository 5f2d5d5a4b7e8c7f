"""Tokens of the official GPST layout are imported unchanged, and none is lost silently."""

import json
import shutil

import numpy as np
import pytest

from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.import_gpst import ImportConfig, import_gpst
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ, MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans, MFCCKMeansConfig

lmdb = pytest.importorskip("lmdb")


class Bomb:
    def __reduce__(self):
        return (print, ("the pickle ran",))


def put(path, items: dict[str, np.ndarray]):
    import pickle  # as the official code does; nothing here reads it

    path.mkdir(parents=True)
    with (
        lmdb.open(str(path), map_size=1 << 24) as environment,
        environment.begin(write=True) as txn,
    ):
        for key, value in items.items():
            txn.put(key.encode(), value.astype(np.int64).tobytes())
            txn.put(f"{key}_size".encode(), pickle.dumps(Bomb()))


def tokenizers(root) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    units = MFCCKMeansConfig(vocab_size=30)
    weights = {"centroids": rng.standard_normal((30, 39)), "mean": np.zeros(39)}
    weights["deviation"] = np.ones(39)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    storage.save_tokenizer(root / "semantic", MFCCKMeans.kind, units, weights)
    codes = MelRVQConfig(sample_rate=24_000, frame_rate=75.0, num_codebooks=8, codebook_size=64)
    weights = {
        "mean": np.zeros(80, np.float32),
        "codebooks": rng.standard_normal((8, 64, 80)).astype(np.float32),
        "smoothers": np.zeros((8, 240, 80), np.float32),
    }
    storage.save_tokenizer(root / "codec", MelRVQ.kind, codes, weights)
    return str(root / "semantic"), str(root / "codec")


def test_units_and_the_first_codebooks_arrive_and_the_rest_is_accounted_for(tmp_path, capsys):
    rng = np.random.default_rng(1)
    units = {f"/d/103-1-{i:04d}.flac": rng.integers(0, 30, 50 + i) for i in range(5)}
    codes = {
        key: rng.integers(0, 64, (16, round(1.5 * len(value)))) for key, value in units.items()
    }
    good = dict(units)
    units["/d/only-units.flac"] = rng.integers(0, 30, 50)
    codes["/d/only-codes.flac"] = rng.integers(0, 64, (16, 75))
    units["/d/apart.flac"], codes["/d/apart.flac"] = np.zeros(50), np.zeros((16, 300))
    units["/d/range.flac"], codes["/d/range.flac"] = np.full(50, 30), np.zeros((16, 75))
    units["/d/depth.flac"], codes["/d/depth.flac"] = np.zeros(50), np.zeros(75)
    put(tmp_path / "xlsr2_unit/dev", units)
    put(tmp_path / "meta24khz_12kpbs_codec/dev", codes)
    semantic, codec = tokenizers(tmp_path / "t")
    config = ImportConfig(str(tmp_path), str(tmp_path / "out"), {"train": "dev"}, semantic, codec)
    result = import_gpst(config)
    assert "the pickle ran" not in capsys.readouterr().out
    assert result["statistics"]["inputs"] == 10
    assert result["statistics"]["recorded"] == 5
    reader = RecordReader(tmp_path / "out", "train")
    for record in (reader[i] for i in range(len(reader))):
        np.testing.assert_array_equal(record.units, good[record.id])
        np.testing.assert_array_equal(record.codes, codes[record.id][:8])
        assert record.speaker == "103"
    lines = (tmp_path / "out/failures.jsonl").read_text().splitlines()
    reasons = {failure["id"]: failure["reason"] for failure in map(json.loads, lines)}
    assert len(reasons) == 5
    assert "codes lack this recording" in reasons["/d/only-units.flac"]
    assert "units lack this recording" in reasons["/d/only-codes.flac"]
    assert "disagree" in reasons["/d/apart.flac"]
    assert "16 codebooks" in reasons["/d/depth.flac"]
    assert import_gpst(config)["fingerprint"] == result["fingerprint"]


def test_other_tokens_under_the_same_keys_are_another_corpus(tmp_path):
    semantic, codec = tokenizers(tmp_path / "t")
    rng = np.random.default_rng(1)
    units, codes = rng.integers(0, 30, 50), rng.integers(0, 64, (16, 75))
    config = ImportConfig(str(tmp_path), str(tmp_path / "out"), {"train": "s"}, semantic, codec)
    for _ in range(2):
        for folder, value in (("xlsr2_unit", units), ("meta24khz_12kpbs_codec", codes)):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
            put(tmp_path / folder / "s", {"/d/1-1-0001.flac": value})
        assert import_gpst(config)["fingerprint"]  # the same tokens, written again
    shutil.rmtree(tmp_path / "xlsr2_unit")
    put(tmp_path / "xlsr2_unit" / "s", {"/d/1-1-0001.flac": (units + 1) % 30})
    with pytest.raises(UserError, match=r"recordings changed \(1 inputs then, 1 now\)"):
        import_gpst(config)
    path = tmp_path / "out" / "run.json"
    run = json.loads(path.read_text())
    del run["inputs_sha256"]  # as an older version wrote it
    path.write_text(json.dumps(run))
    assert import_gpst(config)["fingerprint"]


def test_what_cannot_be_imported_is_a_user_error(tmp_path):
    semantic, codec = tokenizers(tmp_path / "t")
    config = ImportConfig(str(tmp_path), str(tmp_path / "out"), {"train": "x"}, semantic, codec)
    with pytest.raises(UserError, match="not an LMDB"):
        import_gpst(config)
    with pytest.raises(UserError, match="codebooks"):
        import_gpst(
            ImportConfig(str(tmp_path), "o", {"train": "x"}, semantic, codec, stored_codebooks=4)
        )
    for splits, codes_dir, message in (
        ({"test": "x"}, "c_6kbps", "'test'"),
        ({}, "c_6kbps", "at least one"),
        ({"train": "x"}, "codes", "kbps"),
    ):
        with pytest.raises(UserError, match=message):
            ImportConfig("r", "o", splits, semantic, codec, codes_dir=codes_dir)
    assert ImportConfig("r", "o", {"train": "x"}, "s", "c", codes_dir="c_6kbps").depth == 8
