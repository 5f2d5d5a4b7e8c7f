"""Datasets of the Hugging Face hub, and local directories in their layouts."""

from data_pipeline.sources.hf_datasets.source import HFDatasetSource

__all__ = ["HFDatasetSource"]
