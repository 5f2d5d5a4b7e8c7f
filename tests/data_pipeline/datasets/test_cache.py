"""Datasets in a bucket: copied once per host, checked, and bounded in size."""

import pytest
from bucket_server import bucket, folder  # noqa: F401

from data_pipeline.datasets import cache
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime import buckets
from data_pipeline.runtime.errors import UserError

PACKING = PackingConfig(sequence_length=600, frame_budget=340, crop_seconds=2.0, seed=3)
SHARDS = 3


@pytest.fixture
def here(tmp_path, write_dataset, make_token_record):
    directory = tmp_path / "tokens"
    records = [make_token_record(number) for number in range(24)]
    write_dataset(directory, {"train": records}, shards=SHARDS)
    return directory


@pytest.fixture
def there(here, folder):  # noqa: F811
    """The same dataset in the bucket."""
    for name in buckets.files(here):
        buckets.write(f"{folder}/{name}", (here / name).read_bytes())
    return folder


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A host of its own for each test."""
    cache._opened.cache_clear()
    cache.configure(str(tmp_path / "cache"), 1.0)
    yield tmp_path / "cache"
    cache._opened.cache_clear()
    monkeypatch.setattr(cache, "_cache", None)


def batches(path, number=6):
    loader = Loader(path, "train", PACKING, 2)
    found = [next(loader) for _ in range(number)]
    state = loader.get_state()
    loader.close()
    return found, state


def test_batches_are_those_of_the_local_dataset(here, there, bucket):  # noqa: F811
    (ours, state), (theirs, other) = batches(there), batches(here)
    assert state == other
    for one, two in zip(ours, theirs, strict=True):
        assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in two.items()}
    shards = [name for what, name in bucket.calls() if what == "read" and ".array_record-" in name]
    assert len(shards) == len(set(shards)) == SHARDS  # each once


def test_another_process_of_the_host_copies_nothing(there, bucket):  # noqa: F811
    batches(there)
    cache._opened.cache_clear()
    before = len(bucket.requests)
    batches(there)
    assert {name.rsplit("/", 1)[-1] for _, name in bucket.calls(before)} == {"dataset.json"}


def test_other_shards_than_dataset_json_describes_are_refused(here, there):
    name = next(name for name in buckets.files(here) if ".array_record-00001" in name)
    data = bytearray((here / name).read_bytes())
    data[len(data) // 2] ^= 1
    buckets.write(f"{there}/{name}", bytes(data))
    copy = cache.Shards.of(*_opened(there))
    with pytest.raises(UserError, match="upload the dataset again"):
        list(map(copy.need, copy._names))
    buckets.write(f"{there}/{name}", (here / name).read_bytes())  # the remedy
    batches(there)


def _opened(path):
    copy = cache._opened(path)
    names = sorted(name for name in buckets.files(path) if ".array_record-" in name)
    return copy, "train", names


def test_a_dataset_that_does_not_fit_is_refused(there, kept):
    cache.configure(str(kept), 1e-6)
    with pytest.raises(UserError, match="raise --data_cache_gib"):
        Loader(there, "train", PACKING, 2)


def test_what_nothing_reads_makes_room(here, there, bucket, kept, monkeypatch):  # noqa: F811
    size = sum(size for name, size in buckets.files(here).items() if ".array_record-" in name)
    cache.configure(str(kept), 1.5 * size / 2**30)
    second = f"{there}-2"
    for name in buckets.files(here):
        buckets.write(f"{second}/{name}", (here / name).read_bytes())
    batches(there)
    with pytest.raises(UserError, match="which other processes read"):
        batches(second)
    for file in cache._held:  # this process ends
        file.close()
    cache._held.clear()
    batches(second)
    copies = [path for path in kept.iterdir() if path.is_dir()]
    assert [path.name.startswith(second.rsplit("/", 1)[-1]) for path in copies] == [True]


def test_a_missing_dataset_is_said(folder):  # noqa: F811
    with pytest.raises(UserError, match=f"{folder}/dataset.json does not exist"):
        Loader(folder, "train", PACKING, 2)
