"""The codec whose first codebook is semantic: its algebra, and both streams from one name."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import load_codec, load_semantic, storage
from data_pipeline.tokenizers.codecs import unified_rvq
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQConfig, raw_features
from data_pipeline.tokenizers.codecs.unified_rvq import UnifiedRVQ, UnifiedRVQConfig
from data_pipeline.tokenizers.semantic.first_codebook import FirstCodebook
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import raw_features as unit_features

RATE = 16_000
CONFIG = UnifiedRVQConfig(
    MFCCKMeansConfig(vocab_size=6), MelRVQConfig(num_codebooks=4, codebook_size=16)
)


def _tones(seconds: float, seed: int) -> np.ndarray:
    """Chords that change five times a second, over a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitches = random.uniform(100, 3000, (int(5 * seconds) + 1, 3))[(5 * time).astype(int)]
    wav = np.sin(2 * np.pi * pitches * time[:, None]).mean(axis=1)
    return (0.1 * wav + 0.001 * random.normal(size=len(time))).astype(np.float32)


WAVS = [_tones(2.0, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    units = [unit_features(CONFIG.units, wav) for wav in WAVS]
    frames = [raw_features(CONFIG.codec, wav) for wav in WAVS]
    weights = unified_rvq.fit(CONFIG, units, frames, seed=0)
    path = tmp_path_factory.mktemp("unified")
    storage.save_tokenizer(path, UnifiedRVQ.kind, CONFIG, weights)
    return path


@pytest.fixture(scope="module")
def codec(directory):
    return load_codec(directory)


def test_one_name_serves_both_streams(directory, codec):
    semantic = load_semantic(directory)
    assert isinstance(semantic, FirstCodebook)
    assert (semantic.vocab_size, semantic.frame_rate) == (6, codec.frame_rate)
    assert semantic.sha256 == codec.sha256
    wav = _tones(1.3, 100)
    codes = codec.encode(wav, RATE)
    assert codes.shape == (4, 65)
    np.testing.assert_array_equal(semantic.encode(wav, RATE), codes[0])
    assert codes[0].max() < 6


def test_units_do_not_depend_on_level_but_the_rest_does(codec):
    wav = _tones(1.0, 101)
    loud, quiet = codec.encode(wav, RATE), codec.encode(0.2 * wav, RATE)
    np.testing.assert_array_equal(loud[0], quiet[0])
    assert (loud[1:] != quiet[1:]).any()


def test_vectors_of_units_are_the_mean_frames_of_their_training_data(codec):
    frames = np.concatenate([raw_features(CONFIG.codec, wav) for wav in WAVS])
    units = np.concatenate([codec.encode_first(wav, RATE) for wav in WAVS])
    mean = frames.mean(axis=0)
    for unit in np.unique(units):
        expected = (frames[units == unit] - mean).mean(axis=0)
        np.testing.assert_allclose(codec.codebooks[0][unit], expected, atol=1e-4)


def test_first_vector_and_residual_add_up(codec):
    codes = codec.encode(_tones(1.0, 102), RATE)
    whole = codec.embed(codes)
    np.testing.assert_allclose(codec.embed(codes, 0, 1) + codec.embed(codes, 1), whole, atol=1e-5)
    np.testing.assert_allclose(codec.decode_vectors(whole), codec.decode(codes), atol=1e-5)


def test_each_codebook_reduces_the_error(codec):
    wav = _tones(2.0, 3)
    codes, target = codec.encode(wav, RATE), raw_features(CONFIG.codec, wav) - codec._mean
    errors = [np.square(target - codec.embed(codes, 0, depth)).mean() for depth in range(1, 5)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": MFCCKMeansConfig(frame_rate=25.0)}, "25 Hz"),
        ({"units": MFCCKMeansConfig(vocab_size=17)}, "17 units"),
        ({"codec": MelRVQConfig(num_codebooks=1, codebook_size=16)}, "num_codebooks"),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_stored_configuration_with_unknown_keys_is_refused(directory, tmp_path):
    stored = storage.load_tokenizer(directory)

    @dataclasses.dataclass
    class Other:
        units: dict
        other: int = 1

    storage.save_tokenizer(tmp_path, UnifiedRVQ.kind, Other(stored.config["units"]), stored.weights)
    with pytest.raises(UserError, match="codec, other"):
        load_codec(tmp_path)


def test_first_codebook_of_a_codec_that_computes_all():
    class Codec:
        id, sha256, sample_rate, frame_rate = "fake", "0" * 64, RATE, 50.0
        codebook_size, context_frames = 16, 3

        def encode(self, wav, sample_rate):
            return np.stack([np.arange(4, dtype=np.uint16), np.zeros(4, np.uint16)])

    semantic = FirstCodebook(Codec())
    assert semantic.vocab_size == 16
    np.testing.assert_array_equal(semantic.encode(np.zeros(9, np.float32), RATE), np.arange(4))
