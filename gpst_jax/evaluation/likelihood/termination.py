"""Termination rate: the share of generated samples that end by themselves.

Generation says of each sample what ended it (`ended_by`): the end that the model sampled ("end"),
the longest duration allowed ("length"), or a guard ("guard:repetition").
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.estimates import Bootstrap, Row, proportion
from gpst_jax.evaluation.likelihood.files import read_rows
from gpst_jax.evaluation.metrics.statistics import RESAMPLES, not_available, usable
from gpst_jax.samples.manifest import MANIFEST

END = "end"
RESULTS_FILE = "results.jsonl"  # of `gpst_jax.synthesis.files`
_RECORDED = ("recording", "codec")  # conditions that nothing is generated in

Record = Mapping[str, Any]


def read_endings(directory: str | Path) -> dict[str, list[Record]]:
    """The records of generated samples, by condition.

    Args:
        directory: of samples, with a manifest in each condition; or of speech made of files, whose
            records are by mode.

    Raises:
        UserError: there are no records, or they cannot be read.
    """
    root = Path(directory)
    results = root / RESULTS_FILE
    if results.is_file():
        by_mode: dict[str, list[Record]] = {}
        for _, values in read_rows(results):
            by_mode.setdefault(str(values.get("mode", "")), []).append(values)
        return by_mode
    manifests = sorted(root.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise UserError(f"{directory}: neither samples nor a {RESULTS_FILE}: run generate first")
    return {path.parent.name: [values for _, values in read_rows(path)] for path in manifests}


def termination(
    records: Mapping[str, Sequence[Record]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Row]:
    """The share of samples that ended by themselves, by condition.

    Args:
        records: of each condition, with `ended_by` and perhaps `speaker`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Rows with `endings`, how many samples ended by what. A sample that does not say is `unknown`
        and did not end by itself. Conditions of recordings are left out.
    """
    rows: dict[str, Row] = {}
    for condition, samples in records.items():
        endings = [str(sample.get("ended_by") or "unknown") for sample in samples]
        if set(endings) <= {"unknown"}:
            if condition.split("_")[0] not in _RECORDED:
                reason = "the records do not say what ended the samples: generate them again"
                rows[condition] = not_available(reason)
            continue
        clusters = usable([str(sample.get("speaker") or "") for sample in samples])
        ended = [float(ending == END) for ending in endings]
        row = proportion(ended, clusters, Bootstrap(resamples, seed))
        rows[condition] = row | {"endings": dict(sorted(Counter(endings).items()))}
    return rows
