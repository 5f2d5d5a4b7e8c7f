"""From finished shards of sequences to a dataset: index, metadata, failures, dataset.json.

`dataset.json` is written last: where it exists, everything else does.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets import examples
from data_pipeline.datasets.dataset_json import SplitSpec, index_path
from data_pipeline.datasets.sequence_dataset import (
    SEQUENCE_SPEC_VERSION,
    SEQUENCES,
    TASKS,
    SequenceIndex,
    SequenceSpec,
    TextTokenizerSpec,
)
from data_pipeline.datasets.sequence_records import DATASET_NAME, features, shard_name
from data_pipeline.datasets.token_dataset import FAILURES_FILE, DatasetSpec
from data_pipeline.runtime.files import write_text
from data_pipeline.sequences.shard import SequenceReport
from data_pipeline.tokens.vocabulary import Vocabulary


def finish_sequences(
    output: Path,
    reports: Mapping[str, Sequence[SequenceReport]],
    source: DatasetSpec,
    text_tokenizer: TextTokenizerSpec,
    planned: int,
    settings: Mapping[str, Any],
) -> SequenceSpec | None:
    """Writes everything that goes beside the shards.

    Args:
        output: the dataset directory, with all shards.
        reports: of the shards of every split, in order.
        source: of the token dataset.
        text_tokenizer: as stored in `output`.
        planned: how many sequences were to be made.
        settings: `system`, `train_on`, `max_length`.

    Returns:
        The spec as written; None when no sequence could be made: then there are only failures.
    """
    shards = [report for split in reports.values() for report in split]
    failures = [failure for report in shards for failure in report.failures]
    written = sum(len(report.lengths) for report in shards)
    if written + len(failures) != planned:
        raise AssertionError(f"{planned} planned, {written} written, {len(failures)} failed")
    failures.sort(key=lambda failure: failure["id"])
    lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures]
    write_text(output / FAILURES_FILE, "".join(lines))

    kept = {name: found for name, found in reports.items() if any(r.lengths for r in found)}
    for name in reports.keys() - kept.keys():
        for number in range(len(reports[name])):
            (output / shard_name(name, number, len(reports[name]))).unlink(missing_ok=True)
    if not kept:
        return None
    examples.write_metadata(
        output,
        DATASET_NAME,
        features(),
        {name: [len(report.lengths) for report in found] for name, found in kept.items()},
        {name: sum(report.num_bytes for report in found) for name, found in kept.items()},
    )
    kinds = Counter(failure["kind"] for failure in failures)
    tasks = Counter(task for report in shards for task in report.task)
    spec = SequenceSpec(
        kind=SEQUENCES,
        version=SEQUENCE_SPEC_VERSION,
        vocabulary=Vocabulary(text_tokenizer.vocab_size, source.semantic.vocab_size),
        text_tokenizer=text_tokenizer,
        semantic=source.semantic,
        codec=source.codec,
        silence=source.silence,
        sample_rate=source.sample_rate,
        source_fingerprint=source.fingerprint,
        tasks=tuple(task for task in TASKS if tasks[task]),
        splits={name: _split(output, name, found, source) for name, found in kept.items()},
        statistics={
            "planned": planned,
            "written": written,
            "failed": len(failures),
            **{f"failed_{kind}": kinds[kind] for kind in sorted(kinds)},
            **{task: tasks[task] for task in TASKS if tasks[task]},
            "ids": sum(sum(report.lengths) for report in shards),
            "predicted_ids": sum(report.predicted for report in shards),
            "units": sum(report.units for report in shards),
        },
        **settings,
    ).sealed()
    spec.save(output)
    return spec


def _split(
    output: Path, name: str, reports: Sequence[SequenceReport], source: DatasetSpec
) -> SplitSpec:
    """Writes the length index of a split and describes it."""
    column = [task for report in reports for task in report.task]
    tasks, task = np.unique(np.array(column, np.str_), return_inverse=True)
    index = SequenceIndex(
        lengths=np.array([n for report in reports for n in report.lengths], np.int32),
        task=task.astype(np.int32),
        tasks=tuple(tasks.tolist()),
    )
    digests = "\n".join(report.sha256 for report in reports)
    units = sum(report.units for report in reports)
    return SplitSpec(
        num_records=len(index),
        num_shards=len(reports),
        hours=round(units / source.semantic.frame_rate / 3600, 6),
        index_sha256=index.save(index_path(output, name)),
        shards_sha256=hashlib.sha256(digests.encode()).hexdigest(),
    )
