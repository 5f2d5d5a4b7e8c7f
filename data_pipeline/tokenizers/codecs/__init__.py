"""Acoustic codecs: speech to residual-quantised codes and back.

A new codec is a class here (see `tokenizers.base.AcousticCodec`) and an entry in `CODECS`; one that
is fitted to a corpus has an entry in `FITTED` too; a pretrained network is a class in
`codec_networks` and an entry in `neural_codec.NETWORKS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipeline.tokenizers.codecs import mel_rvq, world_rvq
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ, MelRVQConfig
from data_pipeline.tokenizers.codecs.neural_codec import NETWORKS, NeuralCodec
from data_pipeline.tokenizers.codecs.unified_rvq import UnifiedRVQ
from data_pipeline.tokenizers.codecs.world_rvq import WorldRVQ, WorldRVQConfig
from data_pipeline.tokenizers.codecs.world_vocoder import import_pyworld

CODECS: Mapping[str, Any] = {
    MelRVQ.kind: MelRVQ,
    WorldRVQ.kind: WorldRVQ,
    UnifiedRVQ.kind: UnifiedRVQ,
    **dict.fromkeys(NETWORKS, NeuralCodec),
}
# Codecs whose first codebook is semantic: one name serves both streams.
SEMANTIC_CODECS = (UnifiedRVQ.kind, "speechtokenizer")


@dataclasses.dataclass(frozen=True)
class FittedCodec:
    """A codec that is fitted to a corpus: functions of its module.

    Attributes:
        kind: as stored.
        config: class of its configuration; has `frame_rate`, `num_codebooks`, `codebook_size`.
        raw_features: (config, wav at the config's rate) -> float32 (T, W).
        fit: (config, features of utterances, seed, on_iteration, iterations) -> weights.
        require: raises UserError if a package that it needs is not installed.
    """

    kind: str
    config: type
    raw_features: Callable[[Any, np.ndarray], np.ndarray]
    fit: Callable[..., dict[str, np.ndarray]]
    require: Callable[[], Any] = lambda: None

    @classmethod
    def of(cls, config: Any) -> "FittedCodec":
        """The codec of a configuration."""
        return next(codec for codec in FITTED.values() if isinstance(config, codec.config))


FITTED: Mapping[str, FittedCodec] = {
    codec.kind: codec
    for codec in (
        FittedCodec(
            WorldRVQ.kind, WorldRVQConfig, world_rvq.raw_features, world_rvq.fit, import_pyworld
        ),
        FittedCodec(MelRVQ.kind, MelRVQConfig, mel_rvq.raw_features, mel_rvq.fit),
    )
}
DEFAULT_FITTED = WorldRVQ.kind  # higher opinion scores at equal bits: docs/tokenizers.md
