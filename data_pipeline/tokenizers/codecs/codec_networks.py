"""The networks of pretrained codecs behind one small interface: EnCodec, DAC and Mimi.

A network encodes signals (a multiple of the hop long) to codes, and decodes latents to signals. The
latent of a frame is the sum of one vector per codebook. Where codebooks have fewer dimensions than
latents (DAC, Mimi), `vectors` applies the output projection, so that sums of its vectors are inputs
of the decoder.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol, Self

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import torch_runtime
from data_pipeline.tokenizers.pretrained import read_settings


@dataclasses.dataclass(frozen=True)
class CodecInfo:
    """Properties of a codec that are known without loading its weights.

    Attributes:
        sample_rate: in Hz.
        hop: samples per frame.
        codebook_size: codes per codebook.
        max_codebooks: codebooks of the model.
        min_codebooks: fewest codebooks that can be used alone.
        default_codebooks: used unless a number is given.
        equal_lengths: see `base.BatchTokenizer`.
        min_frames: shorter signals are zero-padded, because reflection padding needs that many
            frames.
        context_frames: frames on either side that the codes of a frame depend on; None is
            unbounded.
    """

    sample_rate: int
    hop: int
    codebook_size: int
    max_codebooks: int
    min_codebooks: int
    default_codebooks: int
    equal_lengths: bool
    min_frames: int
    context_frames: int | None


class CodecNetwork(Protocol):
    """A loaded codec: B signals, Q codebooks of N entries, T frames, D-dimensional latents."""

    @staticmethod
    def describe(directory: Path) -> CodecInfo:
        """Reads the properties of the model in a directory; UserError if it is unsupported."""
        ...

    @classmethod
    def load(cls, directory: Path, dtype: str) -> Self:
        """Loads the weights; UserError if that fails."""
        ...

    def codes(self, signals: Any, num_codebooks: int) -> Any:
        """Codes (B, Q, T) of signals, float tensors (B, T * hop)."""
        ...

    def vectors(self, num_codebooks: int) -> Any:
        """Projected codebook vectors, a float tensor (Q, N, D)."""
        ...

    def render(self, latents: Any) -> Any:
        """Signals (B, samples) of latents (B, D, T); samples is T * hop up to a few."""
        ...


class EncodecNetwork:
    """EnCodec (arXiv 2210.13438): the causal mono models such as 24 kHz; no entropy coding."""

    def __init__(self, model: Any):
        """See `load`."""
        self._model = model

    @staticmethod
    def describe(directory: Path) -> CodecInfo:
        """See `CodecNetwork`."""
        config = _config(directory, "encodec")
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s is not None:
            raise UserError(
                f"{directory}: EnCodec with {config.audio_channels} channels, or with its own "
                "scaling or chunking (48 kHz), is not supported: use the 24 kHz model"
            )
        return CodecInfo(
            sample_rate=config.sampling_rate,
            hop=config.hop_length,
            codebook_size=config.codebook_size,
            max_codebooks=config.num_quantizers,
            min_codebooks=1,
            default_codebooks=min(8, config.num_quantizers),
            equal_lengths=not config.use_causal_conv or config.norm_type != "weight_norm",
            # A signal alone must have as many frames for reflection padding as in a batch.
            min_frames=max(config.kernel_size, config.last_kernel_size),
            context_frames=None,
        )

    @classmethod
    def load(cls, directory: Path, dtype: str) -> Self:
        """See `CodecNetwork`."""
        return cls(torch_runtime.load_model("EncodecModel", directory, dtype))

    def codes(self, signals: Any, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        residual = self._model.encoder(signals[:, None])
        found = []
        for layer in self._model.quantizer.layers[:num_codebooks]:
            found.append(layer.encode(residual))
            residual = residual - layer.decode(found[-1])
        return torch_runtime.import_torch().stack(found, dim=1)

    def vectors(self, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        layers = self._model.quantizer.layers[:num_codebooks]
        return torch_runtime.import_torch().stack([layer.codebook.embed for layer in layers])

    def render(self, latents: Any) -> Any:
        """See `CodecNetwork`."""
        return self._model.decoder(latents)[:, 0]


class DacNetwork:
    """Descript audio codec (arXiv 2306.06546): 16, 24 and 44 kHz."""

    def __init__(self, model: Any):
        """See `load`."""
        self._model = model

    @staticmethod
    def describe(directory: Path) -> CodecInfo:
        """See `CodecNetwork`."""
        config = _config(directory, "dac")
        hop = math.prod(config.downsampling_ratios)
        # The receptive field of a convolution is (kernel - 1) * dilation, half of it ahead; the
        # larger half, rounded up, bounds either side.
        reach, step = 3, 1
        for stride in config.downsampling_ratios:
            reach += 3 * (1 + 3 + 9) * step + (math.ceil(stride / 2) + stride) * step
            step *= stride
        reach += step
        return CodecInfo(
            sample_rate=config.sampling_rate,
            hop=hop,
            codebook_size=config.codebook_size,
            max_codebooks=config.n_codebooks,
            min_codebooks=1,
            default_codebooks=config.n_codebooks,
            equal_lengths=True,
            min_frames=1,
            context_frames=math.ceil(reach / hop) + 1,
        )

    @classmethod
    def load(cls, directory: Path, dtype: str) -> Self:
        """See `CodecNetwork`."""
        return cls(torch_runtime.load_model("DacModel", directory, dtype))

    def codes(self, signals: Any, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        return self._model.encode(signals[:, None], n_quantizers=num_codebooks).audio_codes

    def vectors(self, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        return torch_runtime.import_torch().stack(
            [
                quantizer.out_proj(quantizer.codebook.weight.T[None])[0].T
                for quantizer in self._model.quantizer.quantizers[:num_codebooks]
            ]
        )

    def render(self, latents: Any) -> Any:
        """See `CodecNetwork`."""
        return self._model.decoder(latents)[:, 0]


class MimiNetwork:
    """Mimi (arXiv 2410.00037): 24 kHz, 12.5 frames a second, the first codebook semantic."""

    def __init__(self, model: Any):
        """See `load`."""
        self._model = model

    @staticmethod
    def describe(directory: Path) -> CodecInfo:
        """See `CodecNetwork`."""
        config = _config(directory, "mimi")
        hop = config.sampling_rate / config.frame_rate
        if config.audio_channels != 1 or hop != int(hop):
            raise UserError(
                f"{directory}: only Mimi with one channel and an integer hop is supported"
            )
        return CodecInfo(
            sample_rate=config.sampling_rate,
            hop=int(hop),
            codebook_size=config.codebook_size,
            max_codebooks=config.num_quantizers,
            min_codebooks=config.num_semantic_quantizers,
            default_codebooks=min(8, config.num_quantizers),
            equal_lengths=not config.use_causal_conv,
            min_frames=1,
            context_frames=None,
        )

    @classmethod
    def load(cls, directory: Path, dtype: str) -> Self:
        """See `CodecNetwork`."""
        return cls(torch_runtime.load_model("MimiModel", directory, dtype))

    def codes(self, signals: Any, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        return self._model.encode(signals[:, None], num_quantizers=num_codebooks).audio_codes

    def vectors(self, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        found = []
        split = self._model.quantizer
        for part in (
            split.semantic_residual_vector_quantizer,
            split.acoustic_residual_vector_quantizer,
        ):
            for layer in part.layers:
                vectors = layer.codebook.embed
                if part.output_proj is not None:
                    vectors = part.output_proj(vectors.T[None])[0].T
                found.append(vectors)
        return torch_runtime.import_torch().stack(found[:num_codebooks])

    def render(self, latents: Any) -> Any:
        """See `CodecNetwork`."""
        return self._model.decoder(latents).audio_values[:, 0]


def _config(directory: Path, model_type: str) -> Any:
    """The transformers configuration of a model, whose type is checked."""
    found = read_settings(directory).get("model_type")
    if found != model_type:
        raise UserError(f"{directory} holds a model of type {found!r}, {model_type!r} is needed")
    transformers = torch_runtime.import_transformers()
    return transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
