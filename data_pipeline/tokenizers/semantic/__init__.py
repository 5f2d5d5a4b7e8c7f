"""Semantic tokenizers: speech to units.

A new unit model is a class here (see `tokenizers.base.SemanticTokenizer`) and an entry in
`UNIT_MODELS`; a pretrained speech encoder, an entry in `encoders.FAMILIES`.
"""

from collections.abc import Mapping
from typing import Any

from data_pipeline.tokenizers.semantic.encoders import KINDS
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans
from data_pipeline.tokenizers.semantic.speech_units import SpeechUnits

UNIT_MODELS: Mapping[str, Any] = {MFCCKMeans.kind: MFCCKMeans, **dict.fromkeys(KINDS, SpeechUnits)}
