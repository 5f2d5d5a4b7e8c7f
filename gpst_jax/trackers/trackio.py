"""trackio: a local database of runs, under `trackio/` of the workdir.

`trackio show` opens its page. `TRACKIO_DIR` names another directory, `TRACKIO_SPACE_ID` and
`TRACKIO_SERVER_URL` send the run to a Hugging Face Space or a server; without them no network is
touched.
"""

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from gpst_jax.trackers.rows import PROJECT, Audio, Image, RowTracker, Table, Value

logger = logging.getLogger(__name__)


class TrackioTracker(RowTracker):
    """See the module and `RowTracker`."""

    name = "trackio"

    def __init__(self, workdir: str | os.PathLike[str], project: str | None = None):
        super().__init__(workdir, project)
        self._trackio: Any = None
        self._run: Any = None
        self._complaint = ""  # the library warns, from a thread, where others raise

    def open(self, run_id: str, config: Mapping[str, Any]) -> int:
        """See `RowTracker`."""
        directory = os.environ.get("TRACKIO_DIR") or str((self._workdir / "trackio").absolute())
        library = self._import(directory)
        local = not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how to see the page, and more
            if library.utils.get_storage_mode() == "jsonl":  # on a network file system
                library.fragments.import_inbox_dir()
            with _no_account(library) if local else contextlib.nullcontext():
                self._run = library.init(
                    project=self._project or PROJECT,
                    name=run_id,
                    config=dict(config),
                    resume="allow",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        self._check()
        if local:
            logger.info("trackio: in %s; `TRACKIO_DIR=%s trackio show`", directory, directory)
        return self._run._next_step - 1  # of the database, or of the Space

    def _import(self, directory: str) -> Any:
        with mock.patch.dict(os.environ, {"TRACKIO_DIR": directory}):
            try:
                library = importlib.import_module("trackio")
            except ImportError as error:
                raise ImportError(f"pip install 'gpst_jax[trackio]' is needed ({error})") from error
        kept = Path(library.utils.TRACKIO_DIR).absolute()
        if kept != Path(directory).absolute():
            raise RuntimeError(f"this process keeps its runs in {kept} already")
        for name in ("trackio", "trackio.run"):
            module: Any = importlib.import_module(name)
            module._emit_nonfatal_warning = self._complain
        self._trackio = library
        return library

    def _complain(self, message: str, *rest: Any, **named: Any) -> None:
        self._complaint = self._complaint or str(message)

    def _check(self) -> None:
        if self._complaint:
            raise RuntimeError(self._complaint)

    def append(self, step: int, row: Mapping[str, Value]) -> None:
        """See `RowTracker`; raises what the library could not do with the rows before."""
        self._check()
        self._run.log({name: self._value(value) for name, value in row.items()}, step=step)

    def _value(self, value: Value) -> Any:
        library = self._trackio
        if isinstance(value, Audio):
            # Of int16 it takes the samples as they are; a float signal it would normalise.
            return library.Audio(
                (32767 * value.wav).astype(np.int16), sample_rate=value.sample_rate
            )
        if isinstance(value, Image):
            return library.Image(np.repeat(value.pixels[:, :, None], 3, axis=2))
        if isinstance(value, Table):
            return library.Table(columns=value.columns, data=value.rows)
        return value

    def shut(self) -> None:
        """See `RowTracker`."""
        if self._run is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._run.finish()
            self._trackio.context_vars.current_run.set(None)  # else finished anew at exit
            self._check()


@contextlib.contextmanager
def _no_account(library: Any) -> Iterator[None]:
    """A local run does not ask the hub who owns the token in the environment."""
    with mock.patch.object(library.run.Run, "_get_username", return_value=None):
        yield
