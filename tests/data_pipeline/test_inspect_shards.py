"""Inspection: statistics match the records, every kind of fault is listed, a page in one file."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_records import Record
from data_pipeline.fitting.offline import fit_tokenizers
from data_pipeline.inspect_shards import effective_number, inspect_shards, to_json
from data_pipeline.inspection.statistics import Usage
from data_pipeline.sources import FolderSource
from data_pipeline.tokenize_corpus import CorpusConfig, tokenize_corpus
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig

ROOT = Path(token_records.__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(make_token_record) -> list[Record]:
    return [make_token_record(n, "abc"[n % 3], ("en", "zh")[n % 2]) for n in range(30)]


def test_statistics_match_the_records(corpus, write_dataset, tmp_path) -> None:
    write_dataset(tmp_path, {"train": corpus[:24], "valid": corpus[24:]})
    statistics = inspect_shards(str(tmp_path))
    assert statistics.whole
    assert not statistics.duplicates.count
    figures = json.loads(json.dumps(to_json(statistics)))
    train = figures["splits"]["train"]
    assert (train["records"], figures["splits"]["valid"]["records"]) == (24, 6)
    assert train["hours"] == pytest.approx(sum(r.end for r in corpus[:24]) / 3600, abs=1e-6)
    assert train["seconds"]["max"] == pytest.approx(max(r.end for r in corpus[:24]), abs=1e-4)
    assert sum(train["length_histogram"]["counts"]) == 24
    assert sum(train["silence_histogram"]["counts"]) == 24
    silence = np.mean([(r.units == 7).mean() for r in corpus[:24]])
    assert train["silence_share"]["mean"] == pytest.approx(silence, abs=1e-3)
    assert train["speakers"] == 3
    speaker = sum(r.end for r in corpus[:24] if r.speaker == "b") / 3600
    assert train["speaker_hours"]["b"] == pytest.approx(speaker, abs=1e-5)
    assert sum(train["language_hours"].values()) == pytest.approx(train["hours"], abs=1e-4)
    units = np.bincount(np.concatenate([r.units for r in corpus]), minlength=20)
    np.testing.assert_array_equal(statistics.units.counts, units)
    for book, usage in enumerate(statistics.codebooks):
        codes = np.concatenate([r.codes[book] for r in corpus])
        np.testing.assert_array_equal(usage.counts, np.bincount(codes, minlength=16))
    assert train["frames_apart"]["max"] <= 0.5


def test_entropy_and_dead_codes() -> None:
    usage = Usage(np.array([4, 4, 0, 8]))
    assert usage.dead == 1
    assert usage.entropy_bits == pytest.approx(1.5)
    assert usage.summary()["most_frequent"] == 3
    assert Usage(np.zeros(4, np.int64)).entropy_bits == 0
    assert effective_number([2.0, 2.0, 2.0]) == pytest.approx(3)
    assert effective_number([]) == 0


def _inspect(dataset: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_pipeline.inspect_shards", str(dataset), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_damaged_shard_is_named_and_the_rest_is_read(corpus, write_dataset, tmp_path) -> None:
    write_dataset(tmp_path / "data", {"train": corpus})
    shard = tmp_path / "data" / token_records.shard_name("train", 1, 3)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    result = _inspect(tmp_path / "data", f"--json_out={tmp_path / 'figures.json'}")
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert not figures["whole"]
    assert figures["faults"]["shards"]["count"] == 1
    unreadable = figures["faults"]["unreadable"]
    assert unreadable["count"] >= 1
    assert all(shard.name in name for name in unreadable["named"])
    assert shard.name in result.stdout
    assert figures["splits"]["train"]["records"] == 30 - unreadable["count"]
    assert figures["splits"]["train"]["records"] >= 20


def test_a_missing_shard_is_named(corpus, write_dataset, tmp_path) -> None:
    write_dataset(tmp_path, {"train": corpus})
    name = token_records.shard_name("train", 2, 3)
    (tmp_path / name).unlink()
    faults = inspect_shards(str(tmp_path)).faults
    assert name in faults["shards"].named[0]
    assert faults["unreadable"].count == 10


def test_records_at_fault_are_named(corpus, write_dataset, tmp_path) -> None:
    wrong = list(corpus)
    wrong[3] = dataclasses.replace(corpus[3], codes=corpus[3].codes[:, :-3])
    wrong[7] = dataclasses.replace(corpus[7], units=corpus[7].units + np.uint16(20))
    wrong[11] = dataclasses.replace(corpus[11], codes=corpus[11].codes + np.uint16(16))
    wrong[20] = dataclasses.replace(corpus[20], id=corpus[2].id)
    wrong[25] = dataclasses.replace(corpus[9], id="copy")
    write_dataset(tmp_path, {"train": wrong[:24], "valid": wrong[24:]})
    statistics = inspect_shards(str(tmp_path))
    found = {kind: faults.named for kind, faults in statistics.faults.items() if faults.count}
    assert set(found) == {"alignment", "range", "duplicate_id"}
    assert re.match(r"train record 3 \(0/3\): \d+ units, \d+ frames", found["alignment"][0])
    assert ["record 7" in found["range"][0], "record 11" in found["range"][1]] == [True, True]
    assert found["duplicate_id"] == ["train record 20 (0/2) duplicates train record 2 (0/2)"]
    assert statistics.duplicates.named == ["valid record 1 (copy) duplicates train record 9 (0/9)"]
    assert not statistics.whole


def test_records_that_disagree_with_the_index_are_named(corpus, write_dataset, tmp_path) -> None:
    write_dataset(tmp_path / "one", {"train": corpus})
    write_dataset(tmp_path / "two", {"train": corpus[::-1]})
    for shard in range(3):
        name = token_records.shard_name("train", shard, 3)
        (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    faults = inspect_shards(str(tmp_path / "one")).faults
    assert faults["index"].count > 20
    assert faults["shards"].count == 1
    assert len(faults["index"].named) == 20


def test_a_directory_without_dataset_is_an_error_of_one_line(tmp_path) -> None:
    result = _inspect(tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_the_page_is_one_file_with_plots_and_players(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from data_pipeline.inspection import page as inspection_page

    rng = np.random.default_rng(0)
    for number in range(6):
        pitch = np.repeat(rng.uniform(100, 2000, 10), 1600)
        wav = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000)
        path = tmp_path / "audio" / f"{number % 2}" / f"<i>{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wav, 16000)
    fit_tokenizers(
        FolderSource(tmp_path / "audio").list()[0],
        tmp_path,
        MFCCKMeansConfig(vocab_size=8),
        MelRVQConfig(num_codebooks=2, codebook_size=8),
        num_workers=0,
    )
    dataset = str(tmp_path / "dataset")
    tokenize_corpus(
        CorpusConfig(
            str(tmp_path / "audio"),
            dataset,
            semantic=str(tmp_path / "semantic"),
            codec=str(tmp_path / "codec"),
            num_workers=0,
            valid_fraction=0.0,
        )
    )
    statistics = inspect_shards(dataset)
    inspection_page.write_page(
        str(tmp_path / "page.html"), dataset, statistics, to_json(statistics), num_examples=2
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count("<audio") == 2
    assert page.count("<picture>") == 3
    assert "0/&lt;i&gt;" in page  # names are text, not markup
    assert "<i>" not in page
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', page)
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)
