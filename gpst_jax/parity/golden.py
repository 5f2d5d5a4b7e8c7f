"""Golden files: npz archives without pickles, with keys `group/name`.

`config/` holds scalars, `weights/` arrays by their official names, the other groups inputs and
outputs of the official code.
"""

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError

TOLERANCE = 1e-5


class Golden:
    """The entries of one file.

    Args:
        path: of the npz file.

    Raises:
        UserError: the file is missing or not an npz.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            archive = np.load(path, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UserError(f"{path}: a single array, not an npz file")
            with archive:
                self.entries = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable npz file of arrays ({error})") from error

    def __getitem__(self, name: str) -> np.ndarray:
        """The entry with this name; raises UserError where it is missing."""
        if name not in self.entries:
            raise UserError(
                f"{self.path}: golden entry {name} is missing; its layout is written by "
                "tests/gpst_jax/parity/make_golden.py and tests/support/numpy_flow.py"
            )
        return self.entries[name]

    def weight(self, name: str) -> np.ndarray:
        """The weight with this official name, as float32."""
        return self[f"weights/{name}"].astype(np.float32)

    def scalar(self, name: str) -> Any:
        """A scalar of the configuration."""
        return self[f"config/{name}"].item()

    def differences(self, ours: Mapping[str, Any]) -> dict[str, float]:
        """Largest absolute difference of each entry from ours; inf where integers differ.

        Raises:
            UserError: an entry is missing or has another shape than ours.
        """
        found = {}
        for name, value in ours.items():
            stored, value = self[name], np.asarray(value)
            if stored.shape != value.shape:
                raise UserError(
                    f"{self.path}: {name} has shape {stored.shape}, ours is {value.shape}"
                )
            if not np.issubdtype(stored.dtype, np.floating):
                found[name] = 0.0 if np.array_equal(stored, value) else float("inf")
                continue
            worst = float(np.abs(stored - value).max(initial=0.0))
            # A NaN would compare as within any tolerance.
            found[name] = worst if np.isfinite(worst) else float("inf")
        return found
