"""Tokenizers of both streams: protocols in `base`, and loading by the kind that a directory names.

The offline tokenizers (`mfcc_kmeans`, `mel_rvq`) need NumPy and SciPy only.
"""

import os

from data_pipeline.cli import UserError
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.base import AcousticCodec, SemanticTokenizer
from data_pipeline.tokenizers.mel_rvq import MelRVQ
from data_pipeline.tokenizers.mfcc_kmeans import MFCCKMeans

__all__ = ["AcousticCodec", "SemanticTokenizer", "load_codec", "load_semantic"]

_SEMANTIC = {cls.kind: cls for cls in (MFCCKMeans,)}
_CODECS = {cls.kind: cls for cls in (MelRVQ,)}


def load_semantic(directory: str | os.PathLike[str]) -> SemanticTokenizer:
    """Loads the semantic tokenizer that a directory holds.

    Raises:
        UserError: the directory holds none, or was changed since it was written.
    """
    return _load(directory, _SEMANTIC, "semantic tokenizer")


def load_codec(directory: str | os.PathLike[str]) -> AcousticCodec:
    """Loads the acoustic codec that a directory holds.

    Raises:
        UserError: the directory holds none, or was changed since it was written.
    """
    return _load(directory, _CODECS, "acoustic codec")


def _load(directory: str | os.PathLike[str], kinds: dict, role: str):
    kind = storage.load_tokenizer(directory).kind
    if kind not in kinds:
        raise UserError(
            f"{directory} holds a {kind!r}: not the {role} that is needed ({', '.join(kinds)})"
        )
    return kinds[kind].load(directory)
