"""Units of Whisper's encoder on a tiny random model, in both engines."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import batching, load_semantic, store_tokenizer
from data_pipeline.tokenizers.base import BatchTokenizer, SemanticTokenizer
from data_pipeline.tokenizers.pretrained import ModelSpec
from data_pipeline.tokenizers.semantic import encoders, whisper_encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
converters = pytest.importorskip("ctranslate2.converters")
pytest.importorskip("faster_whisper")

RATE = 16_000
WIDTH, CLUSTERS = 32, 24
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>")


def speech(seconds: float, seed: int) -> np.ndarray:
    """A signal whose spectrum changes, so that its units do."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    sweep = np.sin(2 * np.pi * (200 + 900 * np.sin(2 * time + seed)) * time)
    envelope = 0.4 + 0.3 * np.sin(9 * time + seed)
    return (envelope * sweep + 0.1 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One tiny random model in both formats, and centroids among its states."""
    root = tmp_path_factory.mktemp("whisper")
    words = {word: number for number, word in enumerate(SPECIAL)}
    (root / "vocab.json").write_text(json.dumps(words))
    (root / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.WhisperTokenizer(
        str(root / "vocab.json"), str(root / "merges.txt"), unk_token=SPECIAL[0]
    )
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(SPECIAL), d_model=WIDTH, encoder_layers=3, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=32, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.model.encoder.named_parameters():
            if parameter.ndim > 1 and "positions" not in name:
                parameter.mul_(8.0)  # fresh weights are too small to tell inputs apart
    model.save_pretrained(root / "safetensors")
    tokenizer.save_pretrained(root / "safetensors")
    transformers.WhisperFeatureExtractor().save_pretrained(root / "safetensors")
    converter = converters.TransformersConverter(str(root / "safetensors"))
    converter.convert(str(root / "ct2"), force=True)
    states = states_of(f"whisper:{root / 'safetensors'}", [speech(4.0, 99)])[0]
    chosen = np.random.default_rng(1).choice(len(states), CLUSTERS, replace=False)
    np.save(root / "kmeans.npy", states[chosen])
    return root


def states_of(text: str, wavs: list[np.ndarray]) -> list[np.ndarray]:
    spec = ModelSpec.parse(text, encoders.KINDS)
    assert spec is not None
    family = encoders.FAMILIES[spec.kind]
    directory = family.locate(spec)
    return family.load(family.describe(spec, directory), directory)(wavs)


def name(models, engine: str, more: str = "") -> str:
    return f"whisper:{models / engine}?kmeans={models / 'kmeans.npy'}{more}"


@pytest.fixture(scope="module")
def tokenizers(models):
    return {engine: load_semantic(name(models, engine)) for engine in ("ct2", "safetensors")}


def test_both_engines_agree_within_rounding(models, tokenizers):
    wavs = [speech(0.4, 1), speech(3.2, 2)]
    for one, other in zip(
        states_of(f"whisper:{models / 'ct2'}", wavs),
        states_of(f"whisper:{models / 'safetensors'}", wavs),
        strict=True,
    ):
        assert one.shape == other.shape
        assert one.std() > 0.3
        np.testing.assert_allclose(one, other, atol=2e-3)
    units = [tokenizer.encode(wavs[1], RATE) for tokenizer in tokenizers.values()]
    assert np.mean(units[0] == units[1]) > 0.98


def test_states_are_the_published_models_own_where_the_window_is_30_seconds(models):
    wav = speech(30.0, 3)
    model = transformers.WhisperModel.from_pretrained(models / "safetensors").eval()
    inputs = transformers.WhisperFeatureExtractor()(wav, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        output = model.encoder(inputs["input_features"], output_hidden_states=True)
    for layer in (1, 2):
        found = states_of(f"whisper:{models / 'safetensors'}?layer={layer}", [wav])[0]
        np.testing.assert_allclose(found, output.hidden_states[layer][0].numpy(), atol=1e-4)
    for engine in ("ct2", "safetensors"):
        found = states_of(f"whisper:{models / engine}", [wav])[0]
        np.testing.assert_allclose(found, output.last_hidden_state[0].numpy(), atol=2e-3)


@pytest.mark.parametrize("engine", ["ct2", "safetensors"])
@pytest.mark.parametrize("rate", [50, 25])
def test_a_signal_has_exactly_one_unit_per_hop_begun(models, engine, rate):
    tokenizer = load_semantic(name(models, engine, f"&rate={rate}"))
    assert isinstance(tokenizer, BatchTokenizer)
    assert isinstance(tokenizer, SemanticTokenizer)
    hop = RATE // rate
    assert (tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.vocab_size) == (RATE, rate, 24)
    wav = speech(2.0, 4)
    lengths = (0, 1, 319, hop, hop + 1, 7 * hop - 1, 7 * hop, 10 * hop + 13, 2 * RATE)
    for samples, units in zip(
        lengths, tokenizer.encode_batch([wav[:samples] for samples in lengths], RATE), strict=True
    ):
        assert (units.dtype, units.shape) == (np.uint16, (-(-samples // hop),)), samples
    assert len(np.unique(tokenizer.encode(wav, RATE))) > 3


def test_25_hz_is_the_mean_of_pairs(models):
    wav = speech(1.01, 5)  # 51 frames: the last one has no partner
    fine = states_of(f"whisper:{models / 'ct2'}", [wav])[0]
    coarse = states_of(f"whisper:{models / 'ct2'}?rate=25", [wav])[0]
    assert (len(fine), len(coarse)) == (51, 26)
    np.testing.assert_allclose(coarse[:25], (fine[0:50:2] + fine[1:50:2]) / 2, atol=1e-6)
    np.testing.assert_array_equal(coarse[25], fine[50])


@pytest.mark.parametrize("more", ["", "&dtype=int8"])
def test_units_are_bitwise_the_same_alone_and_in_any_batch(models, more):
    tokenizer = load_semantic(name(models, "ct2", more))
    wavs = [speech(seconds, i) for i, seconds in enumerate((0.7, 1.31, 0.7, 0.05, 2.0, 0.0, 0.7))]
    found = batching.mismatch(tokenizer, wavs, RATE)
    assert found.tokens > 200
    assert (found.different, found.lengths) == (0, 0)
    backwards = tokenizer.encode_batch(wavs[::-1], RATE)[::-1]
    assert batching.compare(backwards, tokenizer.encode_batch(wavs, RATE)).rate == 0
    alone, together = tokenizer._encoder(wavs[:1])[0], tokenizer._encoder(wavs[:3])[0]
    np.testing.assert_array_equal(alone, together)


def test_units_do_not_depend_on_the_number_of_threads(models, monkeypatch):
    wavs = [speech(0.4 + 0.3 * number, number) for number in range(5)]
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        whisper_encoder._load_ctranslate2.cache_clear()
        found.append(states_of(f"whisper:{models / 'ct2'}", wavs))
    whisper_encoder._load_ctranslate2.cache_clear()
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batches_of_transformers_agree_within_rounding(models, tokenizers):
    wavs = [speech(seconds, i) for i, seconds in enumerate((0.7, 1.31, 0.6, 0.8))]
    encoder = tokenizers["safetensors"]._encoder
    for alone, together in zip((encoder([wav])[0] for wav in wavs), encoder(wavs), strict=True):
        np.testing.assert_allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("engine", ["ct2", "safetensors"])
def test_the_context_of_a_unit_is_its_own_window_of_30_seconds(tokenizers, engine):
    tokenizer = tokenizers[engine]
    wav = speech(61.3, 6)
    whole = tokenizer.encode(wav, RATE)
    assert len(whole) == 3065
    pieces = [wav[start : start + 30 * RATE] for start in range(0, len(wav), 30 * RATE)]
    joined = np.concatenate([tokenizer.encode(piece, RATE) for piece in pieces])
    np.testing.assert_array_equal(joined, whole)
    # Within a window every sample counts: a chunk at other bounds has other states.
    states = tokenizer._encoder([wav[: 2 * RATE]])[0]
    assert np.abs(tokenizer._encoder([wav[: 3 * RATE]])[0][:100] - states).max() > 1e-3
    with pytest.raises(ValueError, match="whole signal"):
        batching.encode_in_chunks(tokenizer, wav, RATE, 10.0)


def test_silence_and_clipping_have_units(tokenizers):
    silent = tokenizers["ct2"].encode(np.zeros(RATE, np.float32), RATE)
    assert len(silent) == 50
    assert len(tokenizers["ct2"].encode(np.sign(speech(0.5, 7)), RATE)) == 25
    assert len(tokenizers["ct2"].encode(speech(0.5, 7)[::2], RATE // 2)) == 25


def test_what_determines_the_units_is_part_of_the_identity_and_of_the_id(models, tokenizers):
    both = [*tokenizers.values()]
    others = [
        load_semantic(name(models, "ct2", "&rate=25")),
        load_semantic(name(models, "ct2", "&dtype=int8")),
        load_semantic(name(models, "safetensors", "&layer=2")),
        load_semantic(name(models, "safetensors", "&layer=3")),
    ]
    assert len({tokenizer.sha256 for tokenizer in both + others}) == 6
    assert len({tokenizer.id for tokenizer in both + others}) == 6
    config = tokenizers["ct2"].config
    assert tokenizers["ct2"].id == (
        f"whisper-ct2-{config.model_sha256[:8]}-output-50hz-ctranslate2-float32-24"
    )
    assert (others[2].config.engine, others[2].config.layer) == ("transformers", 2)
    wav = speech(1.0, 8)
    assert (others[2].encode(wav, RATE) != both[1].encode(wav, RATE)).any()


@pytest.mark.parametrize("engine", ["ct2", "safetensors"])
def test_a_stored_tokenizer_is_the_same_and_pinned_to_its_weights(models, tmp_path, engine):
    model = tmp_path / "whisper-toy"
    shutil.copytree(models / engine, model)
    spec = f"whisper:{model}?kmeans={models / 'kmeans.npy'}"
    store_tokenizer(spec, tmp_path / "stored")
    stored, wav = load_semantic(tmp_path / "stored"), speech(0.6, 9)
    assert stored.id.startswith("whisper-toy-")
    np.testing.assert_array_equal(stored.encode(wav, RATE), load_semantic(spec).encode(wav, RATE))
    assert stored.sha256 == load_semantic(spec).sha256
    weights = model / ("model.bin" if engine == "ct2" else "model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    shutil.move(model, tmp_path / "moved")  # the digest of a directory is taken once
    place = {"model": str(tmp_path / "moved"), "revision": None}
    (tmp_path / "stored/model.json").write_text(json.dumps(place))
    with pytest.raises(UserError, match="sha256"):
        load_semantic(tmp_path / "stored").encode(wav, RATE)


def test_what_is_wrong_with_a_specification_is_said_in_one_line(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("GPST_WHISPER", raising=False)
    kmeans = f"kmeans={models / 'kmeans.npy'}"
    np.save(tmp_path / "narrow.npy", np.zeros((4, 5), np.float32))
    (tmp_path / "empty").mkdir()
    hubert = tmp_path / "hubert"
    shutil.copytree(models / "safetensors", hubert)
    settings = json.loads((hubert / "config.json").read_text()) | {"model_type": "hubert"}
    (hubert / "config.json").write_text(json.dumps(settings))
    for spec, message in {
        f"whisper:{models / 'ct2'}": "kmeans=FILE",
        f"whisper:{models / 'ct2'}?{kmeans}&layer=2": ".safetensors",
        f"whisper:{models / 'ct2'}?{kmeans}&layer=2&engine=ctranslate2": "output only",
        f"whisper:{models / 'ct2'}?{kmeans}&dtype=bfloat16": "int8",
        f"whisper:{models / 'ct2'}?{kmeans}&rate=12": "rate=12",
        f"whisper:{models / 'safetensors'}?{kmeans}&layer=4": "from 1 to 3",
        f"whisper:{models / 'safetensors'}?{kmeans}&engine=ctranslate2": "CTranslate2's format",
        f"whisper:{models / 'ct2'}?kmeans={tmp_path / 'narrow.npy'}": "dimensions",
        f"whisper:{tmp_path / 'empty'}?{kmeans}": "no Whisper model",
        f"whisper:{hubert}?{kmeans}": "'hubert'",
        f"whisper:colossal?{kmeans}": "tiny.en",
        f"whisper:small?{kmeans}": "GPST_WHISPER",
        f"whisper:{tmp_path / 'nowhere'}?{kmeans}": "not a directory",
    }.items():
        with pytest.raises(UserError) as caught:
            load_semantic(spec)
        assert message in str(caught.value), (spec, str(caught.value))
        assert "\n" not in str(caught.value)


def test_clusters_are_fitted_reproducibly_and_make_a_tokenizer(models, tmp_path):
    from data_pipeline.fitting.kmeans import KMeansConfig, fit_kmeans
    from data_pipeline.sources import FolderSource

    for number in range(6):
        path = tmp_path / f"audio/{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, speech(0.5 + 0.1 * number, number).clip(-1, 1), RATE)
    utterances = FolderSource(tmp_path / "audio").list()[0]
    output = tmp_path / "km.safetensors"
    settings = {"clusters": 12, "output": str(output), "batch_frames": 50}
    result = fit_kmeans(KMeansConfig(model=f"whisper:{models / 'ct2'}", **settings), utterances)
    first = output.read_bytes()
    assert result["frames"] == sum(25 + 5 * number for number in range(6))
    fit_kmeans(KMeansConfig(model=f"whisper:{models / 'ct2'}", **settings), utterances)
    assert output.read_bytes() == first
    tokenizer = load_semantic(f"whisper:{models / 'ct2'}?kmeans={output}")
    assert len(np.unique(tokenizer.encode(speech(1.0, 1), RATE))) > 3
