"""What codecs fitted to a corpus share: storage, sizes, and decoding of codes and latents."""

import abc
import os
from typing import Any, ClassVar, Self

import numpy as np

from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.codecs.residual import sum_of_vectors


class ResidualCodec(abc.ABC):
    """Base of codecs whose latents are sums of codebook vectors; implements `base.AcousticCodec`.

    Attributes:
        kind: as stored.
        config_type: class of the stored configuration.
        codebooks: float32 (Q, N, D), vectors in the latent space.
        context_frames: frames on either side that the codes of a frame depend on; None: all.
        lookahead_frames: at the end of what is decoded, whose samples later frames change; those
            before are those of the complete signal within -60 dB.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type]
    context_frames: int | None
    lookahead_frames: int

    def __init__(self, config: Any, weights: dict[str, np.ndarray], sha256: str):
        """See `load`."""
        self.config = config
        self.sha256 = sha256
        self.id = (
            f"{self.kind}-{config.num_codebooks}x{config.codebook_size}-{config.frame_rate:g}hz"
        )
        self.sample_rate = config.sample_rate
        self.frame_rate = config.frame_rate
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.codebooks = weights["codebooks"]

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Reads a fitted codec.

        Raises:
            UserError: the directory is not one, or was modified.
        """
        stored = storage.load_tokenizer(directory)
        config: Any = stored.parse_config(cls.config_type, directory)
        return cls(config, stored.weights, stored.sha256)

    @abc.abstractmethod
    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Codes of a signal.

        Args:
            wav: float32 (N,).
            sample_rate: of the signal, in Hz; resampled if it is not the codec's.

        Returns:
            uint16 (Q, T), T = ceil(N / hop) after resampling.
        """

    def embed(self, codes: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Sum of the vectors of codebooks [start, stop): codes (Q', T) -> float32 (T, D).

        Raises:
            ValueError: too many codebooks, or codes out of range.
        """
        return sum_of_vectors(self.codebooks, codes, start, stop)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decodes codes to a signal.

        Args:
            codes: integers (Q', T), the first Q' codebooks of each frame, 1 <= Q' <= Q.

        Returns:
            float32 (T * hop,) at the codec's sample rate.

        Raises:
            ValueError: too many codebooks, or codes out of range.
            UserError: a package that the codec needs is not installed.
        """
        return self._decoded(self.embed(codes), len(codes))

    def decode_vectors(self, latents: np.ndarray) -> np.ndarray:
        """Decodes latents without quantising them: (T, D) -> float32 (T * hop,)."""
        return self._decoded(np.asarray(latents, np.float32), self.num_codebooks)

    def _decoded(self, latents: np.ndarray, depth: int) -> np.ndarray:
        return self._render(latents, depth) if len(latents) else np.zeros(0, np.float32)

    @abc.abstractmethod
    def _render(self, latents: np.ndarray, depth: int) -> np.ndarray:
        """Latents (T, D), T > 0, that are sums over `depth` codebooks, to a signal (T * hop,)."""
