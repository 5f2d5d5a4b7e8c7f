"""Fine-tuning as users run it: from recordings to a model, by either method, and its refusals."""

import json

import numpy as np
import pytest
import soundfile
from stored_model import make_config, make_dataset, random_params, save_run

from gpst_jax.checkpoints import manager
from gpst_jax.weights import loading
from gpst_jax.weights.peft import AdaptedSource, flat

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run of a tiny model whose tokenizers are real."""
    directory = tmp_path_factory.mktemp("model")
    spec = make_dataset(directory / "dataset", 2)
    config = make_config(directory / "dataset")
    save_run(directory / "run", config, spec, {4: {"params": random_params(config, spec)}})
    return directory / "run"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A dozen recordings of one voice."""
    directory = tmp_path_factory.mktemp("recordings") / "anna"
    directory.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        wav = 0.1 * rng.normal(size=RATE // 2) * np.sin(np.arange(RATE // 2) / (5 + number))
        soundfile.write(directory / f"{number}.wav", wav, RATE)
    return directory.parent


@pytest.fixture
def run(start, model, recordings, tmp_path):
    """Function (*arguments) -> what the program wrote as its result."""

    def call(*arguments, code=0):
        result = tmp_path / "result.json"
        program = start(
            "experiments.finetune",
            f"--checkpoint={model}",
            f"--workdir={tmp_path / 'out'}",
            f"--json_out={result}",
            "--steps=3",
            *arguments,
        )
        assert program.wait(280) == code, program.text()
        return json.loads(result.read_text()) if code == 0 else program.text()

    return call


def test_adapters_on_recordings(run, model, recordings, tmp_path):
    arguments = ("--method=lora", "--rank=2", f"--audio_dir={recordings}")
    result = run(*arguments)
    assert result["steps"] == 3
    assert 0 < result["trainable_parameters"] < result["parameters"] / 2
    merged = manager.load_params(tmp_path / "out" / "merged")
    assert merged.config.name == "tiny_finetuned"
    before = flat(loading.load(loading.open_source(model)).params)
    after = flat(merged.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved
    assert all("layers" in str(path) and "kernel" in str(path) for path in moved)

    # The adapters alone, added to the base, give the same model.
    added = AdaptedSource(loading.open_source(model), tmp_path / "out" / "adapters")
    again = flat(loading.load(added).params)
    for path, value in after.items():
        np.testing.assert_allclose(again[path], value, atol=1e-6)

    # The same command has nothing more to do; another rank is another workdir.
    assert run(*arguments)["steps"] == 3
    text = run("--method=lora", "--rank=3", f"--audio_dir={recordings}", code=2)
    assert "started with lora=" in text


def test_all_parameters_then_export(run, start, model, recordings, tmp_path):
    result = run(f"--source=folder:{recordings}", "--config.data.seed=3")
    assert result["model"] == str(tmp_path / "out" / "train")
    loaded = manager.load_params(tmp_path / "out" / "train")
    assert (loaded.step, loaded.config.data.seed) == (3, 3)
    assert loaded.config.optimizer.learning_rate == pytest.approx(5e-5)
    program = start(
        "experiments.export",
        *(f"--checkpoint={tmp_path / 'out' / 'train'}", f"--output={tmp_path / 'hf'}"),
        *("--format=hf", "--licence=MIT"),
    )
    assert program.wait(100) == 0, program.text()
    assert "step 3" in program.text()
    assert (tmp_path / "hf" / "tokenizers" / "codec" / "weights.safetensors").is_file()


def test_other_tokenizers_are_an_error_or_a_choice(run, dataset, tmp_path):
    text = run(f"--dataset={dataset}", code=2)
    assert "--vocabulary=extend" in text
    result = run(f"--dataset={dataset}", "--vocabulary=replace", "--method=lora", "--rank=2")
    assert result["steps"] == 3
    params = manager.load_params(tmp_path / "out" / "merged").params
    assert params["semantic_head"]["kernel"].shape == (16, 16)


def test_refusals_are_one_line(start, recordings, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "pytorch_model.bin").write_bytes(b"pickle")
    for checkpoint_dir, expected in ((empty, "pickles can execute code"), ("nowhere", "no such")):
        program = start(
            "experiments.finetune",
            *(f"--checkpoint={checkpoint_dir}", f"--audio_dir={recordings}"),
            f"--workdir={tmp_path / 'out'}",
        )
        assert program.wait(100) == 2
        assert expected in program.text().strip().splitlines()[-1]
