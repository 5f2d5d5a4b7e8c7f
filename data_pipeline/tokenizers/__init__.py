"""Semantic tokenizers and acoustic codecs: protocols in `base`, and loading by name.

A name is the directory of a stored tokenizer, or a specification `KIND:MODEL?option=value` of a
pretrained one (see `pretrained`). The offline tokenizers (`mfcc_kmeans`, `mel_rvq`) need only NumPy
and SciPy, `world_rvq` pyworld as well; the others import torch and transformers (whisper:
CTranslate2) on first use.
"""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.base import AcousticCodec, BatchTokenizer, SemanticTokenizer
from data_pipeline.tokenizers.codecs import CODECS, SEMANTIC_CODECS
from data_pipeline.tokenizers.codecs.neural_codec import NETWORKS, NeuralCodec
from data_pipeline.tokenizers.pretrained import ModelSpec
from data_pipeline.tokenizers.semantic import UNIT_MODELS
from data_pipeline.tokenizers.semantic.encoders import KINDS
from data_pipeline.tokenizers.semantic.first_codebook import FirstCodebook
from data_pipeline.tokenizers.semantic.speech_units import SpeechUnits

__all__ = [
    "AcousticCodec",
    "BatchTokenizer",
    "SemanticTokenizer",
    "load_codec",
    "load_semantic",
    "store_tokenizer",
]

_PRETRAINED = (*KINDS, *NETWORKS)


def load_semantic(name: str | os.PathLike[str]) -> SemanticTokenizer:
    """Loads a semantic tokenizer: a directory, or KIND:MODEL?... of `semantic.encoders`.

    For a codec whose first codebook is semantic (a directory with a `unified_rvq`, or
    speechtokenizer:), the units are the codes of that codebook.

    Raises:
        UserError: the directory holds none or was modified after it was written, or the
            specification is invalid.
    """
    if _kind(name) in SEMANTIC_CODECS:
        return FirstCodebook(load_codec(name))
    return _load(name, UNIT_MODELS, "semantic tokenizer")


def load_codec(name: str | os.PathLike[str]) -> AcousticCodec:
    """Loads an acoustic codec: a directory, or encodec:, dac:, mimi: or speechtokenizer:MODEL?...

    Raises:
        UserError: the directory holds none or was modified after it was written, or the
            specification is invalid.
    """
    return _load(name, CODECS, "acoustic codec")


def store_tokenizer(name: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
    """Stores the tokenizer of a name in a new directory; a pretrained model only by reference.

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
        raise UserError(f"{name} is a {kind!r}: not the {role} that is needed ({', '.join(kinds)})")
    return kinds[kind].from_spec(spec) if spec else kinds[kind].load(name)


def _kind(name: str | os.PathLike[str]) -> str:
    spec = ModelSpec.parse(os.fspath(name), _PRETRAINED)
    return spec.kind if spec else storage.load_tokenizer(name).kind
