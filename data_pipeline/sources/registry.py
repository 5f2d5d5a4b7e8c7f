"""The registry of sources, and sources by name.

A name is a `DIRECTORY`, or `KIND:WHERE?option=value&option=value`. A new source is a class in this
folder (see `base.Source`) and an entry in `KINDS`.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import Source
from data_pipeline.sources.folder import FolderSource
from data_pipeline.sources.hf_datasets import HFDatasetSource
from data_pipeline.sources.kaldi import KaldiSource
from data_pipeline.sources.lhotse_manifests import LhotseSource
from data_pipeline.sources.manifest import ManifestSource
from data_pipeline.sources.tar_shards import TarSource
from data_pipeline.sources.tfds_audio import TFDSSource

KINDS: Mapping[str, type] = {
    "folder": FolderSource,
    "manifest": ManifestSource,
    "kaldi": KaldiSource,
    "webdataset": TarSource,
    "tfds": TFDSSource,
    "lhotse": LhotseSource,
    "hf": HFDatasetSource,
}


def open_source(name: str) -> Source:
    """The source of a name.

    Args:
        name: a directory of recordings, or a kind, a colon and a location: `manifest:FILE`,
            `kaldi:DATA_DIR`, `webdataset:PATTERN`, `tfds:NAME_OR_DIRECTORY`,
            `lhotse:MANIFEST_OR_SHAR`, `hf:NAME_OR_DIRECTORY`, `folder:DIRECTORY`.
            Options, the fields of the kind's class, follow as `?option=value&option=value`.

    Raises:
        UserError: the location is missing, or an option is unknown or invalid.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in KINDS or os.path.isdir(name):
        return FolderSource(name)
    # A glob pattern may contain question marks: options follow the last one, if they have an =.
    location, mark, query = rest.rpartition("?")
    if not mark or "=" not in query:
        location, query = rest, ""
    if not location:
        raise UserError(f"source {name!r} has no location: write {kind}:LOCATION")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise UserError(f"source {name!r}: options are ?name=value&name=value ({error})") from error
    first, *others = dataclasses.fields(KINDS[kind])
    values: dict[str, Any] = {first.name: location}
    known = {field.name: field for field in others}
    for option, text in options.items():
        if option not in known:
            raise UserError(
                f"source {name!r}: unknown option {option!r}, choose from {', '.join(known)}"
            )
        if isinstance(known[option].default, int):
            if not text.isdecimal():
                raise UserError(f"source {name!r}: {option} must be an integer")
            values[option] = int(text)
        else:
            values[option] = text
    return KINDS[kind](**values)
