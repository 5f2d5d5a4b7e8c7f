"""The archive of stored tokens and tiny runs of all families (see test_stored_runs.py)."""

import tarfile
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline.datasets.token_records import RecordReader

ARCHIVE = Path(__file__).parents[1] / "data" / "stored_2026_11.tar.xz"


def unpack_with_recordings(directory: Path) -> Path:
    """Unpacks the archive, with noise in `recordings` for held-out recordings; returns it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    random = np.random.default_rng(0)
    for split in ("valid", "unseen"):
        reader = RecordReader(directory / "tokens", split)
        for record in (reader[index] for index in range(len(reader))):
            path = directory / "recordings" / record.source
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * random.standard_normal(round(16_000 * record.end)), 16_000)
    return directory
