"""UTMOS by a stand-in for its package: which file is read, and how."""

import sys
import types

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import mos, utmos

torch = pytest.importorskip("torch")


class _Score(torch.nn.Module):
    def __init__(self, ckpt_path, device):
        super().__init__()
        print("Torch UTMOS Missing keys:")
        self.gain = torch.load(ckpt_path, map_location=device)["gain"]

    def score(self, wavs):
        return 3 + self.gain * wavs.abs().max()[None]


@pytest.fixture
def package(monkeypatch, tmp_path):
    module = types.ModuleType("utmos_pytorch")
    module.UTMOSScoreTorch = _Score
    monkeypatch.setitem(sys.modules, "utmos_pytorch", module)
    torch.save({"gain": torch.tensor(0.5)}, tmp_path / utmos.FILE)
    monkeypatch.setenv(utmos.VARIABLE, str(tmp_path))
    return tmp_path


def test_the_named_weights_are_read_as_tensors_only(package, capsys):
    score = utmos.load()
    assert score(np.array([0.1, -2.0], np.float32)) == {"utmos": pytest.approx(3.5)}
    assert capsys.readouterr().out == ""
    described = mos.RECIPES["mos/utmos"].measurement.describe_weights()
    assert len(described["weights_sha256"]) == 64
    torch.save({"gain": object()}, package / utmos.FILE)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        utmos.load()
    assert torch.load.__module__ == "torch.serialization"


def test_it_is_scored_by_default_where_package_and_weights_are_here(package, monkeypatch):
    monkeypatch.setattr(mos, "find_spec", lambda module: object())
    assert "mos/utmos" in mos.default_recipes()
    monkeypatch.setenv(utmos.VARIABLE, str(package / "none"))
    assert "mos/utmos" not in mos.default_recipes()
    with pytest.raises(UserError, match=r"download utmos_state_dict.pt of Blinorot"):
        utmos.weights_file(download=False)


def test_without_the_package_one_line_says_what_to_install():
    pytest.importorskip("jiwer")
    if mos.find_spec("utmos_pytorch"):
        pytest.skip("utmos-pytorch is installed")
    with pytest.raises(UserError, match="pip install utmos-pytorch") as error:
        mos.RECIPES["mos/utmos"].measurement.check()
    assert "\n" not in str(error.value)
