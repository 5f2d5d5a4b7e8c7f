"""A codec whose first codebook is semantic, without a pretrained model.

The offline stand-in for SpeechTokenizer (arXiv 2308.16692): the codes of codebook 1 are the units
of `mfcc_kmeans`, which carry little speaker information, and its vectors are the mean log-mel frame
of each unit; codebooks 2 to Q quantise the residual, the perceptual information. The decoder takes
the sum of a frame's vectors, quantised or not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from data_pipeline.tokenizers.codecs import mel_rvq
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ, MelRVQConfig
from data_pipeline.tokenizers.semantic import kmeans, mfcc_kmeans
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans, MFCCKMeansConfig


@dataclasses.dataclass(frozen=True)
class UnifiedRVQConfig:
    """The units of the first codebook, and the codec that they are part of.

    Attributes:
        units: their `vocab_size` is at most the codec's `codebook_size`; the remaining entries of
            the first codebook are unused.
        codec: has the frame rate of the units.
    """

    units: MFCCKMeansConfig
    codec: MelRVQConfig

    def __post_init__(self):
        for name, kind in (("units", MFCCKMeansConfig), ("codec", MelRVQConfig)):
            value = getattr(self, name)
            if isinstance(value, dict):  # as stored
                object.__setattr__(self, name, kind(**value))
        if self.units.frame_rate != self.codec.frame_rate:
            raise ValueError(
                f"units at {self.units.frame_rate:g} Hz, frames at {self.codec.frame_rate:g} Hz: a "
                "unified codec needs equal rates"
            )
        if self.units.vocab_size > self.codec.codebook_size:
            raise ValueError(
                f"{self.units.vocab_size} units exceed the {self.codec.codebook_size} codes of a "
                "codebook"
            )
        if self.codec.num_codebooks < 2:
            raise ValueError("num_codebooks must be 2 or more: the first one is semantic")


class UnifiedRVQ(MelRVQ):
    """The codec; implements `base.AcousticCodec`.

    Attributes:
        semantic_vocab: codes of the first codebook are in [0, semantic_vocab).
    """

    kind: ClassVar[str] = "unified_rvq"
    config_type: ClassVar[type] = UnifiedRVQConfig

    def __init__(self, config: UnifiedRVQConfig, weights: dict[str, np.ndarray], sha256: str):
        """See `load` and `fit`."""
        super().__init__(config.codec, _part(weights, "codec"), sha256)
        self.semantic_vocab = config.units.vocab_size
        self.context_frames = None  # units are normalised over the whole signal
        self._units = MFCCKMeans(config.units, _part(weights, "units"), sha256)

    def encode_first(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """The codes of the first codebook alone, uint16 (T,); see `encode`."""
        return self._units.encode(wav, sample_rate)

    def _quantise(self, wav: np.ndarray, residual: np.ndarray) -> np.ndarray:
        codes = np.empty((self.num_codebooks, len(residual)), np.uint16)
        codes[0] = self.encode_first(wav, self.sample_rate)
        residual = residual - self.codebooks[0][codes[0]]
        for row, codebook in zip(codes[1:], self.codebooks[1:], strict=True):
            row[:] = kmeans.nearest(residual, codebook)
            residual = residual - codebook[row]
        return codes


def fit(
    config: UnifiedRVQConfig,
    units: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
    seed: int,
    on_iteration: Callable[[int], None] = lambda steps: None,
    iterations: int = 12,
) -> dict[str, np.ndarray]:
    """Fits the units, then the codebooks of the residual.

    Args:
        config: of the codec.
        units: `mfcc_kmeans.raw_features` of each utterance.
        frames: `mel_rvq.raw_features` of each utterance.
        seed: of k-means.
        on_iteration: called with 1 after each iteration, for progress.
        iterations: of k-means, per codebook.

    Returns:
        The weights of both parts, with the prefixes `units/` and `codec/`.
    """
    unit_weights = mfcc_kmeans.fit(config.units, units, seed, on_iteration, iterations)
    tokenizer = MFCCKMeans(config.units, unit_weights, "")
    codes = [tokenizer.quantise(raw) for raw in units]
    codec_weights = mel_rvq.fit(config.codec, frames, seed, on_iteration, iterations, codes)
    parts = {"units": unit_weights, "codec": codec_weights}
    return {f"{part}/{name}": array for part in parts for name, array in parts[part].items()}


def _part(weights: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    prefix = part + "/"
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
