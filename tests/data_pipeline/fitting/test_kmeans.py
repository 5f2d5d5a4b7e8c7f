"""Clusters of hidden states: right, deterministic, resumable, and usable as units."""

import numpy as np
import pytest
import soundfile

from data_pipeline.convert_weights import convert_weights
from data_pipeline.fitting import kmeans as module
from data_pipeline.fitting.kmeans import KMeansConfig, fit_kmeans
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource
from data_pipeline.tokenizers import load_semantic
from data_pipeline.tokenizers.semantic.centroids import read_centroids, write_centroids
from data_pipeline.tokenizers.semantic.streaming_kmeans import StreamingKMeans

RATE = 16_000


def blobs(count: int, centres: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = 10 * rng.standard_normal((centres, 8))
    labels = rng.integers(centres, size=count)
    return (means[labels] + rng.standard_normal((count, 8))).astype(np.float32), means


def test_streamed_clusters_find_well_separated_blobs():
    points, means = blobs(4000)
    clusters = StreamingKMeans(6, seed=0, batch_size=200)
    for start in range(0, len(points), 170):
        clusters.add(points[start : start + 170])
    found = clusters.finish()
    gaps = np.linalg.norm(found[:, None] - means[None], axis=-1)
    assert gaps.min(axis=0).max() < 0.3
    assert clusters.points == 4000
    assert 6 < clusters.error < 10  # the variance of eight dimensions


def test_neither_chunking_of_the_stream_nor_a_restart_changes_the_clusters():
    points, _ = blobs(3000, seed=1)

    def fit(sizes, restart_at=None):
        clusters = StreamingKMeans(20, seed=3, batch_size=128)
        start = number = 0
        while start < len(points):
            clusters.add(points[start : start + sizes[number % len(sizes)]])
            start += sizes[number % len(sizes)]
            number += 1
            if number == restart_at:
                state = {name: value.copy() for name, value in clusters.state().items()}
                clusters = StreamingKMeans(20, seed=3, batch_size=128)
                clusters.restore(state)
        return clusters.finish()

    expected = fit([3000])
    np.testing.assert_array_equal(fit([1, 500, 37]), expected)
    np.testing.assert_array_equal(fit([60], restart_at=1), expected)
    np.testing.assert_array_equal(fit([60], restart_at=30), expected)


def test_empty_clusters_are_reinitialised_at_points():
    rng = np.random.default_rng(0)
    clusters = StreamingKMeans(8, seed=0, batch_size=100)
    clusters.add(rng.standard_normal((100, 2)).astype(np.float32))  # all start here
    for _ in range(80):
        clusters.add((rng.standard_normal((100, 2)) + 1000).astype(np.float32))
    found = clusters.finish()
    assert (found.min(axis=1) > 900).sum() >= 3
    with pytest.raises(ValueError, match="as many points"):
        StreamingKMeans(8, seed=0).finish()


def test_centroids_round_trip_and_bad_files_are_refused(tmp_path):
    centroids = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    for name in ("a.npz", "a.safetensors"):
        write_centroids(tmp_path / name, centroids)
        first = (tmp_path / name).read_bytes()
        write_centroids(tmp_path / name, centroids)
        assert (tmp_path / name).read_bytes() == first
        np.testing.assert_array_equal(read_centroids(tmp_path / name), centroids)
    np.save(tmp_path / "a.npy", centroids.astype(np.float64))
    np.testing.assert_array_equal(read_centroids(tmp_path / "a.npy"), centroids)
    np.savez(tmp_path / "two.npz", x=centroids, y=centroids)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "ints.npy", np.zeros((4, 2), np.int64))
    np.save(tmp_path / "nan.npy", np.full((4, 2), np.nan))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:60])
    for name in ("two.npz", "object.npy", "ints.npy", "nan.npy", "cut.npz"):
        with pytest.raises(UserError, match=name):
            read_centroids(tmp_path / name)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("hubert")
    transformers.HubertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        time = np.arange(8_000 + 700 * number) / RATE
        wav = 0.3 * np.sin(2 * np.pi * (150 + 60 * number) * time * (1 + time))
        wav += 0.05 * rng.standard_normal(len(time))
        path = tmp_path / f"corpus/{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wav, RATE)
    (tmp_path / "corpus/broken.wav").write_bytes(b"RIFF")
    return tmp_path / "corpus"


class Killed(Exception):
    pass


def test_a_killed_fit_resumes_and_ends_in_the_same_clusters(hubert, corpus, tmp_path, monkeypatch):
    utterances = FolderSource(corpus).list()[0]
    monkeypatch.setattr(module, "_GROUP", 2)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_SAVES", 0.0)

    def config(name: str, **kwargs) -> KMeansConfig:
        model = f"hubert:{hubert}?layer=1"
        output = str(tmp_path / name)
        return KMeansConfig(model, 6, output, passes=2, batch_frames=64, **kwargs)

    whole = fit_kmeans(config("whole.safetensors"), utterances)
    assert whole["resumed"] is False
    assert whole["unreadable"] == 1
    assert whole["frames"] == 2 * sum(-(-(8_000 + 700 * n) // 320) for n in range(12))
    assert fit_kmeans(config("again.safetensors"), utterances)["sha256"] == whole["sha256"]

    process = module._Run._process
    calls = []

    def die(self, group):
        calls.append(group)
        if len(calls) == 9:  # in the second epoch
            raise Killed
        process(self, group)

    monkeypatch.setattr(module._Run, "_process", die)
    with pytest.raises(Killed):
        fit_kmeans(config("killed.safetensors"), utterances)
    assert not (tmp_path / "killed.safetensors").exists()
    with pytest.raises(UserError, match="other settings"):
        fit_kmeans(config("killed.safetensors", seed=1), utterances)
    data = (corpus / "3.wav").read_bytes()
    (corpus / "3.wav").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"changed: 1 of 13 hold something else, .*3\.wav"):
        fit_kmeans(config("killed.safetensors"), utterances)
    (corpus / "3.wav").write_bytes(data)  # touched, but the same
    calls.clear()
    resumed = fit_kmeans(config("killed.safetensors"), utterances)
    assert resumed["resumed"] is True
    assert len(calls) < 8
    assert resumed["sha256"] == whole["sha256"]
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed.safetensors"]

    units = load_semantic(f"hubert:{hubert}?layer=1&kmeans={tmp_path / 'killed.safetensors'}")
    assert units.vocab_size == 6
    wav, _ = soundfile.read(corpus / "3.wav", dtype="float32")
    assert len(np.unique(units.encode(wav, RATE))) > 1


def test_what_cannot_be_fitted_is_a_user_error(hubert, corpus, tmp_path):
    utterances = FolderSource(corpus).list()[0]
    output = str(tmp_path / "k.npz")
    with pytest.raises(UserError, match="too little"):
        fit_kmeans(KMeansConfig(f"hubert:{hubert}?layer=1", 400, output), utterances)
    for model in ("hubert", f"hubert:{hubert}", f"hubert:{hubert}?layer=1&kmeans=x.npy"):
        with pytest.raises(UserError):
            fit_kmeans(KMeansConfig(model, 4, output), utterances)
    with pytest.raises(UserError, match="suffix"):
        KMeansConfig("hubert:x?layer=1", 4, "k.bin")
    with pytest.raises(UserError, match="clusters"):
        KMeansConfig("hubert:x?layer=1", 1, output)


class Hostile:
    def __reduce__(self):
        return (print, ("ran",))


def test_pickled_weights_are_converted_without_running_them(hubert, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    weights = load_file(hubert / "model.safetensors")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_bytes((hubert / "config.json").read_bytes())
    torch.save(weights, old / "pytorch_model.bin")
    result = convert_weights(old, tmp_path / "new")
    assert result["tensors"] == len(weights)
    np.save(tmp_path / "k.npy", np.random.default_rng(0).standard_normal((4, 16)))
    wav = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    units = [
        load_semantic(f"hubert:{path}?layer=2&kmeans={tmp_path / 'k.npy'}").encode(wav, RATE)
        for path in (hubert, tmp_path / "new")
    ]
    np.testing.assert_array_equal(*units)

    capsys.readouterr()
    torch.save({"a": Hostile()}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors"):
        convert_weights(old, tmp_path / "other")
    assert capsys.readouterr().out == ""
    torch.save({"a": 3}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match="'a' is not a tensor"):
        convert_weights(old, tmp_path / "other")
    with pytest.raises(UserError, match=r"no \.bin"):
        convert_weights(hubert, tmp_path / "other")
