"""Acoustic codecs: speech to residual-quantised codes and back.

A new codec is a class here (see `tokenizers.base.AcousticCodec`) and an entry in `CODECS`; a
pretrained network, a class in `codec_networks` and an entry in `neural_codec.NETWORKS`.
"""

from collections.abc import Mapping
from typing import Any

from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ
from data_pipeline.tokenizers.codecs.neural_codec import NETWORKS, NeuralCodec
from data_pipeline.tokenizers.codecs.unified_rvq import UnifiedRVQ

CODECS: Mapping[str, Any] = {
    MelRVQ.kind: MelRVQ,
    UnifiedRVQ.kind: UnifiedRVQ,
    **dict.fromkeys(NETWORKS, NeuralCodec),
}
# Codecs whose first codebook is semantic: one name serves both streams.
SEMANTIC_CODECS = (UnifiedRVQ.kind, "speechtokenizer")
