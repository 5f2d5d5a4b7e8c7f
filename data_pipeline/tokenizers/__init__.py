"""Tokenizers of both streams: protocols in `base`, and loading by what a name says.

A name is a directory that holds a tokenizer, or a specification `KIND:MODEL?option=value` of a
pretrained one (see `pretrained`). The offline tokenizers (`mfcc_kmeans`, `mel_rvq`) need NumPy and
SciPy only; the others import torch and transformers when they are first used.
"""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.base import AcousticCodec, BatchTokenizer, SemanticTokenizer
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ
from data_pipeline.tokenizers.codecs.neural_codec import NETWORKS, NeuralCodec
from data_pipeline.tokenizers.codecs.unified_rvq import UnifiedRVQ
from data_pipeline.tokenizers.pretrained import ModelSpec
from data_pipeline.tokenizers.semantic.first_codebook import FirstCodebook
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans
from data_pipeline.tokenizers.semantic.speech_encoder import KINDS
from data_pipeline.tokenizers.semantic.speech_units import SpeechUnits

__all__ = [
    "AcousticCodec",
    "BatchTokenizer",
    "SemanticTokenizer",
    "load_codec",
    "load_semantic",
    "store_tokenizer",
]

_SEMANTIC: Mapping[str, Any] = {MFCCKMeans.kind: MFCCKMeans, **dict.fromkeys(KINDS, SpeechUnits)}
_CODECS: Mapping[str, Any] = {
    MelRVQ.kind: MelRVQ,
    UnifiedRVQ.kind: UnifiedRVQ,
    **dict.fromkeys(NETWORKS, NeuralCodec),
}
# Their first codebook is semantic: the same name serves both streams.
_SEMANTIC_CODECS = (UnifiedRVQ.kind, "speechtokenizer")
_PRETRAINED = (*KINDS, *NETWORKS)


def load_semantic(name: str | os.PathLike[str]) -> SemanticTokenizer:
    """Loads a semantic tokenizer: a directory, or hubert:, wav2vec2: or w2v-bert:MODEL?...

    A codec whose first codebook is semantic (a directory with a `unified_rvq`, or speechtokenizer:)
    gives that codebook.

    Raises:
        UserError: the directory holds none or was changed since it was written, or the
            specification is unusable.
    """
    if _kind(name) in _SEMANTIC_CODECS:
        return FirstCodebook(load_codec(name))
    return _load(name, _SEMANTIC, "semantic tokenizer")


def load_codec(name: str | os.PathLike[str]) -> AcousticCodec:
    """Loads an acoustic codec: a directory, or encodec:, dac:, mimi: or speechtokenizer:MODEL?...

    Raises:
        UserError: the directory holds none or was changed since it was written, or the
            specification is unusable.
    """
    return _load(name, _CODECS, "acoustic codec")


def store_tokenizer(name: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
    """Puts the tokenizer of a name into a new directory; of a model, only where it lies.

    Raises:
        UserError: as `load_semantic`.
    """
    spec = ModelSpec.parse(os.fspath(name), _PRETRAINED)
    if spec is None:
        shutil.copytree(name, directory)
    elif spec.kind in KINDS:
        SpeechUnits.from_spec(spec).save(directory)
    else:
        NeuralCodec.from_spec(spec).save(directory)


def _load(name: str | os.PathLike[str], kinds: Mapping[str, Any], role: str) -> Any:
    spec, kind = ModelSpec.parse(os.fspath(name), _PRETRAINED), _kind(name)
    if kind not in kinds:
        raise UserError(
            f"{name} holds a {kind!r}: not the {role} that is needed ({', '.join(kinds)})"
        )
    return kinds[kind].from_spec(spec) if spec else kinds[kind].load(name)


def _kind(name: str | os.PathLike[str]) -> str:
    spec = ModelSpec.parse(os.fspath(name), _PRETRAINED)
    return spec.kind if spec else storage.load_tokenizer(name).kind
