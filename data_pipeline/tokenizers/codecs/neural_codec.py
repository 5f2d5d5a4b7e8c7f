"""Pretrained neural codecs: encoding to codes, decoding from codes or latents.

Signals are zero-padded to a multiple of the hop before they are encoded; the published models pad
differently (EnCodec by reflection), so that the last frame of a signal may differ from theirs.
Decoded signals have exactly T * hop samples.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipeline.audio.io import resample
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import batching, pretrained, storage, torch_runtime
from data_pipeline.tokenizers.base import num_frames
from data_pipeline.tokenizers.codecs.codec_networks import (
    CodecNetwork,
    DacNetwork,
    EncodecNetwork,
    MimiNetwork,
)
from data_pipeline.tokenizers.codecs.residual import sum_of_vectors
from data_pipeline.tokenizers.codecs.speechtokenizer_network import SpeechTokenizerNetwork

NETWORKS: Mapping[str, type[CodecNetwork]] = {
    "encodec": EncodecNetwork,
    "dac": DacNetwork,
    "mimi": MimiNetwork,
    "speechtokenizer": SpeechTokenizerNetwork,
}


@dataclasses.dataclass(frozen=True)
class NeuralCodecConfig:
    """The pinned model and its properties, known without loading it.

    Attributes:
        kind: a key of `NETWORKS`.
        name: of the model, used in ids.
        model_sha256: see `pretrained.model_sha256`.
        dtype: of the computation.
        sample_rate: in Hz.
        hop: samples per frame.
        num_codebooks: Q.
        codebook_size: N.
        equal_lengths: see `base.BatchTokenizer`.
        min_frames: see `codec_networks.CodecInfo`.
        context_frames: see `codec_networks.CodecInfo`.
    """

    kind: str
    name: str
    model_sha256: str
    dtype: str
    sample_rate: int
    hop: int
    num_codebooks: int
    codebook_size: int
    equal_lengths: bool
    min_frames: int
    context_frames: int | None


class NeuralCodec:
    """The codec; implements `base.AcousticCodec` and `base.BatchTokenizer`.

    The model is loaded on first use.
    """

    def __init__(self, config: NeuralCodecConfig, location: pretrained.Location, sha256: str):
        """See `load` and `from_spec`."""
        self.config = config
        self.sha256 = sha256
        self.id = f"{config.kind}-{config.name}-{config.num_codebooks}x{config.codebook_size}"
        self.sample_rate = config.sample_rate
        self.frame_rate = config.sample_rate / config.hop
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.equal_lengths = config.equal_lengths
        self.context_frames = config.context_frames
        self._location = location

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "NeuralCodec":
        """Reads a codec's directory.

        Raises:
            UserError: the directory is not one, or was modified.
        """
        stored = storage.load_tokenizer(directory)
        config = stored.parse_config(NeuralCodecConfig, directory)
        return cls(config, pretrained.Location.load(directory), stored.sha256)

    @classmethod
    def from_spec(cls, spec: pretrained.ModelSpec) -> "NeuralCodec":
        """Makes the codec of `KIND:MODEL?codebooks=8`.

        Raises:
            UserError: an option or the model is invalid.
        """
        spec.checked_options(("codebooks", "dtype"))
        directory = spec.location.directory()
        info = NETWORKS[spec.kind].describe(directory)
        num_codebooks = spec.positive_int("codebooks", info.default_codebooks)
        assert num_codebooks is not None
        if not info.min_codebooks <= num_codebooks <= info.max_codebooks:
            raise UserError(
                f"{spec.kind}:{spec.location.model}: codebooks={num_codebooks} is not from "
                f"{info.min_codebooks} to {info.max_codebooks}"
            )
        config = NeuralCodecConfig(
            kind=spec.kind,
            name=spec.location.name,
            model_sha256=pretrained.model_sha256(directory),
            dtype=spec.choice("dtype", torch_runtime.DTYPES, "float32"),
            sample_rate=info.sample_rate,
            hop=info.hop,
            num_codebooks=num_codebooks,
            codebook_size=info.codebook_size,
            equal_lengths=info.equal_lengths,
            min_frames=info.min_frames,
            context_frames=info.context_frames,
        )
        return cls(config, spec.location, storage.identity(config.kind, config, {}))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the codec's directory, with the location of the model.

        Raises:
            UserError: it cannot be written.
        """
        storage.save_tokenizer(directory, self.config.kind, self.config, {})
        self._location.save(directory)

    @functools.cached_property
    def codebooks(self) -> np.ndarray:
        """Codebook vectors, float32 (Q, N, D), whose sums are inputs of the decoder."""
        with torch_runtime.exact():
            return self._network.vectors(self.num_codebooks).float().cpu().numpy()

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Codes, uint16 (Q, T), of a signal, float32 (N,); T = ceil(N / hop) after resampling."""
        return self.encode_batch([wav], sample_rate)[0]

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Codes of each signal, as `encode` returns them; see `base.BatchTokenizer`."""
        signals = [resample(wav, sample_rate, self.sample_rate) for wav in wavs]
        return batching.encode_in_batches(
            signals,
            self.config.hop,
            self.sample_rate,
            self.equal_lengths,
            self._codes,
            np.zeros((self.num_codebooks, 0), np.uint16),
        )

    def embed(self, codes: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Sum of the vectors of codebooks [start, stop): codes (Q', T) -> float32 (T, D).

        Raises:
            ValueError: too many codebooks, or codes out of range.
        """
        return sum_of_vectors(self.codebooks, codes, start, stop)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decodes integers (Q', T), the first Q' codebooks, to a signal, float32 (T * hop,).

        Raises:
            ValueError: too many codebooks, or codes out of range.
        """
        return self.decode_vectors(self.embed(codes))

    def decode_vectors(self, latents: np.ndarray) -> np.ndarray:
        """Decodes latents without quantising them: (T, D) -> float32 (T * hop,)."""
        samples = len(latents) * self.config.hop
        if samples == 0:
            return np.zeros(0, np.float32)
        torch = torch_runtime.import_torch()
        tensor = torch.from_numpy(np.ascontiguousarray(np.asarray(latents, np.float32).T))
        with torch_runtime.exact():
            wav = self._network.render(self._to_device(tensor[None]))[0].float().cpu().numpy()
        # Odd strides may yield a few samples too few, and padding a few too many.
        return np.pad(wav[:samples], (0, max(0, samples - len(wav))))

    def _codes(self, wavs: list[np.ndarray]) -> list[np.ndarray]:
        """Codes of one batch."""
        torch = torch_runtime.import_torch()
        lengths = [num_frames(len(wav), self.config.hop) for wav in wavs]
        frames = max(self.config.min_frames, *lengths)
        signals = np.zeros((len(wavs), frames * self.config.hop), np.float32)
        for row, wav in zip(signals, wavs, strict=True):
            row[: len(wav)] = wav
        with torch_runtime.exact():
            tensor = self._to_device(torch.from_numpy(signals))
            codes = self._network.codes(tensor, self.num_codebooks).cpu().numpy()
        return [codes[row, :, :length].astype(np.uint16) for row, length in enumerate(lengths)]

    def _to_device(self, tensor):
        torch = torch_runtime.import_torch()
        return tensor.to(torch_runtime.device(), getattr(torch, self.config.dtype))

    @functools.cached_property
    def _network(self) -> CodecNetwork:
        directory = pretrained.checked_directory(self._location, self.config.model_sha256)
        return NETWORKS[self.config.kind].load(directory, self.config.dtype)
