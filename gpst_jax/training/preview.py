"""Previews in training: fixed items, resynthesised every `train.preview_every` steps.

Given the semantic units of a few held-out recordings, their frames are sampled (semantic to
acoustic); a model without units samples speech. Trackers get the audio; the entropy of the sampled
codes reveals a codebook that collapses long before anyone listens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.tokenizers import load_codec
from gpst_jax.config import GPSTConfig, RunConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.trackers import Tracker

Preview = Callable[[int, Any, Tracker | None], dict[str, float] | None]


def make_preview(
    config: RunConfig, dataset_dir: str, spec: DatasetSpec, items: int = 2, split: str = "valid"
) -> Preview | None:
    """Builds the preview of a run; None where the dataset has no such split.

    Args:
        config: the run.
        dataset_dir: directory of its dataset.
        spec: the dataset.
        items: how many recordings.
        split: where they are taken from: the first ones within the crop length.

    Returns:
        A function of (step, parameters, tracker). All processes of a run call it, under the run's
        mesh; one has the tracker.
    """
    if split not in spec.splits:
        return None
    layout, data = spec.layout(), config.data
    reader = RecordReader(dataset_dir, split)
    longest = data.crop_seconds * layout.unit_rate
    records = []
    for index in range(len(reader)):
        record = reader[index]
        if len(record.units) <= longest:
            records.append(record)
        if len(records) == items:
            break
    codec = load_codec(Path(dataset_dir) / spec.codec.path)
    silence = (np.array(spec.silence.units), np.array(spec.silence.codes))
    with_units = data.units == "front"
    builder = RequestBuilder(layout, silence, data.deduplicate, with_units)

    def preview(step: int, params: Any, tracker: Tracker | None) -> None:
        decoder = Decoder(config.model_as(GPSTConfig), layout, params, data.positions)
        requests = [
            builder.semantic_to_acoustic(record.units, item=index)
            if with_units
            else builder.unconditional(data.crop_seconds, item=index)
            for index, record in enumerate(records)
        ]
        results = decoder.decode(requests, acoustic=SamplingConfig(temperature=0.7))
        if tracker is None:
            return
        for index, result in enumerate(results):
            if result.codes.shape[1]:
                wav = codec.decode(result.codes)
                tracker.write_audio(step, f"preview/{index}", wav, codec.sample_rate)
        codes = np.concatenate([result.codes for result in results], axis=1)
        tracker.write(
            step,
            {
                f"preview/code_entropy_q{book}": entropy_bits(codes[book])
                for book in range(len(codes))
            },
        )

    return preview if records else None


def entropy_bits(codes: np.ndarray) -> float:
    """Entropy of the empirical distribution of codes (T,), in bits; 0 without any."""
    counts = np.unique(codes, return_counts=True)[1]
    share = counts / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum())
