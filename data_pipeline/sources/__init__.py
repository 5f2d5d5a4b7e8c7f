"""Where recordings come from: utterances with speaker, transcript and split, and what failed.

A source is named on the command line as a directory of recordings or as `KIND:WHERE?option=value`;
`open_source` knows the kinds. Every source has `list()`; `read_audio` reads what it listed.
"""

from data_pipeline.sources.base import SPLITS, UNKNOWN_SPEAKER, Failure, Source, Utterance
from data_pipeline.sources.folder import FolderSource
from data_pipeline.sources.kaldi import KaldiSource
from data_pipeline.sources.manifest import ManifestSource
from data_pipeline.sources.naming import open_source
from data_pipeline.sources.reading import read_audio
from data_pipeline.sources.splits import assign_splits
from data_pipeline.sources.tar_shards import TarSource
from data_pipeline.sources.tfds_audio import TFDSSource

__all__ = [
    "SPLITS",
    "UNKNOWN_SPEAKER",
    "Failure",
    "FolderSource",
    "KaldiSource",
    "ManifestSource",
    "Source",
    "TFDSSource",
    "TarSource",
    "Utterance",
    "assign_splits",
    "open_source",
    "read_audio",
]
