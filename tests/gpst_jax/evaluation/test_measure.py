import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import threadpoolctl

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.measure import measure_files
from gpst_jax.evaluation.metrics.recipe import Measurement
from gpst_jax.evaluation.metrics.registry import all_recipes, get_recipe

CALLS = []


def _load_peak():
    def peak(wav):
        CALLS.append(1)
        return float(np.abs(wav).max())

    return peak


def _peak(version=1):
    return Measurement("toy/peak", version, 16000, (), _load_peak)


@pytest.fixture
def files(tmp_path):
    CALLS.clear()
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    for i, path in enumerate(paths[:3]):
        soundfile.write(path, np.full(3200, 0.2 * (i + 1)), 16000, subtype="FLOAT")
    paths[3].write_bytes(paths[0].read_bytes())
    return paths


def _measure(paths, tmp_path, measurement=None, processes=1):
    return measure_files(
        measurement or _peak(),
        paths,
        cache_dir=tmp_path / "cache",
        processes=processes,
        show_progress=False,
    )


def test_each_content_is_measured_once_and_never_again(files, tmp_path):
    first = _measure(files, tmp_path)
    assert [round(first[path].value, 3) for path in files] == [0.2, 0.4, 0.6, 0.2]
    assert len(CALLS) == 3
    assert _measure(files, tmp_path) == first
    assert len(CALLS) == 3


def test_changed_files_and_versions_are_measured_anew(files, tmp_path):
    _measure(files, tmp_path)
    soundfile.write(files[1], np.full(3200, 0.9), 16000, subtype="FLOAT")
    assert _measure(files, tmp_path)[files[1]].value == pytest.approx(0.9)
    assert len(CALLS) == 4
    _measure(files, tmp_path, _peak(version=2))
    assert len(CALLS) == 7


def test_other_weights_in_a_directory_of_that_name_are_measured_again(files, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setenv("TOY_WEIGHTS", str(weights))
    toy = dataclasses.replace(_peak(), directory_variable="TOY_WEIGHTS")
    keys = []
    for content in (b"a" * 9, b"b" * 9, b"a" * 9):
        (weights / "model.safetensors").write_bytes(content)
        keys.append(toy.key())
    assert keys[0] == keys[2] != keys[1]
    shutil.copytree(weights, tmp_path / "moved")
    monkeypatch.setenv("TOY_WEIGHTS", str(tmp_path / "moved"))
    assert toy.key() == keys[0]
    _measure(files, tmp_path, toy)
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"b" * 9)
    _measure(files, tmp_path, toy)
    assert len(CALLS) == 2 * 3


def test_interrupted_work_is_kept_except_for_a_truncated_line(files, tmp_path):
    _measure(files[:2], tmp_path)
    (cache,) = (tmp_path / "cache").iterdir()
    text = cache.read_text(encoding="utf-8").rstrip("\n")
    cache.write_text(text[:-10], encoding="utf-8")  # as after a kill
    assert _measure(files, tmp_path)[files[1]].value == pytest.approx(0.4)
    assert len(CALLS) == 2 + 2  # the truncated one and the new one
    _measure(files, tmp_path)
    assert len(CALLS) == 4


def test_missing_and_bad_files_get_reasons(files, tmp_path):
    noise, missing = tmp_path / "noise.wav", tmp_path / "none.wav"
    noise.write_bytes(bytes(range(256)))
    outcomes = _measure([noise, missing, files[0]], tmp_path)
    assert "decoded" in outcomes[noise].failure
    assert "no such file" in outcomes[missing].failure
    assert outcomes[files[0]].ok
    # A file that appears later is measured.
    missing.write_bytes(files[1].read_bytes())
    assert _measure([missing], tmp_path)[missing].ok


def test_missing_package_is_one_clear_line(files, tmp_path):
    absent = Measurement("toy/x", 1, 16000, (("no_such_module", "no-such-package"),), _load_peak)
    with pytest.raises(UserError, match=r"no-such-package.*pip install 'gpst_jax\[eval\]'"):
        _measure(files, tmp_path, absent)


def test_unwritable_cache_is_one_clear_line(files, tmp_path):
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="--cache_dir"):
        _measure(files, tmp_path)


def test_recipes_state_their_conventions():
    for recipe in all_recipes().values():
        described = recipe.describe()
        assert all(described[k] for k in ("model", "normalisation", "aggregation", "sample_rate"))
        json.dumps(described)
    with pytest.raises(UserError, match="wer/pocketsphinx-digits-smoke"):
        get_recipe("wer")


@pytest.mark.slow
def test_processes_give_what_one_process_gives(spoken_digits, tmp_path):
    measurement = get_recipe("wer/pocketsphinx-digits-smoke").measurement
    paths = [path for path, _, _ in spoken_digits]
    variants = []
    for i in range(2):  # enough files for two processes
        for path in paths:
            wav, rate = soundfile.read(path)
            variants.append(tmp_path / f"{i}-{path.name}")
            soundfile.write(variants[-1], wav * (1 - 0.1 * i), rate)
    alone = _measure(variants, tmp_path / "a", measurement)
    both = _measure(variants, tmp_path / "b", measurement, processes=2)
    assert alone == both
    assert all(outcome.value for outcome in both.values())


def test_few_files_are_measured_with_one_thread_as_many_are(files, tmp_path):
    """Threads change the order of sums, and with it what is recognised in unclear speech."""

    def load():
        return lambda wav: max(pool["num_threads"] for pool in threadpoolctl.threadpool_info())

    with threadpoolctl.threadpool_limits(2):
        outcomes = _measure(files, tmp_path, Measurement("toy/threads", 1, 16000, (), load))
    assert {outcome.value for outcome in outcomes.values()} == {1}
