"""The exception of every recording that cannot be used."""

import os

from data_pipeline.runtime.errors import UserError


class AudioError(UserError):
    """A recording cannot be used.

    Attributes:
        reason: what is wrong, without the path, for a failure manifest.
        path: the file, or None when the audio came from memory.
    """

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None):
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
