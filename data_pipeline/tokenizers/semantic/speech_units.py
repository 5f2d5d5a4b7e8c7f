"""Semantic units from a pretrained speech encoder: k-means clusters of a layer's hidden states.

GPST uses layer 35 of a 48-layer wav2vec 2.0 model with 10,000 clusters (arXiv 2406.00976); layer 9
of HuBERT with 500 clusters is a common smaller choice. The encoders are those of `encoders`.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipeline.audio.io import resample
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import batching, pretrained, storage, torch_runtime
from data_pipeline.tokenizers.semantic import kmeans
from data_pipeline.tokenizers.semantic.centroids import ARRAY_NAME, read_centroids
from data_pipeline.tokenizers.semantic.encoders import FAMILIES, UnitsConfig

_BLOCK = 4096  # frames per distance table, (block, clusters) float32


class SpeechUnits:
    """The tokenizer; implements `base.SemanticTokenizer` and `base.BatchTokenizer`.

    The model is loaded when the first signal is encoded.
    """

    def __init__(
        self,
        config: UnitsConfig,
        location: pretrained.Location,
        centroids: np.ndarray,
        sha256: str,
    ):
        """See `load` and `from_spec`."""
        self.config = config
        self.sha256 = sha256
        self.id = f"{config.id}-{len(centroids)}"
        self.sample_rate = config.sample_rate
        self.frame_rate = config.sample_rate / config.hop
        self.vocab_size = len(centroids)
        self.equal_lengths = config.equal_lengths
        self._location = location
        self._centroids = centroids

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "SpeechUnits":
        """Reads a tokenizer's directory.

        Raises:
            UserError: the directory is not one, or was modified.
        """
        stored = storage.load_tokenizer(directory)
        config = stored.parse_config(FAMILIES[stored.kind].config, directory)
        location = pretrained.Location.load(directory)
        return cls(config, location, stored.weights[ARRAY_NAME], stored.sha256)

    @classmethod
    def from_spec(cls, spec: pretrained.ModelSpec) -> "SpeechUnits":
        """Makes the tokenizer of `KIND:MODEL?layer=9&kmeans=FILE`.

        Raises:
            UserError: an option, the model or the k-means file is invalid.
        """
        family = FAMILIES[spec.kind]
        options = spec.checked_options((*family.options, "kmeans"))
        if "kmeans" not in options:
            raise UserError(
                f"{spec.kind}:{spec.location.model} needs ?kmeans=FILE; fit one with "
                "python -m data_pipeline.fit_kmeans"
            )
        centroids = read_centroids(options["kmeans"])
        directory = family.locate(spec)
        encoder = family.describe(spec, directory)
        if encoder.width != centroids.shape[1]:
            raise UserError(
                f"kmeans file {options['kmeans']} has {centroids.shape[1]} dimensions, the hidden "
                f"states of {spec.location.model} have {encoder.width}: it belongs to another "
                "model"
            )
        config = family.config(
            **dataclasses.asdict(encoder),
            name=spec.location.name,
            model_sha256=pretrained.model_sha256(directory),
        )
        sha256 = storage.identity(config.kind, config, {ARRAY_NAME: centroids})
        return cls(config, spec.location, centroids, sha256)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the tokenizer's directory: the centroids, and the location of the model.

        Raises:
            UserError: it cannot be written.
        """
        weights = {ARRAY_NAME: self._centroids}
        storage.save_tokenizer(directory, self.config.kind, self.config, weights)
        self._location.save(directory)

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Units, uint16 (T,), of a signal, float32 (N,); T = ceil(N / hop) after resampling."""
        return self.encode_batch([wav], sample_rate)[0]

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Units of each signal, as `encode` returns them; see `base.BatchTokenizer`."""
        signals = [resample(wav, sample_rate, self.sample_rate) for wav in wavs]
        return batching.encode_in_batches(
            signals,
            self.config.hop,
            self.sample_rate,
            self.equal_lengths,
            self._units,
            np.zeros(0, np.uint16),
        )

    def _units(self, wavs: list[np.ndarray]) -> list[np.ndarray]:
        return [self._nearest(states) for states in self._encoder(wavs)]

    def _nearest(self, states) -> np.ndarray:
        """Units of the hidden states (T, D) of one signal, so that rounding ignores the batch."""
        if isinstance(states, np.ndarray):
            return kmeans.nearest(states, self._centroids).astype(np.uint16)
        table, half_norms = self._table
        parts = [
            (half_norms - block @ table).argmin(dim=1).cpu().numpy()
            for block in states.split(_BLOCK)
        ]
        return np.concatenate(parts).astype(np.uint16)

    @functools.cached_property
    def _encoder(self) -> Callable[..., list[Any]]:
        family = FAMILIES[self.config.kind]
        directory = pretrained.checked_directory(
            self._location,
            self.config.model_sha256,
            lambda location: family.find(location, self.config),
        )
        return family.load(self.config, directory)

    @functools.cached_property
    def _table(self):
        """Centroids (D, K) and half of their squared norms (K,), on the device."""
        torch = torch_runtime.import_torch()
        centroids = torch.from_numpy(self._centroids).to(torch_runtime.device())
        return centroids.T.contiguous(), 0.5 * (centroids * centroids).sum(dim=1)
