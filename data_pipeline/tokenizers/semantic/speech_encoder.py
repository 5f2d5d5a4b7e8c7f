"""Hidden states of self-supervised speech models: HuBERT, wav2vec 2.0 (XLSR, XLS-R), w2v-BERT 2.0.

Layer k is the output of the k-th transformer layer, counted from 1, before any final layer norm.
Later layers are not computed.

The published models output floor((N - field) / hop) + 1 frames for N samples, at most one fewer
than ``T = ceil(N / hop)``: their convolutions have a receptive field of `field` samples (400) and a
stride of `hop` (320). Here the signal is zero-padded at its end to exactly T frames: all frames but
the last have the same inputs as in the published recipe. (For w2v-BERT the last spectral frame is
repeated instead, after normalisation, because zeros would change the statistics.)
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import torch_runtime
from data_pipeline.tokenizers.base import num_frames
from data_pipeline.tokenizers.pretrained import ModelSpec, read_settings

KINDS = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "w2v-bert": "Wav2Vec2BertModel"}
OPTIONS = ("layer", "normalize", "dtype")

_MODEL_TYPES = {"hubert": "hubert", "wav2vec2": "wav2vec2", "w2v-bert": "wav2vec2-bert"}
_FBANK_HOP, _FBANK_WINDOW = 160, 400  # samples; as in SeamlessM4TFeatureExtractor
_EPSILON = 1e-7  # added to the variance, as in the models' own preprocessing


@dataclasses.dataclass(frozen=True)
class SpeechEncoderConfig:
    """Which hidden states to use, and properties of the model that are known without loading it.

    Attributes:
        kind: a key of `KINDS`.
        layer: counted from 1.
        normalize: normalise signals to zero mean and unit variance (w2v-BERT: the spectra).
        dtype: of the computation.
        sample_rate: in Hz.
        hop: samples per frame.
        field: receptive field of the convolutions, in samples.
        width: D, of the hidden states.
        equal_lengths: see `base.BatchTokenizer`.
    """

    kind: str
    layer: int
    normalize: bool
    dtype: str
    sample_rate: int
    hop: int
    field: int
    width: int
    equal_lengths: bool


def describe(spec: ModelSpec, directory: Path) -> SpeechEncoderConfig:
    """The configuration that follows from a specification and the model's config files.

    Raises:
        UserError: no layer is given or the model has no such layer, an option is invalid, or the
            directory holds another kind of model.
    """
    transformers = torch_runtime.import_transformers()
    settings = read_settings(directory)
    expected = _MODEL_TYPES[spec.kind]
    if settings.get("model_type") != expected:
        raise UserError(
            f"{spec.location.model} holds a model of type {settings.get('model_type')!r}, "
            f"{spec.kind} needs {expected!r}"
        )
    model = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    layer = spec.positive_int("layer")
    if layer is None or layer > model.num_hidden_layers:
        raise UserError(
            f"{spec.kind}:{spec.location.model} needs ?layer= from 1 to {model.num_hidden_layers}"
        )
    preprocessing = read_settings(directory, "preprocessor_config.json")
    if spec.kind == "w2v-bert":
        hop = _FBANK_HOP * int(preprocessing.get("stride", 2))
        field, equal_lengths, default = hop, False, True
    else:
        hop, field = math.prod(model.conv_stride), 1
        for kernel, stride in zip(
            reversed(model.conv_kernel), reversed(model.conv_stride), strict=True
        ):
            field = (field - 1) * stride + kernel
        # Group normalisation in the first convolution takes statistics over time.
        equal_lengths = model.feat_extract_norm == "group"
        default = bool(preprocessing.get("do_normalize", True))
    normalize = spec.choice("normalize", ("true", "false"), "true" if default else "false")
    return SpeechEncoderConfig(
        kind=spec.kind,
        layer=layer,
        normalize=normalize == "true",
        dtype=spec.choice("dtype", torch_runtime.DTYPES, "float32"),
        sample_rate=int(preprocessing.get("sampling_rate", 16_000)),
        hop=hop,
        field=field,
        width=int(model.hidden_size),
        equal_lengths=equal_lengths,
    )


class SpeechEncoder:
    """A loaded model, truncated after the chosen layer."""

    def __init__(self, config: SpeechEncoderConfig, directory: Path):
        """Loads the model of a local directory.

        Raises:
            UserError: see `torch_runtime.load_model`.
        """
        self.config = config
        self._torch = torch_runtime.import_torch()
        self._model = torch_runtime.load_model(KINDS[config.kind], directory, config.dtype)
        encoder = self._model.encoder
        encoder.layers = encoder.layers[: config.layer]
        encoder.layers[-1].register_forward_hook(self._keep)
        self._kept: Any = None
        self._fbank: Any = None
        if config.kind == "w2v-bert":
            extractor = torch_runtime.import_transformers().SeamlessM4TFeatureExtractor
            preprocessing = read_settings(directory, "preprocessor_config.json")
            self._fbank = extractor.from_dict(preprocessing) if preprocessing else extractor()

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[Any]:
        """Hidden states of one batch.

        Args:
            wavs: float32 (N,) each, N > 0, at the config's rate; with equal numbers of frames if
                `equal_lengths` is set.

        Returns:
            float32 tensors (T, D) on the model's device, T = ceil(N / hop).
        """
        torch = self._torch
        lengths = [num_frames(len(wav), self.config.hop) for wav in wavs]
        if self.config.equal_lengths and len(set(lengths)) > 1:
            raise ValueError("batches of this model need signals of equal length")
        if self.config.kind == "w2v-bert":
            inputs, mask = self._spectra(wavs, lengths)
        else:
            inputs, mask = self._signals(wavs, lengths)
        target = torch_runtime.device()
        tensor = torch.from_numpy(inputs).to(target, getattr(torch, self.config.dtype))
        attention_mask = None if self.config.equal_lengths else torch.from_numpy(mask).to(target)
        with torch_runtime.exact():
            self._model(tensor, attention_mask=attention_mask)
            states, self._kept = self._kept.float(), None
        return [states[row, :length] for row, length in enumerate(lengths)]

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._kept = output[0] if isinstance(output, tuple) else output

    def _signals(
        self, wavs: Sequence[np.ndarray], lengths: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normalised signals and their mask, (B, L) float32 and int64."""
        sizes = [(length - 1) * self.config.hop + self.config.field for length in lengths]
        inputs = np.zeros((len(wavs), max(sizes)), np.float32)
        mask = np.zeros(inputs.shape, np.int64)
        for row, (wav, size) in enumerate(zip(wavs, sizes, strict=True)):
            if self.config.normalize:
                wav = (wav - wav.mean()) / np.sqrt(wav.var() + _EPSILON)
            # If the receptive field is shorter than a hop, no frame covers the last samples.
            inputs[row, : min(len(wav), size)] = wav[:size]
            mask[row, :size] = 1
        return inputs, mask

    def _spectra(
        self, wavs: Sequence[np.ndarray], lengths: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Stacked log-mel spectra and their mask, (B, T, C) float32 and (B, T) int64."""
        stride = self.config.hop // _FBANK_HOP
        rows = []
        for wav, length in zip(wavs, lengths, strict=True):
            # At least two frames: the variance of one is undefined.
            shortest = _FBANK_WINDOW + _FBANK_HOP
            wav = np.pad(wav, (0, max(0, shortest - len(wav))))
            frames = self._fbank(
                wav,
                sampling_rate=self.config.sample_rate,
                padding=False,
                pad_to_multiple_of=None,
                return_tensors="np",
                do_normalize_per_mel_bins=self.config.normalize,
            )["input_features"][0]
            frames = np.asarray(frames, np.float32).reshape(len(frames) * stride, -1)
            index = np.minimum(np.arange(length * stride), len(frames) - 1)
            rows.append(frames[index].reshape(length, -1))
        inputs = np.zeros((len(rows), max(lengths), rows[0].shape[1]), np.float32)
        mask = np.zeros(inputs.shape[:2], np.int64)
        for row, frames in enumerate(rows):
            inputs[row, : len(frames)] = frames
            mask[row, : len(frames)] = 1
        return inputs, mask
