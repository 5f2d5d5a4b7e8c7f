import json

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import hf_models, registry, speaker

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
_TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="module")
def wav():
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(16000)).astype(np.float32)


@pytest.mark.slow
def test_ctc_recogniser_loads_a_local_directory(tmp_path, monkeypatch, wav):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.HubertConfig(**_TINY, vocab_size=len(LETTERS))
    transformers.HubertForCTC(config).save_pretrained(tmp_path)
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps({c: i for i, c in enumerate(LETTERS)}), encoding="utf-8")
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(),
        transformers.Wav2Vec2CTCTokenizer(str(vocab), word_delimiter_token="|"),
    ).save_pretrained(tmp_path)
    monkeypatch.setenv(hf_models.HUBERT_CTC_VARIABLE, str(tmp_path))
    text = hf_models.load_hubert_ctc()(wav)
    # Greedy CTC by hand from the same network: repeats collapse, then blanks are dropped.
    model = transformers.HubertForCTC.from_pretrained(tmp_path).eval()
    level = torch.from_numpy((wav - wav.mean()) / np.sqrt(wav.var() + 1e-7))
    with torch.inference_mode():
        ids = model(level[None]).logits[0].argmax(-1).tolist()
    kept = [i for i, before in zip(ids, [None, *ids], strict=False) if i != before]
    words = "".join(LETTERS[i] for i in kept if i > 3).replace("|", " ")
    assert text == " ".join(words.split())
    assert text
    # Cached values belong to the contents of the weights, wherever they are.
    measurement = registry.get_recipe("wer/hubert-large-ls960-ctc").measurement
    before = measurement.key()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert measurement.key() != before


def test_xvectors_load_a_local_directory(tmp_path, monkeypatch, wav):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        **_TINY, tdnn_dim=(16, 16), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=12
    )
    transformers.WavLMForXVector(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    monkeypatch.setenv(hf_models.WAVLM_SV_VARIABLE, str(tmp_path))
    embed = hf_models.load_wavlm_xvector()
    vector = embed(wav)
    assert len(vector) == 12
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert speaker.cosine(vector, embed(wav)) == pytest.approx(1, abs=1e-6)
    assert speaker.cosine(vector, embed(wav[::-2].copy())) < 0.99999


def test_a_missing_model_is_one_clear_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv(hf_models.WAVLM_SV_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="GPST_WAVLM_SV"):
        hf_models.load_wavlm_xvector()


def test_results_name_directory_or_revision_and_the_hub_is_not_asked(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("transformers")
    monkeypatch.delenv(hf_models.WAVLM_SV_VARIABLE, raising=False)
    recipe = registry.get_recipe("sim-o/wavlm-base-plus-sv")
    asked = []

    def cached(repository, allow_patterns, local_files_only):
        asked.append((repository, local_files_only))
        snapshot = tmp_path / "snapshots" / "abc123"
        snapshot.mkdir(parents=True, exist_ok=True)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert recipe.describe()["weights"] == "hub microsoft/wavlm-base-plus-sv, revision abc123"
    assert recipe.measurement.key().endswith("abc123")
    assert asked == [("microsoft/wavlm-base-plus-sv", only) for only in (True, False)]
    monkeypatch.setenv(hf_models.WAVLM_SV_VARIABLE, str(tmp_path))
    assert recipe.describe()["weights"] == f"directory {tmp_path}"


def test_a_model_that_is_not_here_is_one_line_before_any_work(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("transformers")
    monkeypatch.delenv(hf_models.WAVLM_SV_VARIABLE, raising=False)

    def offline(*arguments, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    recipe = registry.get_recipe("sim-o/wavlm-base-plus-sv")
    with pytest.raises(UserError, match="set GPST_WAVLM_SV to its directory") as error:
        recipe.measurement.check()
    assert "\n" not in str(error.value)
    assert recipe.describe()["weights"] is None
