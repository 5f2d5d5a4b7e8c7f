"""Centroid files in formats that cannot run code: npy, npz and safetensors."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_pipeline.runtime.errors import UserError

ARRAY_NAME = "centroids"
MAX_CLUSTERS = 1 << 16  # units are stored as uint16


def read_centroids(path: str | Path) -> np.ndarray:
    """Reads k-means centroids.

    Args:
        path: a .npy file, or a .npz or .safetensors file with one array or one named `centroids`.

    Returns:
        float32 (K, D), 2 <= K <= 65,536.

    Raises:
        UserError: the file cannot be read, or holds anything but finite floats (K, D).
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = _only(path, {name: file[name] for name in file.files})
        elif path.suffix == ".safetensors":
            found = _only(path, safetensors.numpy.load_file(path))
        else:
            raise UserError(
                f"kmeans file {path}: not one of .npy, .npz, .safetensors. A joblib or pickle file "
                "can run code when it is loaded: convert one that you trust, elsewhere, with "
                "numpy.save('kmeans.npy', joblib.load(FILE).cluster_centers_)"
            )
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"kmeans file {path} cannot be read: {reason}") from error
    if (
        found.ndim != 2
        or not 2 <= len(found) <= MAX_CLUSTERS
        or not np.issubdtype(found.dtype, np.floating)
    ):
        raise UserError(
            f"kmeans file {path}: expected floats (K, D) with K from 2 to {MAX_CLUSTERS}, found "
            f"{found.dtype} {found.shape}"
        )
    if not np.isfinite(found).all():
        raise UserError(f"kmeans file {path} holds NaN or infinite values")
    return np.ascontiguousarray(found, np.float32)


def write_centroids(path: str | Path, centroids: np.ndarray) -> None:
    """Writes centroids (K, D) as npz or safetensors, by suffix, deterministically.

    Raises:
        UserError: the suffix is unknown, or the file cannot be written.
    """
    path = Path(path)
    arrays: dict[str, Any] = {ARRAY_NAME: np.ascontiguousarray(centroids, np.float32)}
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(temporary, **arrays)
        elif path.suffix == ".safetensors":
            temporary.write_bytes(safetensors.numpy.save(arrays))
        else:
            raise UserError(f"kmeans file {path}: its suffix must be .npz or .safetensors")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _only(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if ARRAY_NAME in arrays:
        return arrays[ARRAY_NAME]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise UserError(f"kmeans file {path}: no array {ARRAY_NAME!r} among {sorted(arrays)}")
