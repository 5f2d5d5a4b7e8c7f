"""Names of workdirs: what is written can be read, or the run is refused at the start."""

import jax
import numpy as np
import pytest
from stored_checkpoint import make_params, write_run

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import manager, storage
from gpst_jax.weights.sources import OrbaxSource, read_whole

GOOD = [
    "a b", " a ", "{a,b}", "a]", "é日本", "e\u0301", "a\nb", "a#b", "a%20b", "a%b", "a@b", "a:b",
    "a|b", "a'b", 'a"b', "-a", "~a", "$HOME", "a&b=c", "a;b", "a,b", "a!b", "x" * 240, "7",
]  # fmt: skip
BAD = ["a[1]", "[!x]", "a[", "a*b", "a?b", "a\\b", "gs:", "s3:", "a\udc80b"]


@pytest.mark.parametrize("names", [GOOD[:8], GOOD[8:16], GOOD[16:]])
def test_what_is_written_is_read(tmp_path, names):
    """By a run that goes on, by one that only reads, and array by array as exports do."""
    for name in names:
        write_run(tmp_path / name, steps=(1,))
        assert manager.load_params(tmp_path / name).step == 1
        source = OrbaxSource(tmp_path / name)
        for path, leaf in jax.tree.leaves_with_path(make_params(1)):
            found = read_whole(source, "/".join(key.key for key in path))
            np.testing.assert_array_equal(found, leaf)


@pytest.mark.parametrize("where", ["{}", "{}/run"])
@pytest.mark.parametrize("name", BAD)
def test_what_could_not_be_read_is_refused(tmp_path, name, where):
    with pytest.raises(UserError, match="choose another directory") as caught:
        manager.Checkpoints(tmp_path / where.format(name))
    str(caught.value).encode()
    assert not list(tmp_path.iterdir())


def test_a_relative_name_counts_with_its_folder(tmp_path, monkeypatch):
    (tmp_path / "[x]").mkdir()
    monkeypatch.chdir(tmp_path / "[x]")
    with pytest.raises(UserError, match=r"under a path with \["):
        storage.check_name("run")


def test_a_good_checkpoint_under_a_bad_name_is_read(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "[run]*?")
    assert manager.load_params(tmp_path / "[run]*?").step == 1
