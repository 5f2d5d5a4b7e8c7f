"""Files in buckets: mirrors, claims, and a bucket that fails, against a server on this machine."""

import dataclasses
import importlib
import os
import subprocess
import sys
import threading

import pytest

from data_pipeline.runtime import bucket_claim, buckets, claim, mirror
from data_pipeline.runtime.errors import UserError

ANYWHERE = "gs://bucket/run"


def mirrored(folder, monkeypatch, host):
    """The mirror of a folder on another host; nothing is uploaded in the background."""
    monkeypatch.setenv(mirror.VARIABLE, str(host))
    return mirror.Mirror(folder, seconds=1000)


def test_a_local_directory_is_its_own_mirror(tmp_path):
    own = mirror.Mirror(tmp_path).open()
    assert own.local == tmp_path
    own.upload()
    own.close()
    assert mirror.local_directory(ANYWHERE).parts[-2:] == ("bucket", "run")


def test_another_host_goes_on_where_the_last_upload_was(folder, monkeypatch, tmp_path):
    first = mirrored(folder, monkeypatch, tmp_path / "a").open()
    (first.local / "run_id").write_text("one")
    (first.local / "metrics.jsonl").write_text("1\n")
    (first.local / "tensorboard").mkdir()
    (first.local / "tensorboard" / "events.1").write_text("e")
    (first.local / "trackio").mkdir()
    (first.local / "trackio" / "runs.db").write_text("open")
    first.upload()
    with (first.local / "metrics.jsonl").open("a") as file:
        file.write("2\n")  # never uploaded: this host dies

    second = mirrored(folder, monkeypatch, tmp_path / "b").open()
    assert (second.local / "metrics.jsonl").read_text() == "1\n"
    with (second.local / "metrics.jsonl").open("a") as file:
        file.write("two\n")
    second.close()
    assert buckets.read(f"{folder}/metrics.jsonl") == b"1\ntwo\n"
    assert sorted(buckets.files(folder)) == ["metrics.jsonl", "run_id", "tensorboard/events.1"]

    third = mirrored(folder, monkeypatch, tmp_path / "a").open()  # the first host comes back
    assert (third.local / "metrics.jsonl").read_text() == "1\ntwo\n"
    assert (third.local / "trackio" / "runs.db").exists()
    third.close()


def test_a_mirror_of_a_former_life_is_made_anew(folder, monkeypatch, tmp_path):
    old = mirrored(folder, monkeypatch, tmp_path)
    old.local.mkdir(parents=True)
    (old.local / "run_id").write_text("deleted from the bucket")
    (old.local / "metrics.jsonl").write_text("1\n")
    old.open().close()
    assert not list(old.local.iterdir())
    assert not buckets.files(folder)


def test_only_what_has_changed_is_uploaded_and_nothing_is_listed(
    folder, monkeypatch, tmp_path, bucket
):
    here = mirrored(folder, monkeypatch, tmp_path).open()
    for number in range(20):
        (here.local / f"{number}.txt").write_text("x")
    here.upload()
    before = len(bucket.requests)
    here.upload()
    assert len(bucket.requests) == before
    (here.local / "7.txt").write_text("changed")
    here.upload()
    assert [what for what, _ in bucket.calls(before)] == ["write"]
    here.close()


def test_one_process_holds_a_folder(folder):
    with bucket_claim.claimed(folder) as holder:
        assert holder.pid == os.getpid()
        refused = pytest.raises(UserError, match=f"writing {folder}: process {os.getpid()} on ")
        with refused, bucket_claim.claimed(folder):
            pass
    with bucket_claim.claimed(folder):
        pass
    assert not buckets.files(folder)


def test_of_many_that_claim_at_once_one_succeeds(folder, monkeypatch):
    monkeypatch.setattr(bucket_claim, "_free_generation", lambda place: 0)  # all have seen it free
    arrived, held = threading.Barrier(4), []

    def take():
        arrived.wait()
        try:
            with bucket_claim.claimed(folder):
                held.append(True)
                done.wait(20)
        except UserError:
            held.append(False)
        if len(held) == 4:
            done.set()

    done = threading.Event()
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(held) < 4:
        pass
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False, False, False, True]


def test_the_dead_are_replaced_and_the_living_elsewhere_are_not(folder, monkeypatch, capsys):
    program = (
        "import sys, os\n"
        "from data_pipeline.runtime import bucket_claim\n"
        "with bucket_claim.claimed(sys.argv[1]):\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True)
    assert list(buckets.files(folder)) == [claim.CLAIM_FILE]
    with bucket_claim.claimed(folder):  # on this machine it is known to be dead
        pass

    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(claim, "DEAD_SECONDS", 2.0)
    real = claim.this_process
    elsewhere = dataclasses.replace(real(), machine="another", host="far")
    monkeypatch.setattr(claim, "this_process", lambda: elsewhere)
    with bucket_claim.claimed(folder):  # it beats
        monkeypatch.setattr(claim, "this_process", real)
        with pytest.raises(UserError, match="on far"), bucket_claim.claimed(folder):
            pass
    place = bucket_claim._Place(folder)
    place.write(elsewhere, 0)  # it does not beat
    with bucket_claim.claimed(folder) as holder:
        assert holder.machine != "another"
    assert "watching for up to 2 s" in capsys.readouterr().err


@pytest.mark.parametrize("status", [503, 429])
def test_a_bucket_that_fails_for_a_while_is_asked_again(folder, bucket, status, monkeypatch):
    retry = importlib.import_module("gcsfs.retry")
    monkeypatch.setattr(retry.asyncio, "sleep", _soon(retry.asyncio.sleep))
    bucket.fail_first(3, status)
    buckets.write(f"{folder}/a", b"data")
    bucket.fail_first(3, status)
    assert buckets.read(f"{folder}/a") == b"data"


def _soon(sleep):
    async def wait(seconds, *rest):
        await sleep(min(seconds, 0.01), *rest)

    return wait


def test_a_bucket_that_never_answers_is_one_line(folder, bucket, monkeypatch):
    retry = importlib.import_module("gcsfs.retry")
    monkeypatch.setattr(retry.asyncio, "sleep", _soon(retry.asyncio.sleep))
    bucket.fail = lambda what, name: 503
    with pytest.raises(buckets.BucketError) as caught:
        buckets.check_writable(folder)
    assert caught.value.filename == folder
    assert "\n" not in str(caught.value)
    bucket.fail = lambda what, name: -1  # the connection is closed
    with pytest.raises(buckets.BucketError):
        buckets.files(folder)
    bucket.fail = lambda what, name: 403
    with pytest.raises(UserError, match=folder):
        buckets.check_writable(folder)


def test_a_bucket_that_does_not_exist_is_said(folder, bucket):
    with pytest.raises(UserError, match="no-such-bucket"):
        buckets.check_writable("gs://no-such-bucket/run")
    with pytest.raises(UserError, match="give gs://BUCKET/NAME"):
        buckets.check_writable(f"gs://{bucket.name}")


def test_without_its_extra_one_line_names_it(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'gcsfs'")

    buckets._file_system.cache_clear()
    monkeypatch.setattr(buckets.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"gs://bucket/run: pip install 'gpst_jax\[gcs\]'"):
        buckets.location(ANYWHERE)
    buckets._file_system.cache_clear()
