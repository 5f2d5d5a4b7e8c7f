"""Manifests of lhotse: cuts, recordings with supervisions, and shar directories."""

from data_pipeline.sources.lhotse_manifests.source import LhotseSource

__all__ = ["LhotseSource"]
