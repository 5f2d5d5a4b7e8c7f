"""Outputs in buckets: made in a local directory, uploaded, and never made again."""

import os
import threading
import time
from pathlib import Path

import pytest

from data_pipeline.datasets import cache
from data_pipeline.runtime import buckets, mirror
from data_pipeline.runtime.errors import UserError


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Function: from now on another host works, with mirrors of its own."""

    def change(name):
        monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / name))
        cache.local_folder.cache_clear()
        cache.configure(str(tmp_path / f"cache-{name}"), 1.0)

    change("a")
    yield change
    cache.local_folder.cache_clear()
    monkeypatch.setattr(cache, "_cache", None)


def write(directory, name, text):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def interrupted(folder, files):
    with mirror.outputs(folder) as here:
        for name, text in files.items():
            write(here, name, text)
        raise KeyboardInterrupt


def make(folder, files):
    with mirror.made(folder) as path:
        for name, text in files.items():
            write(path, name, text)


def copied(folder, name):
    return Path(cache.local_folder(folder), name).read_text()


def names(folder):
    return sorted(buckets.files(folder))


def test_local_outputs_are_where_they_are(tmp_path):
    for place in (mirror.outputs, mirror.output_file, mirror.made):
        with place(tmp_path / "out") as path:
            assert path == tmp_path / "out"
    assert not (tmp_path / "out").exists()


def test_another_host_goes_on_with_the_outputs(folder, host, bucket):
    whole = [".cache/values", "a/manifest.jsonl", "a/x.wav", "b/part.wav", "settings.json"]
    with pytest.raises(KeyboardInterrupt):
        interrupted(folder, dict.fromkeys([*whole, "b/.y.wav.part"], "x"))
    assert names(folder) == whole

    host("b")
    with mirror.outputs(folder) as here:
        assert (here / "a" / "manifest.jsonl").read_text() == "x"
        write(here, "a/x.wav", "other")
        (here / "b" / "part.wav").unlink()
    assert names(folder) == [name for name in whole if name != "b/part.wav"]

    host("a")  # the first host comes back: the bucket decides
    before = len(bucket.requests)
    with mirror.outputs(folder) as here:
        assert (here / "a" / "x.wav").read_text() == "other"
        assert not (here / "b" / "part.wav").exists()
    read = {name.rsplit("/", 1)[-1] for what, name in bucket.calls(before) if what == "read"}
    assert read - {".claim.json"} == {"x.wav"}  # what is equal is not copied


def test_outputs_that_were_removed_from_the_bucket_are_gone(folder, host):
    with mirror.outputs(folder) as here:
        write(here, "settings.json", "1")
    buckets.remove(f"{folder}/settings.json")
    with mirror.outputs(folder) as here:
        assert not list(here.iterdir())


def test_a_manifest_is_uploaded_after_what_it_lists(folder, host, bucket):
    here = mirror.Mirror(folder, seconds=0.05, exact=True).open()
    stopped = threading.Event()

    def make():
        for number in range(8):
            for item in ("z", "y"):
                write(here.local, f"{number}/{item}.wav", item)
            write(here.local, f"{number}/manifest.jsonl", "z y")
            time.sleep(0.04)
        stopped.set()

    thread = threading.Thread(target=make)
    thread.start()
    while not stopped.is_set():
        there = set(buckets.files(folder))
        for number in range(8):
            if f"{number}/manifest.jsonl" in there:
                assert {f"{number}/z.wav", f"{number}/y.wav"} <= there
    thread.join()
    here.close()
    assert len(buckets.files(folder)) == 24


def test_one_process_writes_outputs(folder, host):
    with mirror.outputs(folder):
        refused = pytest.raises(UserError, match=f"writing {folder}: process {os.getpid()}")
        with refused, mirror.outputs(folder):
            pass
        with refused, mirror.made(folder):
            pass


def test_single_files(folder, host):
    with mirror.output_file(f"{folder}/out.wav") as path:
        assert path.name == "out.wav"
        path.write_text("audio")
        path.with_suffix(".json").write_text("about")
    assert names(folder) == ["out.json", "out.wav"]
    with pytest.raises(UserError, match="give gs://BUCKET/NAME"), mirror.output_file("gs://b"):
        pass


def test_what_is_made_counts_when_it_is_complete(folder, host, bucket):
    make(folder, {"weights.bin": "1", "checkpoints/4/params": "1"})
    committed = f"checkpoints/4/{buckets.COMMIT_FILE}"
    assert names(folder) == [committed, "checkpoints/4/params", "weights.bin"]
    with pytest.raises(UserError, match="exists: name another --output"):
        mirror.check_new(folder)
    copy = cache.local_folder(folder)
    assert copied(folder, "weights.bin") == "1"

    bucket.fail = lambda what, name: 403 if (what, name[-3:]) == ("write", "bin") else None
    with pytest.raises(buckets.BucketError):
        make(folder, {"weights.bin": "2", "checkpoints/8/params": "2"})
    bucket.fail = lambda what, name: None
    assert committed not in names(folder)
    host("b")
    with pytest.raises(UserError, match="run the command that writes it again"):
        cache.local_folder(folder)

    mirror.check_new(folder)
    make(folder, {"weights.bin": "3"})
    assert names(folder) == ["weights.bin"]
    assert copied(folder, "weights.bin") == "3"
    host("a")
    assert cache.local_folder(folder) != copy  # other contents are another copy


def test_what_a_step_of_uploads_asks_of_the_bucket(folder, host, bucket):
    """Nothing is listed after the start, and what has not changed is not sent again."""
    with mirror.outputs(folder) as here:
        for number in range(20):
            write(here, f"{number}.wav", "x")
    before = len(bucket.requests)
    with mirror.outputs(folder) as here:
        write(here, "20.wav", "x")
    asked = bucket.calls(before)
    assert [name for what, name in asked if what == "list" and name] == [f"{_name(folder)}/"]
    written = [name.rsplit("/", 1)[-1] for what, name in asked if what == "write"]
    assert written[0].startswith(".probe-")
    assert written[1:] == [".claim.json", "20.wav"]
    assert len(asked) < 10


def _name(folder):
    return buckets.bucket_and_name(folder)[1]
