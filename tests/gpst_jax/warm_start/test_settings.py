"""A fine-tuning goes on from the checkpoint that it began with, not from another of its name."""

import json

import pytest
from stored_archive import unpack_with_recordings

from data_pipeline.runtime.errors import UserError
from gpst_jax.warm_start.finetuning import SETTINGS_FILE, check_settings, contents_of
from gpst_jax.weights import loading

SETTINGS = {"checkpoint": "run", "step": 4, "checkpoint_contents": "a"}


def test_other_contents_of_a_checkpoint_of_that_name_are_refused(tmp_path):
    check_settings(tmp_path, SETTINGS)
    check_settings(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="checkpoint_contents='a', now 'b'"):
        check_settings(tmp_path, SETTINGS | {"checkpoint_contents": "b"})
    old = {name: SETTINGS[name] for name in ("checkpoint", "step")}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(old))
    check_settings(tmp_path, SETTINGS)  # older workdirs do not say
    with pytest.raises(UserError, match="step=4, now 5"):
        check_settings(tmp_path, SETTINGS | {"step": 5})


def test_contents_of_runs_and_of_exports(tmp_path):
    stored = unpack_with_recordings(tmp_path)
    run = contents_of(loading.open_source(stored / "runs" / "gpst"), stored / "runs" / "gpst")
    other = stored / "runs" / "gpst_paper"
    assert run != contents_of(loading.open_source(other), other)
    export = stored / "exports" / "gpst_hf"
    source = loading.open_source(export)
    before = contents_of(source, export)
    assert contents_of(source, export) == before != run
    (weights,) = export.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert contents_of(source, export) != before
