"""SpeechTokenizer on a tiny random model: its codes serve both streams."""

import importlib.util
import json

import numpy as np
import pytest

from data_pipeline.tokenizers import batching, load_codec, load_semantic, store_tokenizer

torch = pytest.importorskip("torch")

RATE = 16_000


def speech(seconds: float, seed: int) -> np.ndarray:
    """A signal whose spectrum changes, so that its tokens do."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    sweep = np.sin(2 * np.pi * (200 + 900 * np.sin(2 * time + seed)) * time)
    return (0.4 * sweep + 0.1 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def speechtokenizer(tmp_path_factory):
    """Directory of a tiny random SpeechTokenizer with its weights as safetensors."""
    pytest.importorskip("einops")
    if importlib.util.find_spec("speechtokenizer") is None:
        pytest.skip("needs pip install --no-deps speechtokenizer")
    from safetensors.torch import save_file

    from data_pipeline.tokenizers.codecs.speechtokenizer_network import _model_class

    config = {
        "n_filters": 4, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 12,
        "bidirectional": True, "dilation_base": 2, "residual_kernel_size": 3,
        "n_residual_layers": 1, "lstm_layers": 1, "activation": "ELU", "codebook_size": 32,
        "n_q": 4, "sample_rate": 16_000,
    }  # fmt: skip
    directory = tmp_path_factory.mktemp("speechtokenizer")
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = _model_class()(config).state_dict()
    for name, value in weights.items():
        if name.endswith("_codebook.embed"):
            value.copy_(torch.randn_like(value) * 0.1)
        elif name.endswith("inited"):
            value.fill_(1.0)
    save_file({name: value.clone() for name, value in weights.items()}, directory / "m.safetensors")
    return directory


def test_speechtokenizer_gives_codes_vectors_and_signals(speechtokenizer):
    codec = load_codec(f"speechtokenizer:{speechtokenizer}")
    assert (codec.frame_rate, codec.num_codebooks, codec.equal_lengths) == (50.0, 4, True)
    wavs = [speech(seconds, i) for i, seconds in enumerate((0.7, 1.31, 0.7, 0.3))]
    assert batching.mismatch(codec, wavs, RATE).rate == 0
    codes = codec.encode(wavs[1], RATE)
    assert codes.shape == (4, 66)
    assert len(np.unique(codes)) > 3
    model = codec._network._model
    padded = np.pad(wavs[1], (0, 66 * 320 - len(wavs[1])))
    with torch.no_grad():
        theirs = model.encode(torch.from_numpy(padded)[None, None])
        signal = model.decode(theirs)[0, 0].numpy()
    np.testing.assert_array_equal(codes, theirs[:, 0].numpy())
    np.testing.assert_allclose(codec.decode(codes), signal[: 66 * 320], atol=1e-5)
    assert codec.codebooks.shape == (4, 32, 16)
    np.testing.assert_array_equal(codec.decode_vectors(codec.embed(codes)), codec.decode(codes))
    smaller = load_codec(f"speechtokenizer:{speechtokenizer}?codebooks=2")
    np.testing.assert_array_equal(smaller.encode(wavs[1], RATE), codes[:2])


def test_the_first_codebook_is_the_semantic_stream(speechtokenizer, tmp_path):
    name = f"speechtokenizer:{speechtokenizer}"
    codec, semantic = load_codec(name), load_semantic(name)
    wavs = [speech(seconds, i) for i, seconds in enumerate((0.5, 0.9))]
    assert (semantic.vocab_size, semantic.frame_rate) == (32, 50.0)
    for wav, units in zip(wavs, semantic.encode_batch(wavs, RATE), strict=True):
        np.testing.assert_array_equal(units, codec.encode(wav, RATE)[0])
    # What a dataset keeps of it serves both streams as well.
    store_tokenizer(name, tmp_path / "kept")
    kept = load_semantic(tmp_path / "kept")
    assert kept.sha256 == semantic.sha256 == codec.sha256
    np.testing.assert_array_equal(kept.encode(wavs[0], RATE), semantic.encode(wavs[0], RATE))


def test_partial_sums_add_up_to_what_is_decoded(speechtokenizer):
    codec = load_codec(f"speechtokenizer:{speechtokenizer}")
    codes = codec.encode(speech(0.6, 3), RATE)
    first, rest = codec.embed(codes, 0, 1), codec.embed(codes, 1)
    np.testing.assert_allclose(first + rest, codec.embed(codes), atol=1e-6)
    with torch.no_grad():
        theirs = codec._network._model.quantizer.decode(
            torch.from_numpy(codes.astype(np.int64))[:, None]
        )
    np.testing.assert_allclose(codec.embed(codes), theirs[0].numpy().T, atol=1e-5)
