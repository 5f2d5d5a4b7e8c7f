"""The families of pretrained encoders whose hidden states are clustered into units.

A new family is an entry in `FAMILIES`; another self-supervised model of transformers, one in
`speech_encoder.KINDS`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.tokenizers.pretrained import Location, ModelSpec
from data_pipeline.tokenizers.semantic import speech_encoder, whisper_encoder
from data_pipeline.tokenizers.semantic.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from data_pipeline.tokenizers.semantic.whisper_encoder import WhisperEncoder, WhisperEncoderConfig

EncoderConfig = SpeechEncoderConfig | WhisperEncoderConfig


@dataclasses.dataclass(frozen=True)
class SpeechUnitsConfig(SpeechEncoderConfig):
    """The speech encoder, and the model that it is pinned to.

    Attributes:
        name: of the model, used in ids.
        model_sha256: see `pretrained.model_sha256`.
    """

    name: str
    model_sha256: str

    @property
    def id(self) -> str:
        """Of the states: kind, model and layer."""
        return f"{self.kind}-{self.name}-layer{self.layer}"


@dataclasses.dataclass(frozen=True)
class WhisperUnitsConfig(WhisperEncoderConfig):
    """Whisper's encoder, and the model that it is pinned to.

    Attributes:
        name: of the model, used in ids.
        model_sha256: see `pretrained.model_sha256`.
    """

    name: str
    model_sha256: str

    @property
    def id(self) -> str:
        """Of the states: kind, model and its digest, layer, rate, engine and arithmetic."""
        name = self.name.removeprefix("faster-").removeprefix("whisper-")
        return f"{self.kind}-{name}-{self.model_sha256[:8]}-{self.states}"


UnitsConfig = SpeechUnitsConfig | WhisperUnitsConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """How the encoders of one family are found, described and loaded.

    Attributes:
        options: of a specification, besides `kmeans`.
        config: the dataclass that a tokenizer's directory stores.
        locate: the local directory of the model that a specification names.
        find: the same, of a location and a stored configuration.
        describe: the configuration that follows from a specification and the model's files.
        load: of a configuration and a directory, the encoder: a batch of signals to their hidden
            states (T, D), arrays or torch's tensors.
    """

    options: tuple[str, ...]
    config: type[SpeechUnitsConfig] | type[WhisperUnitsConfig]
    locate: Callable[[ModelSpec], Path]
    find: Callable[[Location, Any], Path]
    describe: Callable[[ModelSpec, Path], EncoderConfig]
    load: Callable[[Any, Path], Callable[[Sequence[np.ndarray]], list[Any]]]


_SPEECH = Family(
    options=speech_encoder.OPTIONS,
    config=SpeechUnitsConfig,
    locate=lambda spec: spec.location.directory(),
    find=lambda location, config: location.directory(),
    describe=speech_encoder.describe,
    load=SpeechEncoder,
)
_WHISPER = Family(
    options=whisper_encoder.OPTIONS,
    config=WhisperUnitsConfig,
    locate=lambda spec: whisper_encoder.find(spec.location, whisper_encoder.choose_engine(spec)),
    find=lambda location, config: whisper_encoder.find(location, config.engine),
    describe=whisper_encoder.describe,
    load=WhisperEncoder,
)
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(speech_encoder.KINDS, _SPEECH),
    whisper_encoder.KIND: _WHISPER,
}
KINDS = tuple(FAMILIES)
