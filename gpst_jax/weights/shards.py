"""Writes sharded safetensors one tensor at a time: only that tensor is in memory.

All offsets are fixed before the first byte, so tensors can be written in any order. With several
shards an index names the file of every tensor, as transformers expects it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import ml_dtypes
import numpy as np

from data_pipeline.runtime.files import write_json
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.checkpoints.storage import storing
from gpst_jax.config import ConfigError
from gpst_jax.weights.tensors import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

DTYPES: Mapping[str, tuple[str, np.dtype]] = {
    "float32": ("F32", np.dtype(np.float32)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float16": ("F16", np.dtype(np.float16)),
}


class ShardWriter:
    """Writes tensors into as few files as their size allows; a context manager.

    Args:
        directory: an existing directory.
        tensors: all tensors, assigned to files in this order.
        dtype: of all of them.
        shard_bytes: largest data of a file, unless a single tensor is larger.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Sequence[Tensor],
        dtype: str = "float32",
        shard_bytes: int = SHARD_BYTES,
    ):
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self._code, self._dtype = DTYPES[dtype]
        self._directory, self._tensors = directory, tensors
        groups: list[list[Tensor]] = [[]]
        size = self.total_bytes = 0
        for tensor in tensors:
            tensor_bytes = self._size(tensor)
            if groups[-1] and size + tensor_bytes > shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append(tensor)
            size += tensor_bytes
            self.total_bytes += tensor_bytes
        self._groups = groups
        self._offsets: dict[str, tuple[BinaryIO, int]] = {}
        self._missing = {tensor.name for tensor in tensors}
        self._opened: list[BinaryIO] = []

    def __enter__(self) -> "ShardWriter":
        """Opens all files and writes their headers and the index."""
        names = self._file_names()
        weight_map = {}
        for name, group in zip(names, self._groups, strict=True):
            with storing(self._directory / name):
                file = open(self._directory / name, "xb")
                self._opened.append(file)
                start = file.write(self._header(group))
            for tensor in group:
                self._offsets[tensor.name] = (file, start)
                start += self._size(tensor)
                weight_map[tensor.name] = name
        if len(names) > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            write_json(self._directory / INDEX_FILE, index)
        return self

    def write(self, tensor: Tensor, value: np.ndarray) -> None:
        """Writes one tensor; call it exactly once for each.

        Args:
            tensor: one of those given to the constructor.
            value: in JAX's layout, without the layer axis.

        Raises:
            CheckpointError: a value is not finite.
            StorageError: writing failed.
        """
        if tensor.transposed:
            value = value.swapaxes(-1, -2)
        if value.shape != tensor.shape:
            raise ValueError(f"{tensor.name} is {tensor.shape}, got {value.shape}")
        data = np.ascontiguousarray(value, self._dtype)
        if not np.isfinite(data).all():
            raise CheckpointError(f"{tensor.path} holds NaN or infinity as {self._dtype}")
        self._missing.remove(tensor.name)
        file, start = self._offsets[tensor.name]
        with storing(file.name):
            file.seek(start)
            file.write(data.reshape(-1).view(np.uint8).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files; AssertionError if a tensor was not written."""
        for file in self._opened:
            with storing(file.name):
                file.close()
        if kind is None and self._missing:
            raise AssertionError(f"not written: {sorted(self._missing)}")

    def _file_names(self) -> list[str]:
        count = len(self._groups)
        if count == 1:
            return [WEIGHTS_FILE]
        return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]

    def _size(self, tensor: Tensor) -> int:
        return self._dtype.itemsize * int(np.prod(tensor.shape, dtype=np.int64))

    def _header(self, group: Sequence[Tensor]) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # kernels are (out, in)
        end = 0
        for tensor in group:
            start, end = end, end + self._size(tensor)
            header[tensor.name] = {
                "dtype": self._code,
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
