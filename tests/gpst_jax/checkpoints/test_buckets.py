"""Checkpoints in a bucket: what counts, what does not, and what an outage is taken for."""

import jax
import numpy as np
import pytest
from stored_checkpoint import make_params, write_run

from data_pipeline.runtime import buckets
from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.record import CheckpointError, DamagedCheckpointError


def steps(folder):
    return manager.Checkpoints(folder, writable=False).steps


def assert_params(loaded, step):
    jax.tree.map(np.testing.assert_array_equal, loaded.params, make_params(step))


def test_saved_and_loaded_like_any_other(folder, tmp_path):
    assert manager.Checkpoints(folder).steps == []
    with pytest.raises(CheckpointError, match=f"no checkpoints in {folder}-not"):
        manager.load_params(f"{folder}-not")
    write_run(folder, steps=(1, 2))
    write_run(tmp_path, steps=(1, 2))
    assert steps(folder) == [1, 2]
    ours, theirs = manager.load_params(folder), manager.load_params(tmp_path)
    assert ours.config == theirs.config
    assert_params(ours, 2)
    assert_params(manager.load_params(folder, step=1), 1)
    saves = manager.Checkpoints(folder, writable=False)
    saves.verify(2)
    saves.read_back(2)
    assert saves.saved_at(2) >= saves.saved_at(1) > 1e9
    assert saves.directory.name == "checkpoints"


def test_old_ones_are_removed(folder):
    saves = manager.Checkpoints(folder, keep_latest=1)
    for step in (1, 2, 3):
        saves.save(step, {"params": make_params(step)}, {"data": {}})
    saves.close()
    assert steps(folder) == [3]
    names = {name.split("/")[1] for name in buckets.files(folder)}
    assert names == {"3"}


def test_a_half_written_checkpoint_never_counts(folder):
    write_run(folder, steps=(1, 2))
    half = f"{folder}/checkpoints/2"
    buckets.file_system(folder).rm_file(f"{half}/{buckets.COMMIT_FILE}")
    assert steps(folder) == [1]
    assert_params(manager.load_params(folder), 1)
    assert buckets.files(half)  # a live run may be writing it
    write_run(folder, steps=(2,))
    assert steps(folder) == [1, 2]
    assert_params(manager.load_params(folder), 2)


def test_damage_is_found_and_set_aside(folder):
    write_run(folder, steps=(1, 2))
    broken = f"{folder}/checkpoints/2"
    largest = max(
        (name for name in buckets.files(broken) if name.startswith("params/") and "/d/" in name),
        key=lambda name: buckets.files(broken)[name],
    )
    data = bytearray(buckets.read(f"{broken}/{largest}"))
    data[len(data) // 2] ^= 16
    buckets.write(f"{broken}/{largest}", bytes(data))
    saves = manager.Checkpoints(folder, keep_latest=10)
    with pytest.raises(DamagedCheckpointError):
        saves.read_back(2)
    before = buckets.files(broken)
    aside = saves.set_aside(2)
    assert str(aside) == f"{folder}/damaged_checkpoints/2"
    assert buckets.files(aside) == before
    assert saves.steps == steps(folder) == [1]
    saves.close()


def test_an_outage_is_not_taken_for_damage(folder, monkeypatch):
    write_run(folder, steps=(1,))
    saves = manager.Checkpoints(folder, writable=False)

    def silent(path):
        raise buckets.BucketError(5, "no answer", folder)

    def broken(step):
        raise ValueError("not there")

    monkeypatch.setattr(saves._checkpointer, "checkpointables_metadata", broken, raising=False)
    with pytest.raises(DamagedCheckpointError):
        saves.read_record(1)
    monkeypatch.setattr(buckets, "files", silent)
    with pytest.raises(buckets.BucketError, match="no answer"):
        saves.read_record(1)


def test_what_a_save_asks_of_the_bucket(folder, bucket):
    """The number of requests does not grow with the number of objects that are there."""
    for number in range(200):
        buckets.write(f"{folder}/tensorboard/{number}", b"x")
    saves = manager.Checkpoints(folder, keep_latest=2)
    asked = []
    for step in (1, 2, 3, 4):
        before = len(bucket.requests)
        saves.save(step, {"params": make_params(step)}, {"data": {}})
        saves.wait()
        asked.append([what for what, _ in bucket.calls(before)])
    saves.close()
    assert len(asked[-1]) < 200
    assert len(asked[-1]) <= 1.1 * len(asked[-2])  # each save removes an older one
    assert not [name for what, name in bucket.calls() if what == "list" and "tensorboard" in name]
