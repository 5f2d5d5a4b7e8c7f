"""Exported language models and flow matching give the same outputs in torch."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grammars import free_grammar
from in_memory import MemorySource, make_sequences
from stored_model import make_dataset

from data_pipeline.loading.batches import padding_arrays
from data_pipeline.tokenizers import load_codec
from gpst_jax.config import DataConfig, FlowConfig, RunConfig, SemanticLMConfig, TransformerConfig
from gpst_jax.config.models import RopeScaling
from gpst_jax.generation import flow_sampler, ode_solvers
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.frame_batches import FrameRequest
from gpst_jax.generation.lm_grammar import answer_grammar
from gpst_jax.generation.lm_sampler import LMDecoder, LMRequest
from gpst_jax.models import flow_matching, semantic_lm
from gpst_jax.objectives import SemanticLMObjective
from gpst_jax.weights import loading
from gpst_jax.weights.directory import export

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("gpst_jax.hf")

GREEDY = SamplingConfig(top_k=1)


def _random(init, *arguments, seed=0):
    """Random parameters, none of them 0 or 1."""
    shapes = jax.eval_shape(functools.partial(init, *arguments), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = leaf.shape[-2] if path[-1].key == "kernel" else max(leaf.shape[-1:], default=1)
        noise = rng.normal(size=leaf.shape)
        if path[-1].key in ("scale", "channel_scale"):
            return jnp.asarray(1 + 0.1 * noise, jnp.float32)
        return jnp.asarray(noise * fan_in**-0.5, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Directory and contract of sequences."""
    directory = tmp_path_factory.mktemp("sequences")
    return directory, make_sequences(directory)


NET = TransformerConfig(d_model=32, num_layers=2, num_heads=4, d_ff=48, num_kv_heads=2)
LANGUAGE_MODELS = {
    "modern": SemanticLMConfig(NET),
    "llama": SemanticLMConfig(NET, block="llama"),
    "llama3": SemanticLMConfig(
        NET,
        block="llama",
        tie_embeddings=True,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16),
        norm_epsilon=1e-6,
    ),
}


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def language_model(request, sequences, tmp_path_factory):
    """Configuration, parameters, contract, and the torch model of an export."""
    directory, spec = sequences
    model = LANGUAGE_MODELS[request.param]
    config = RunConfig("lm", model, DataConfig(batch_size=2, sequence_length=128))
    params = _random(semantic_lm.init, model, spec.vocabulary.size)
    out = tmp_path_factory.mktemp("lm") / "out"
    export(MemorySource(config, params, spec, directory, "SemanticLMObjective"), out, "hf")
    kind = "AutoModel" if request.param == "modern" else "AutoModelForCausalLM"
    loaded = getattr(transformers, kind).from_pretrained(out).eval()
    return model, params, spec, loaded, out


def test_language_model_logits(language_model):
    model, params, spec, loaded, _ = language_model
    ids = np.random.default_rng(1).integers(0, spec.vocabulary.size, (2, 40))
    ours = semantic_lm.bind(model, params)
    with jax.default_matmul_precision("highest"):
        positions = jnp.broadcast_to(jnp.arange(40)[None], ids.shape)
        expected = np.asarray(ours.logits(ours.hidden(jnp.asarray(ids), positions)))
    with torch.no_grad():
        found = loaded(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < 1e-4


def test_language_model_loss_of_the_loaders_arrays(language_model):
    """int32 as they are, -1 where nothing is predicted; in bfloat16 nearly the same."""
    model, params, spec, loaded, out = language_model
    if model.block != "modern":
        pytest.skip("transformers' own class shifts its labels itself")
    rng = np.random.default_rng(4)
    batch = padding_arrays("sequences", spec.vocabulary.padding, B=2, L=40)
    for row, length in enumerate((40, 25)):
        batch["tokens"][row, :length] = rng.integers(0, spec.vocabulary.size, length)
        batch["positions"][row, :length] = np.arange(length)
        batch["segment_ids"][row, :length] = 1
        batch["targets"][row, 5 : length - 1] = batch["tokens"][row, 6:length]
    silent = batch | {"targets": np.full_like(batch["targets"], -1)}
    config = RunConfig("lm", model, DataConfig(batch_size=2, sequence_length=40))
    objective = SemanticLMObjective(config, spec.vocabulary)
    half = type(loaded).from_pretrained(out, dtype=torch.bfloat16)
    for arrays in (batch, silent):
        with jax.default_matmul_precision("highest"):
            weights = objective.weights(arrays)
            expected = objective.loss(params, arrays, jax.random.key(0), weights, False)[0]
        for network, rtol in ((loaded, 1e-5), (half, 0.03)):
            with torch.no_grad():
                found = network(
                    torch.from_numpy(arrays["tokens"]),
                    torch.from_numpy(arrays["positions"]),
                    torch.from_numpy(arrays["segment_ids"]),
                    torch.from_numpy(arrays["targets"]),
                ).loss
            np.testing.assert_allclose(found.item(), expected, rtol=rtol)


def test_language_model_round_trip(language_model, tmp_path):
    _, params, _, _, out = language_model
    source = loading.open_source(out)
    again = loading.load(source).params
    jax.tree.map(np.testing.assert_array_equal, again, params)
    export(source, tmp_path / "again", "hf")
    for name in ("config.json", "model.safetensors", "README.md", "dataset.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_language_model_greedy_decoding(language_model):
    model, params, spec, loaded, _ = language_model
    prompt = np.random.default_rng(2).integers(0, spec.vocabulary.text_size, 7)
    decoder = LMDecoder(model, spec.vocabulary, params)

    def ours(grammar):
        with jax.default_matmul_precision("highest"):
            return decoder.decode([LMRequest(prompt, 12)], grammar, text=GREEDY, units=GREEDY)[0]

    expected = ours(free_grammar(spec.vocabulary))
    if model.block == "modern":
        spoken = answer_grammar(spec.vocabulary, ("speech_answer",))
        for grammar in (free_grammar(spec.vocabulary), spoken):
            expected = ours(grammar)
            found = loaded.generate([LMRequest(prompt, 12)], grammar, text=GREEDY, units=GREEDY)[0]
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)
            assert found.ended == expected.ended
        return
    with torch.no_grad():
        found = loaded.generate(torch.from_numpy(prompt)[None], max_new_tokens=12, do_sample=False)
    new = found[0, len(prompt) :].numpy()
    np.testing.assert_array_equal(new[: len(expected.ids)], expected.ids)


FLOWS = {
    "uconformer": FlowConfig(TransformerConfig(16, 5, 2, 24), conv_kernel=5),
    "conformer": FlowConfig(
        TransformerConfig(16, 2, 2, 24),
        backbone="conformer",
        chain="explicit",
        conv_kernel=5,
        prior_std=0.7,
    ),
    "dit": FlowConfig(
        TransformerConfig(16, 2, 2, 24),
        backbone="dit",
        chain="plain",
        semantics="table",
        guidance_drop=0.1,
    ),
}


@pytest.fixture(scope="module", params=FLOWS)
def flow(request, tmp_path_factory):
    """Configuration, parameters, layout, and the torch model of an export."""
    directory = tmp_path_factory.mktemp("flow")
    spec = make_dataset(directory / "dataset", 3)
    # One unit for each frame.
    semantic = dataclasses.replace(spec.semantic, vocab_size=8, frame_rate=100.0)
    spec = dataclasses.replace(spec, semantic=semantic).sealed()
    layout = spec.layout()
    model = FLOWS[request.param]
    books = load_codec(directory / "dataset" / "tokenizers" / "codec").codebooks
    config = RunConfig(
        "flow", model, DataConfig(batch_size=2, sequence_length=128, frame_budget=128)
    )
    params = _random(flow_matching.init, model, layout, books)
    made = flow_matching.init(model, layout, books, jax.random.key(0))
    params |= {name: made[name] for name in ("codebooks", "latent_scale", "latent_shift")}
    source = MemorySource(config, params, spec, directory / "dataset", "FlowObjective")
    export(source, directory / "out", "hf", shard_bytes=40_000)
    loaded = transformers.AutoModel.from_pretrained(directory / "out").eval()
    return model, params, layout, loaded, directory / "out"


def test_velocities(flow):
    model, params, layout, loaded, _ = flow
    rng = np.random.default_rng(1)
    width = params["codebooks"]["embedding"].shape[-1]
    x, e, context = rng.normal(size=(3, 2, 20, width)).astype(np.float32)
    t = np.array([0.2, 0.9], np.float32)
    valid = np.arange(20)[None] < np.array([[20], [13]])
    ours = flow_matching.bind(model, layout, params)
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(ours.velocity(x, e, context, t, jnp.asarray(valid)))
    with torch.no_grad():
        found = loaded(*map(torch.from_numpy, (x, e, context, t, valid))).numpy()
    assert np.abs(expected[valid]).max() > 0.1
    assert np.abs(found - expected)[valid].max() < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.15)])
def test_velocities_of_the_loaders_arrays(flow, dtype, tolerance):
    """int32 codes, units and segment_ids as they are."""
    model, params, layout, _, out = flow
    loaded = hf.FlowForSpeech.from_pretrained(out, dtype=getattr(torch, dtype)).eval()
    rng = np.random.default_rng(3)
    batch = padding_arrays("frames", B=2, F=20, Q=layout.num_codebooks)
    for row, length in enumerate((20, 13)):
        batch["units"][row, :length] = rng.integers(0, layout.num_units, length)
        codes = rng.integers(0, layout.codebook_size, (length, layout.num_codebooks))
        batch["codes"][row, :length], batch["segment_ids"][row, :length] = codes, 1
    assert {array.dtype.name for array in batch.values()} == {"int32"}
    valid = batch["segment_ids"] > 0
    t = np.array([0.2, 0.9], np.float32)
    ours = flow_matching.bind(model, layout, params)
    with jax.default_matmul_precision("highest"):
        x, e = ours.latents(batch["codes"]), ours.semantics(batch["units"])
        expected = np.asarray(ours.velocity(x, e, 0 * x, t, jnp.asarray(valid)))
    with torch.no_grad():
        x = loaded.latents(torch.from_numpy(batch["codes"]))
        e = loaded.semantics(torch.from_numpy(batch["units"]))
        segments = torch.from_numpy(batch["segment_ids"])
        found = loaded(x, e, 0 * x, torch.from_numpy(t), segments).numpy()
    scale = np.abs(expected[valid]).max()
    assert np.abs(found - expected)[valid].max() < tolerance * max(scale, 1.0)


def test_latents_by_the_same_noise(flow):
    model, params, layout, loaded, _ = flow
    rng = np.random.default_rng(2)
    settings = FlowSettings("heun", 3, 0.5 if model.guidance_drop else 0.0, temperature=0.8)
    request = FrameRequest(
        units=rng.integers(0, 8, 12),
        prompt_codes=rng.integers(0, 8, (3, 6)),
        prompt_units=rng.integers(0, 8, 6) if model.semantics == "table" else None,
    )
    width = params["codebooks"]["embedding"].shape[-1]
    noise = np.asarray(
        jax.vmap(lambda key: jax.random.normal(key, (width,)))(
            flow_sampler.frame_keys(0, jnp.array([0]), 18)[0]
        )
    )
    sampler = flow_sampler.FlowSampler(model, layout, params, settings)
    with jax.default_matmul_precision("highest"):
        expected = sampler.sample([request])[0]
    found = loaded.generate([request], settings, noise=[noise])[0]
    assert found.shape == expected.shape == (12, width)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert ode_solvers.num_evaluations("heun", 3) == 6


def test_flow_round_trip(flow, tmp_path):
    _, params, _, _, out = flow
    source = loading.open_source(out)
    again = loading.load(source).params
    jax.tree.map(np.testing.assert_array_equal, again, params)
    config = json.loads((out / "config.json").read_text())
    assert config["latent_size"] == 80
    export(source, tmp_path / "again", "hf", shard_bytes=40_000)
    for path in out.glob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
