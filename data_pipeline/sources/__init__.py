"""Sources of recordings: lists of utterances with speaker, transcript and split, and of failures.

On the command line a source is a directory of recordings, or `KIND:LOCATION?option=value` with one
of the kinds in `naming`. Every source has `list()`; `read_audio` reads the utterances it lists.
"""

from data_pipeline.sources.base import SPLITS, UNKNOWN_SPEAKER, Failure, Source, Utterance
from data_pipeline.sources.folder import FolderSource
from data_pipeline.sources.hf_datasets import HFDatasetSource
from data_pipeline.sources.kaldi import KaldiSource
from data_pipeline.sources.lhotse_manifests import LhotseSource
from data_pipeline.sources.manifest import ManifestSource
from data_pipeline.sources.reading import read_audio
from data_pipeline.sources.registry import open_source
from data_pipeline.sources.splits import assign_splits
from data_pipeline.sources.tar_shards import TarSource
from data_pipeline.sources.tfds_audio import TFDSSource

__all__ = [
    "SPLITS",
    "UNKNOWN_SPEAKER",
    "Failure",
    "FolderSource",
    "HFDatasetSource",
    "KaldiSource",
    "LhotseSource",
    "ManifestSource",
    "Source",
    "TFDSSource",
    "TarSource",
    "Utterance",
    "assign_splits",
    "open_source",
    "read_audio",
]
