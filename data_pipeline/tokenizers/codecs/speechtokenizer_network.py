"""SpeechTokenizer (arXiv 2308.16692): 16 kHz, 50 frames a second, the first codebook semantic.

The network is that of the package `speechtokenizer`, with two differences: weights come from a
safetensors file (the published file is a pickle of tensors, converted once by
`data_pipeline.convert_weights`), and only the package's model is imported, not its trainer, so that
`pip install --no-deps speechtokenizer einops` is enough.
"""

import importlib
import importlib.util
import math
import sys
import types
from pathlib import Path
from typing import Any, Self

import safetensors

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import torch_runtime
from data_pipeline.tokenizers.codecs.codec_networks import CodecInfo
from data_pipeline.tokenizers.pretrained import read_settings

_PACKAGE = "speechtokenizer"
_KEYS = ("sample_rate", "strides", "n_q", "codebook_size", "dimension")


class SpeechTokenizerNetwork:
    """Implements `codec_networks.CodecNetwork`; bidirectional LSTM, so lengths must be equal."""

    def __init__(self, model: Any):
        """See `load`."""
        self._model = model

    @staticmethod
    def describe(directory: Path) -> CodecInfo:
        """See `CodecNetwork`."""
        settings = read_settings(directory)
        missing = [key for key in _KEYS if key not in settings]
        if missing:
            raise UserError(
                f"{directory / 'config.json'} is not of a SpeechTokenizer: missing keys: "
                f"{', '.join(missing)}"
            )
        return CodecInfo(
            sample_rate=int(settings["sample_rate"]),
            hop=math.prod(settings["strides"]),
            codebook_size=int(settings["codebook_size"]),
            max_codebooks=int(settings["n_q"]),
            min_codebooks=1,
            default_codebooks=int(settings["n_q"]),
            equal_lengths=True,
            min_frames=1,
            context_frames=None,
        )

    @classmethod
    def load(cls, directory: Path, dtype: str) -> Self:
        """See `CodecNetwork`."""
        torch = torch_runtime.import_torch()
        model = _model_class()(read_settings(directory))
        weights: dict[str, Any] = {}
        try:
            for path in sorted(directory.glob("*.safetensors")):
                with safetensors.safe_open(path, framework="pt") as file:
                    weights.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            model.load_state_dict(weights)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(
                f"{directory} cannot be loaded as SpeechTokenizer: {message}"
            ) from error
        model = model.eval().requires_grad_(False)
        return cls(model.to(torch_runtime.device(), getattr(torch, dtype)))

    def codes(self, signals: Any, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        return self._model.encode(signals[:, None], n_q=num_codebooks).transpose(0, 1)

    def vectors(self, num_codebooks: int) -> Any:
        """See `CodecNetwork`."""
        layers = self._model.quantizer.vq.layers[:num_codebooks]
        return torch_runtime.import_torch().stack(
            [layer.project_out(layer.codebook) for layer in layers]
        )

    def render(self, latents: Any) -> Any:
        """See `CodecNetwork`."""
        return self._model.decoder(latents)[:, 0]


def _model_class() -> Any:
    """The package's model class, imported without its `__init__`, which imports the trainer."""
    torch_runtime.import_torch()
    remedy = f"pip install --no-deps {_PACKAGE} einops"
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise UserError(f"the codec needs the package {_PACKAGE}: {remedy}")
        package = types.ModuleType(_PACKAGE)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[_PACKAGE] = package
    try:
        return importlib.import_module(f"{_PACKAGE}.model").SpeechTokenizer
    except ImportError as error:
        raise UserError(f"the package {_PACKAGE} cannot be imported ({error}): {remedy}") from error
