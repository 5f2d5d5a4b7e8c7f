"""What was stored before names and defaults of today: it resumes, loads and samples the same.

`data/stored_2026_11.tar.xz` was made at commit 5f9fb5f by its own programs (CPU, JAX 0.10.2): a
corpus of 42 espeak recordings, tokens, sequences, a run of each family stopped at step 4, exports,
and `expected.json` with the losses of the runs that were not stopped and with what greedy decoding
gave. Records in it have the names of that time (`data.rows`, no `rope_base`).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from experiments.common import load_config
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.config import ConfigError
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSampler, FlowSettings
from gpst_jax.generation.frame_batches import FrameRequest
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.generation.lm_tasks import SemanticTasks
from gpst_jax.generation.soundstorm_sampler import SoundStormSampler, SoundStormSettings
from gpst_jax.weights import loading

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = Path(__file__).parent / "data" / "stored_2026_11.tar.xz"
FAMILIES = ("gpst", "gpst_paper", "lm", "flow", "soundstorm")
NEW_NAMES = {
    "rows": "batch_size",
    "row_length": "sequence_length",
    "accumulate": "grad_accum_steps",
}
GREEDY = SamplingConfig(1.0, 1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("stored")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def expected(stored) -> dict:
    return json.loads((stored / "expected.json").read_text())


@pytest.fixture(scope="module")
def spec(stored) -> DatasetSpec:
    return DatasetSpec.load(stored / "tokens")


@pytest.fixture(scope="module")
def parts(stored) -> list[tuple[np.ndarray, np.ndarray]]:
    """Units and codes of the first held-out recordings."""
    reader = RecordReader(stored / "tokens", "valid")
    records = [reader[index] for index in range(4)]
    return [(r.units.astype(np.int32), r.codes.astype(np.int32)) for r in records]


def test_a_file_with_old_names_is_refused_with_those_of_today(stored):
    for family in FAMILIES:
        with pytest.raises(ConfigError, match=r"DataConfig\((rows|row_length)=...\) is now "):
            load_config(str(stored / "configs" / f"{family}.py"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_run_goes_on_with_the_losses_of_one_that_was_not(stored, expected, family):
    config = (stored / "configs" / f"{family}.py").read_text()
    for old, new in NEW_NAMES.items():
        config = re.sub(rf"\b{old}=", f"{new}=", config)
    path = stored / f"today_{family}.py"
    path.write_text(config)
    run = shutil.copytree(stored / "runs" / family, stored / f"today_{family}")
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(
        [
            *(sys.executable, "-m", "experiments.pretrain"),
            *(f"--config={path}", f"--workdir={run}"),
        ],
        cwd=stored,
        env=plain | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=240,
    )
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for found, wanted in zip(map(json.loads, lines), expected["losses"][family], strict=True):
        assert found["step"] == wanted["step"]
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, rtol=0)


def _decoded(model, spec, parts, deduplicated: bool) -> list[dict]:
    layout = spec.layout()
    config = model.config
    decoder = Decoder(config.model, layout, model.params, config.data.positions)
    silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
    builder = RequestBuilder(layout, silence, deduplicated)
    requests = [builder.semantic_to_acoustic(parts[0][0], item=0)]
    if not deduplicated:  # it would not fit the table of positions
        requests.append(builder.speaker_transfer([parts[1]], [parts[0]], item=1))
    requests.append(builder.continuation([parts[2]], 0.3, item=2))
    requests.append(builder.unconditional(0.5, item=3))
    return decoder.decode(requests, seed=0, semantic=GREEDY, acoustic=GREEDY)


@pytest.mark.parametrize(
    ("name", "where"),
    [("gpst", "runs/gpst"), ("gpst_paper", "runs/gpst_paper"), ("export_gpst", "exports/gpst")],
)
def test_gpst_decodes_the_same_tokens(stored, expected, spec, parts, name, where):
    if where.startswith("runs"):
        model = load_params(stored / where, 4)
    else:
        model = loading.load(loading.open_source(stored / where))
    for found, wanted in zip(
        _decoded(model, spec, parts, name == "gpst_paper"), expected[name], strict=True
    ):
        assert found.units.tolist() == wanted["units"]
        assert found.codes.tolist() == wanted["codes"]
        for which in ("log_prob_units", "log_prob_frames"):
            # Sums over up to a hundred tokens.
            np.testing.assert_allclose(getattr(found, which), wanted[which], rtol=1e-5, atol=1e-4)


def test_the_language_model_writes_the_same(stored, expected, parts):
    model = load_params(stored / "runs" / "lm", 4)
    tasks = SemanticTasks(model, stored / "sequences", text=GREEDY, units=GREEDY, max_seconds=0.6)
    texts = [RecordReader(stored / "tokens", "valid")[index].text for index in range(2)]
    assert [units.tolist() for units in tasks.read_aloud(texts)] == expected["lm_tts"]
    assert tasks.transcribe([parts[0][0], parts[1][0]]) == expected["lm_asr"]
    assert SequenceSpec.load(stored / "sequences").vocabulary == tasks.spec.vocabulary


def test_the_models_over_frames_sample_the_same(stored, expected, spec, parts):
    requests = [
        FrameRequest(parts[0][0], parts[1][1], item=0),
        FrameRequest(parts[2][0], item=1),
    ]
    model = load_params(stored / "runs" / "flow", 4)
    sampler = FlowSampler(model.config.model, spec.layout(), model.params, FlowSettings("euler", 3))
    for latents, wanted in zip(sampler.sample(requests, seed=0), expected["flow"], strict=True):
        np.testing.assert_allclose(latents.mean(axis=0), wanted, atol=1e-5)
    model = load_params(stored / "runs" / "soundstorm", 4)
    settings = SoundStormSettings(steps=2, temperature=0.0)
    codes = SoundStormSampler(model.config.model, spec.layout(), model.params, settings)
    assert [c.tolist() for c in codes.sample(requests, seed=0)] == expected["soundstorm"]


def test_what_old_records_do_not_say_is_what_was_true_then(stored):
    model = load_params(stored / "runs" / "gpst", 4).config.model
    assert (model.rope_base, model.rope_time_scale, model.norm_epsilon) == (300.0, 1.0, 1e-6)
    model = load_params(stored / "runs" / "flow", 4).config.model
    assert (model.rope_base, model.time_scale, model.norm_epsilon) == (10_000.0, 1000.0, 1e-6)
    assert load_params(stored / "runs" / "soundstorm", 4).config.model.rope_base == 10_000.0


@pytest.mark.parametrize(
    ("export", "run"), [("gpst_params", "gpst"), ("lm_hf", "lm"), ("flow_hf", "flow")]
)
def test_exports_hold_the_parameters_of_their_runs(stored, export, run):
    found = loading.load(loading.open_source(stored / "exports" / export)).params
    wanted = load_params(stored / "runs" / run, 4).params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_torch_class_loads_an_export_and_decodes_the_same(stored, expected, spec, parts):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gpst_jax.hf")
    model = transformers.AutoModel.from_pretrained(stored / "exports" / "gpst_hf").eval()
    silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
    request = RequestBuilder(spec.layout(), silence).semantic_to_acoustic(parts[0][0], item=0)
    (found,) = model.generate([request], semantic=GREEDY, acoustic=GREEDY)
    assert found.codes.tolist() == expected["export_gpst"][0]["codes"]
