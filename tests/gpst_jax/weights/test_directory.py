"""Export and import: lossless round trips, and corrupt input is refused."""

import dataclasses
import filecmp
import json
import struct
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from stored_model import make_config, make_dataset, random_params, save_run

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.record import CheckpointError, DamagedCheckpointError
from gpst_jax.config import ConfigError
from gpst_jax.weights import layouts, loading
from gpst_jax.weights.directory import export
from gpst_jax.weights.sources import OrbaxSource

RESULTS = {
    "modes": {"continuation": {"wer/x-smoke": {"value": 0.5, "ci95": [0.4, 0.6], "n": 7}}},
    "ceilings": {"recording": {"wer/x-smoke": {"value": None, "reason": "none", "n": 0}}},
    "floors": {},
    "differences": {},
    "recipes": {"wer/x-smoke": {"kind": "wer"}},
    "settings": {"place": "not exported"},
}


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def _files(directory):
    return sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())


def _assert_identical(first, second):
    assert _files(first) == _files(second)
    _, mismatch, errors = filecmp.cmpfiles(first, second, map(str, _files(first)), shallow=False)
    assert not mismatch
    assert not errors


@pytest.mark.parametrize("format", ["safetensors", "hf"])
@pytest.mark.parametrize(
    ("block", "shared", "codebooks"),
    [("modern", False, 8), ("modern", True, 8), ("paper", False, 16), ("paper", True, 8)],
)
def test_round_trip_is_byte_identical(stored, tmp_path, format, block, shared, codebooks):
    model = stored(block, shared, codebooks)
    first, back, again = tmp_path / "first", tmp_path / "back", tmp_path / "again"
    # Shards of a few tensors each, and results, which must survive the round trip.
    options = {"shard_bytes": 20_000}
    export(loading.open_source(model.workdir), first, format, results=RESULTS, **options)
    assert len(list(first.glob("*.safetensors"))) > 1
    _same(loading.load(loading.open_source(first)).params, model.params)
    export(loading.open_source(first), back, "params")
    loaded = manager.load_params(back)
    _same(loaded.params, model.params)
    assert loaded.step == 4
    assert loaded.dataset == json.loads(json.dumps(dataclasses.asdict(model.spec)))
    assert loaded.config.model == model.config.model
    export(loading.open_source(back), again, format, **options)
    _assert_identical(first, again)


def test_other_codebook_patterns_are_exported_without_a_torch_class(tmp_path):
    spec = make_dataset(tmp_path / "dataset", 2)
    config = make_config(tmp_path / "dataset", pattern="delay")
    params = random_params(config, spec)
    save_run(tmp_path / "run", config, spec, {4: {"params": params}})
    with pytest.raises(ConfigError, match=r"no torch class for 'gpst' with model\.pattern 'delay'"):
        export(loading.open_source(tmp_path / "run"), tmp_path / "hf", "hf")
    export(loading.open_source(tmp_path / "run"), tmp_path / "out", "safetensors")
    loaded = loading.load(loading.open_source(tmp_path / "out"))
    _same(loaded.params, params)
    assert loaded.config.model == config.model


def test_no_path_is_exported(stored, tmp_path):
    model = stored()
    export(loading.open_source(model.workdir), tmp_path / "out", "hf", results=RESULTS)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(model.workdir.parent).encode() not in content, path
            assert b"not exported" not in content, path


def test_layers_are_separate_tensors_in_torch_layout(stored, tmp_path):
    model = stored("paper")
    export(loading.open_source(model.workdir), tmp_path / "out", "safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    kernel = np.asarray(model.params["global_net"]["layers"]["mlp"]["up"]["kernel"])
    for layer in range(2):
        found = tensors[f"global_net.layers.{layer}.mlp.up.weight"]
        np.testing.assert_array_equal(found, kernel[layer].T)
    table = np.asarray(model.params["global_net"]["embed"]["embedding"])
    np.testing.assert_array_equal(tensors["global_net.embed.weight"], table)
    head = np.asarray(model.params["acoustic_head"]["kernel"])
    np.testing.assert_array_equal(tensors["acoustic_head.weight"], head.swapaxes(1, 2))
    assert sum(t.size for t in tensors.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(model.params)
    )


def test_model_card_and_config_describe_the_model(stored, tmp_path):
    model = stored()
    source = loading.open_source(model.workdir)
    export(source, tmp_path / "out", "hf", results=RESULTS, licence="CC-BY-4.0")
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        *("license: \"cc-by-4.0\"", "`wer/x-smoke`", "| continuation | 50.0 % [40.0, 60.0] | 7 |"),
        *("| train | 24 | 0.01 |", "8 codebooks", model.spec.fingerprint, "step 4", "## Limits"),
    ):  # fmt: skip
        assert text in card
    export(source, tmp_path / "plain", "safetensors")
    assert "Not evaluated." in (tmp_path / "plain" / "README.md").read_text()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "gpst"
    assert config["gpst_jax"]["run"]["data"]["path"] == ""
    assert config["layout"]["num_codebooks"] == 8


def test_bfloat16_round_trip(stored, tmp_path):
    model = stored()
    source = loading.open_source(model.workdir)
    export(source, tmp_path / "out", "safetensors", dtype="bfloat16")
    loaded = loading.load(loading.open_source(tmp_path / "out")).params
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype("bfloat16").astype("float32")),
        loaded,
        model.params,
    )
    with pytest.raises(ConfigError, match="int4"):
        export(source, tmp_path / "other", "safetensors", dtype="int4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # no partial directory is left


class TestChoiceOfWeights:
    @pytest.fixture
    def workdir(self, tmp_path):
        spec = make_dataset(tmp_path / "dataset", 2)
        config = make_config(tmp_path / "dataset")
        self.params = [random_params(config, spec, seed) for seed in range(3)]
        steps = {2: {"params": self.params[0]}, 4: {"params": self.params[1]}}
        save_run(tmp_path / "run", config, spec, steps)
        both = {"params": self.params[0], "ema": self.params[2]}
        save_run(tmp_path / "averaged", config, spec, {4: both})
        return tmp_path

    def test_mean_of_steps(self, workdir):
        mean = loading.load(loading.open_source(workdir / "run", [2, 4])).params
        jax.tree.map(
            lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-6, atol=1e-7),
            mean, *self.params[:2],
        )  # fmt: skip
        export(loading.open_source(workdir / "run", [2, 4]), workdir / "out", "params")
        _same(manager.load_params(workdir / "out").params, mean)
        assert "mean of steps 2, 4" in (workdir / "out" / "README.md").read_text()

    def test_one_step_or_the_newest(self, workdir):
        _same(loading.load(loading.open_source(workdir / "run", [2])).params, self.params[0])
        _same(loading.load(loading.open_source(workdir / "run")).params, self.params[1])
        with pytest.raises(CheckpointError, match=r"step 3.*\[2, 4\]"):
            loading.open_source(workdir / "run", [3])

    def test_ema_where_one_was_kept(self, workdir):
        path = workdir / "averaged"
        _same(loading.load(loading.open_source(path)).params, self.params[2])
        assert loading.open_source(path).description.weights == "ema"
        plain = loading.open_source(path, average=False)
        _same(loading.load(plain).params, self.params[0])

    def test_exported_ema_loads_as_parameters(self, workdir):
        export(loading.open_source(workdir / "averaged"), workdir / "out", "params")
        _same(manager.load_params(workdir / "out").params, self.params[2])


class TestRefusals:
    @pytest.fixture
    def out(self, stored, tmp_path):
        export(loading.open_source(stored().workdir), tmp_path / "out", "safetensors")
        return tmp_path / "out"

    @pytest.fixture
    def rewrite(self, out):
        """Function that changes the tensors of the exported file."""

        def change(edit):
            path = out / "model.safetensors"
            tensors = dict(safetensors.numpy.load_file(path))
            edit(tensors)
            safetensors.numpy.save_file(tensors, path, {"format": "pt"})

        return change

    def test_missing_and_extra(self, out, rewrite):
        rewrite(lambda tensors: tensors.update(extra=tensors.pop("projector.bias")))
        with pytest.raises(UserError, match=r"missing: projector\.bias; not of this model: extra"):
            loading.open_source(out)

    def test_misshapen(self, out, rewrite):
        rewrite(lambda tensors: tensors.update({"projector.bias": np.zeros(3, np.float32)}))
        with pytest.raises(UserError, match=r"projector\.bias is \(3,\), expected \(8,\)"):
            loading.open_source(out)

    def test_other_dtype(self, out, rewrite):
        rewrite(lambda tensors: tensors.update({"projector.bias": np.zeros(8, np.int32)}))
        with pytest.raises(UserError, match=r"projector\.bias is I32"):
            loading.open_source(out)

    def test_nan(self, out, rewrite, tmp_path):
        rewrite(lambda tensors: tensors["global_net.layers.1.mlp.up.weight"].fill(np.nan))
        source = loading.open_source(out)
        with pytest.raises(CheckpointError, match=r"global_net\.layers\.1\.mlp\.up\.weight"):
            loading.load(source)
        with pytest.raises(CheckpointError, match="NaN"):
            export(source, tmp_path / "again", "safetensors")
        assert not (tmp_path / "again").exists()

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
    def test_pickles(self, out, name):
        (out / "model.safetensors").rename(out / name)
        with pytest.raises(UserError, match=f"{name}.*pickles can execute code"):
            loading.open_source(out)
        with pytest.raises(UserError, match=f"{name}.*pickles can execute code"):
            loading.open_source(out / name)

    @pytest.mark.parametrize("cut", [4, 100, -100])
    def test_truncated_file(self, out, cut):
        path = out / "model.safetensors"
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError, match=r"model\.safetensors is not an intact"):
            loading.open_source(out)

    def test_impossible_header_size(self, out):
        path = out / "model.safetensors"
        path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
        with pytest.raises(UserError, match="not an intact safetensors file"):
            loading.open_source(out)

    def test_missing_parts(self, out, tmp_path):
        for name, message in (
            ("dataset.json", r"dataset\.json is missing: copy it"),
            ("config.json", r"config\.json cannot be read"),
            ("model.safetensors", "is missing"),
        ):
            (out / name).rename(tmp_path / name)
            with pytest.raises(UserError, match=message):
                loading.open_source(out)
            (tmp_path / name).rename(out / name)
        loading.open_source(out)

    def test_another_projects_config(self, out):
        (out / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(UserError, match="not written by experiments"):
            loading.open_source(out)

    def test_changed_tokenizers(self, stored, out, tmp_path):
        other = tmp_path / "other"
        make_dataset(other, 8)
        path = other / "tokenizers" / "codec" / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        with pytest.raises(UserError, match="modified or corrupted"):
            export(loading.open_source(out), tmp_path / "o", "hf", tokenizers=other)

    def test_output_that_exists(self, stored, out):
        with pytest.raises(UserError, match="exists"):
            export(loading.open_source(stored().workdir), out, "safetensors")

    def test_steps_of_an_exported_model(self, out):
        with pytest.raises(UserError, match="without steps to choose"):
            loading.open_source(out, [3])

    def test_adapters(self, stored, tmp_path):
        model = stored()
        items = {"params": {"base": model.params, "lora": {}}}
        save_run(tmp_path / "run", model.config, model.spec, {1: items})
        with pytest.raises(CheckpointError, match="holds adapters"):
            loading.open_source(tmp_path / "run")

    def test_corrupted_checkpoint(self, tmp_path):
        spec = make_dataset(tmp_path / "dataset", 2)
        config = make_config(tmp_path / "dataset")
        save_run(tmp_path / "run", config, spec, {1: {"params": random_params(config, spec)}})
        data = [p for p in (tmp_path / "run").rglob("*") if p.parent.name == "d" and p.is_file()]
        for path in data:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 255
            path.write_bytes(content)
        with pytest.raises(DamagedCheckpointError):
            export(loading.open_source(tmp_path / "run"), tmp_path / "out", "safetensors")
        assert not (tmp_path / "out").exists()

    def test_wrong_checksum(self, stored, tmp_path):
        source = OrbaxSource(stored().workdir)
        source._sums["projector/bias"] ^= 1
        with pytest.raises(DamagedCheckpointError, match="projector/bias"):
            export(source, tmp_path / "out", "safetensors")

    def test_unknown_family_and_format(self, stored, tmp_path):
        with pytest.raises(ConfigError, match="'other' cannot be exported"):
            layouts.get_family(types.SimpleNamespace(family="other"))
        with pytest.raises(UserError, match="--format=onnx"):
            export(loading.open_source(stored().workdir), tmp_path / "out", "onnx")
