"""Our models agree with golden tensors, and differences are detected."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import numpy_flow
import pytest
from absl.testing import flagsaver

from data_pipeline.runtime.errors import UserError
from experiments import check_parity
from gpst_jax.parity import flow, gpst, soundstorm
from gpst_jax.parity.golden import Golden

DATA = pathlib.Path(__file__).parents[2] / "data"
FILES = ["golden_gpst.npz", "golden_gpst_shared.npz"]


OFFICIAL = (
    DATA.parents[2] / "shared" / "golden"
)  # tensors of the official code, not redistributable


@pytest.fixture(scope="module")
def golden():
    """Entries of the first file."""
    with np.load(DATA / FILES[0]) as archive:
        return dict(archive)


@pytest.fixture
def changed(golden, tmp_path):
    """Function that writes the first file with some entries replaced, or left out where None."""

    def write(**entries):
        path = tmp_path / "changed.npz"
        merged = golden | {name.replace("__", "/"): value for name, value in entries.items()}
        np.savez(path, **{name: value for name, value in merged.items() if value is not None})
        return str(path)

    return write


@pytest.mark.parametrize("name", FILES)
def test_all_stored_tensors_agree(name):
    differences = gpst.check(Golden(str(DATA / name)))
    with np.load(DATA / name) as archive:
        stored = {key for key in archive.files if key.startswith("outputs/")}
    assert stored <= set(differences)
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_those_of_the_reference(name, tmp_path):
    script = pathlib.Path(__file__).with_name("make_golden.py")
    subprocess.run([sys.executable, script, f"--output={tmp_path}"], check=True)
    with np.load(DATA / name) as old, np.load(tmp_path / name) as new:
        assert set(old.files) == set(new.files)
        for key in old.files:
            np.testing.assert_allclose(old[key], new[key], rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(("chain", "depth"), [("implicit", 5), ("explicit", 2)])
def test_flow_matching_equals_the_reference(chain, depth, tmp_path):
    entries = numpy_flow.flow(chain, depth)
    np.savez(tmp_path / "flow.npz", **entries)
    kind, differences = check_parity.compare(str(tmp_path / "flow.npz"))
    assert kind == "flow"
    compared = {name for name in entries if name.startswith(("outputs/", "sigma01/"))}
    assert compared | {"gen/output", "gen/n_evaluations"} <= set(differences)
    assert max(differences.values()) < 1e-5


def test_a_changed_convolution_of_the_flow_is_detected(tmp_path):
    entries = numpy_flow.flow("implicit", 1)
    entries["weights/net.bottleneck_layers.0.conv.ds_conv.conv.weight"][3, 0, 17] += 0.01
    np.savez(tmp_path / "flow.npz", **entries)
    differences = flow.check(Golden(str(tmp_path / "flow.npz")))
    assert differences["outputs/embedded"] < 1e-5
    assert differences["outputs/backbone_out"] > 1e-4
    assert differences["gen/output"] > 1e-4


def test_soundstorm_equals_the_reference(tmp_path):
    entries = numpy_flow.soundstorm()
    np.savez(tmp_path / "soundstorm.npz", **entries)
    kind, differences = check_parity.compare(str(tmp_path / "soundstorm.npz"))
    assert kind == "soundstorm"
    assert len(differences) == 10
    assert max(differences.values()) < 1e-5
    wrong = entries["once/output"].copy()
    wrong[0, 0, 1] = (wrong[0, 0, 1] + 1) % 7
    np.savez(tmp_path / "soundstorm.npz", **(entries | {"once/output": wrong}))
    differences = soundstorm.check(Golden(str(tmp_path / "soundstorm.npz")))
    assert differences["once/output"] == np.inf


@pytest.mark.parametrize(
    "name", [f"flow_a_{chain}" for chain in ("implicit", "plain", "explicit")] + ["soundstorm_a"]
)
def test_official_tensors(name):
    path = OFFICIAL / f"{name}.npz"
    if not path.exists():
        pytest.skip("the official tensors are not available")
    assert max(check_parity.compare(str(path))[1].values()) < 1e-5


def test_a_changed_weight_is_detected(golden, changed):
    name = f"weights/{gpst._LOCAL}.layers.1.fc2.bias"
    # Differs between channels: the following norm would remove a common shift.
    shift = 1e-3 * np.arange(len(golden[name]))
    differences = gpst.check(Golden(changed(**{name: golden[name] + shift})))
    assert differences["outputs/global_hidden"] < 1e-5
    assert differences["outputs/local_embeds"] < 1e-5
    assert differences["outputs/acoustic_logits"] > 1e-4
    assert differences["outputs/loss"] > 1e-6


def test_swapped_ids_are_an_infinite_difference(golden, changed):
    ids = golden["inputs/src_tokens"].copy()
    ids[0, 1, 0] = 4 if ids[0, 1, 0] != 4 else 5
    assert gpst.check(Golden(changed(inputs__src_tokens=ids)))["inputs/src_tokens"] == np.inf


def test_nan_does_not_pass(golden, changed):
    weight = f"weights/{gpst._GLOBAL}.layer_norm.bias"
    path = changed(**{weight: np.full_like(golden[weight], np.nan)})
    assert gpst.check(Golden(path))["outputs/semantic_logits"] == np.inf


def test_a_missing_entry_is_a_user_error(changed):
    with pytest.raises(UserError, match="outputs/semantic_logits"):
        gpst.check(Golden(changed(outputs__semantic_logits=None)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"noise", None])
def test_an_unreadable_file_is_a_user_error(content, tmp_path):
    path = tmp_path / "golden.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"golden\.npz"):
        Golden(str(path))


def test_a_single_array_is_a_user_error(tmp_path):
    np.save(tmp_path / "golden.npy", np.zeros(3))
    with pytest.raises(UserError, match="single array"):
        Golden(str(tmp_path / "golden.npy"))


def test_program_passes_fails_and_reports(monkeypatch, tmp_path, capsys):
    differences = {"outputs/loss": 2e-6, "inputs/ids": 0.0}
    monkeypatch.setitem(check_parity._KINDS, "gpst", (gpst.recognises, lambda golden: differences))
    path, report = str(DATA / FILES[0]), tmp_path / "report.json"
    with flagsaver.flagsaver(golden=path, json_out=str(report), tolerance=1e-5):
        assert check_parity.main(["check_parity"]) == 0
    written = json.loads(report.read_text())
    assert written["passed"]
    assert written["differences"] == differences
    assert "outputs/loss" in capsys.readouterr().out
    with flagsaver.flagsaver(golden=path, tolerance=1e-6):
        assert check_parity.main(["check_parity"]) == 3
    differences["inputs/ids"] = float("inf")
    with flagsaver.flagsaver(golden=path, json_out=str(report), tolerance=1e9):
        assert check_parity.main(["check_parity"]) == 3
    assert json.loads(report.read_text())["differences"]["inputs/ids"] is None


def test_a_file_of_another_kind_is_a_user_error(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, **{"weights/other.weight": np.zeros(3)})
    with (
        flagsaver.flagsaver(golden=str(path)),
        pytest.raises(UserError, match=r"other\.npz.*known kind"),
    ):
        check_parity.main(["check_parity"])


def test_program_ends_with_its_exit_code():
    """Run as a program: exit code 2 and one line for a missing file."""
    command = [sys.executable, "-m", "experiments.check_parity", "--golden=missing.npz"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=DATA.parents[1])
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: missing.npz")
