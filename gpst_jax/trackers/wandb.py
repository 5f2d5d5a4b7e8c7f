"""Weights & Biases: one run for the life of a workdir, under `wandb/` there.

The environment variables of the library decide where it goes (`WANDB_MODE`, `WANDB_PROJECT`,
`WANDB_ENTITY`, `WANDB_BASE_URL`, ...). It captures neither the console nor code, git differences,
requirements, or facts of the machine, unless such a variable asks for them.
"""

import contextlib
import importlib
import logging
import netrc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpst_jax.trackers.optional import without_secrets
from gpst_jax.trackers.rows import PROJECT, Audio, Image, RowTracker, Table, Value
from gpst_jax.trackers.wandb_files import last_step, trim

logger = logging.getLogger(__name__)

# Settings of the library, each with the variable that overrides it here as everywhere.
_SETTINGS: dict[str, tuple[str, Any]] = {
    "console": ("WANDB_CONSOLE", "off"),
    "disable_git": ("WANDB_DISABLE_GIT", True),
    "save_code": ("WANDB_SAVE_CODE", False),
    "init_timeout": ("WANDB_INIT_TIMEOUT", 60.0),  # seconds; then the run is kept offline
    "host": ("WANDB_HOST", ""),
    "silent": ("WANDB_SILENT", True),
    "finish_timeout": ("WANDB_FINISH_TIMEOUT", 60.0),  # seconds; an upload may not end at all
    "x_disable_machine_info": ("WANDB__DISABLE_MACHINE_INFO", True),
    "x_disable_meta": ("WANDB__DISABLE_META", True),
    "x_disable_stats": ("WANDB__DISABLE_STATS", True),
    "x_save_requirements": ("WANDB__SAVE_REQUIREMENTS", False),
    "x_transaction_log_flush_interval": ("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", 1.0),
}

_FLUSH_SECONDS = 10.0  # the library's own process writes, also after `finish` has returned


class WandbTracker(RowTracker):
    """See the module and `RowTracker`."""

    name = "wandb"

    def __init__(self, workdir: str | os.PathLike[str], project: str | None = None):
        super().__init__(workdir, project)
        self._wandb: Any = None
        self._run: Any = None

    def open(self, run_id: str, config: Mapping[str, Any]) -> int:
        """See `RowTracker`; a run that cannot begin online begins offline, with one line."""
        root = Path(os.environ.get("WANDB_DIR") or self._workdir)
        # Errors of the library itself are reported to its makers, if the user wants it.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Files of tables wait here for their upload.
        os.environ.setdefault("WANDB_DATA_DIR", str(root.absolute() / "wandb"))
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError(f"pip install 'gpst_jax[wandb]' is needed ({error})") from error
        level = logging.INFO
        mode, note = _mode(self._wandb.setup().settings.mode)
        try:
            self._init(run_id, config, root, mode)
        except Exception as error:
            if mode != "online":
                raise
            note, level = f"{without_secrets(error)}; ", logging.WARNING
            self._wandb.teardown()  # it may still try to reach the server under this id
            self._init(run_id, config, root, "offline")
        if self._run.disabled:
            return -1
        directory = self._directory()
        trim(directory, run_id, Path(self._run.dir).absolute().parent)
        if not self._run.offline:
            logger.info("wandb: %s", self._run.url)
            return self._run.starting_step - 1
        text = "wandb: %soffline, in %s; `wandb sync %s` uploads it"
        logger.log(level, text, note, directory, directory)
        return last_step(directory, run_id)

    def _directory(self) -> Path:
        """The directory of all offline runs of the workdir."""
        return Path(self._run.dir).absolute().parents[1]

    def _init(self, run_id: str, config: Mapping[str, Any], root: Path, mode: str) -> None:
        library = self._wandb
        ours = {
            name: value
            for name, (variable, value) in _SETTINGS.items()
            if variable not in os.environ
        }
        self._run = library.init(
            id=run_id,
            name=os.environ.get("WANDB_NAME") or run_id,
            project=self._project or library.setup().settings.project or PROJECT,
            config=dict(config),
            allow_val_change=True,
            resume="allow",
            dir=str(root),
            mode=mode,
            settings=library.Settings(**ours),
        )

    def append(self, step: int, row: Mapping[str, Value]) -> None:
        """See `RowTracker`."""
        values = {name: self._value(value) for name, value in row.items()}
        self._run.log(values, step=step, commit=True)

    def _value(self, value: Value) -> Any:
        if isinstance(value, Audio):
            return self._wandb.Audio(value.wav, sample_rate=value.sample_rate)
        if isinstance(value, Image):
            return self._wandb.Image(value.pixels)
        if isinstance(value, Table):
            return self._wandb.Table(columns=value.columns, data=value.rows)
        return value

    def shut(self) -> None:
        """See `RowTracker`."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception:
            with contextlib.suppress(Exception):
                self._wandb.teardown()  # else it is tried at the exit, with a traceback
            raise
        if self._run.offline and not self._run.disabled:
            self._check_stored()

    def _check_stored(self) -> None:
        """Raises OSError if a row is not in the files: the library does not say so."""
        end = time.monotonic() + _FLUSH_SECONDS
        while (stored := last_step(self._directory(), self._run.id)) < self._last:
            if time.monotonic() > end:
                raise OSError(f"only steps up to {stored} could be stored in {self._directory()}")
            time.sleep(0.1)


def _mode(set_up: str) -> tuple[str, str]:
    """The mode in which the user wants the library, and a remark where nothing says so.

    Args:
        set_up: the mode of the library's settings; `online` is also its default.
    """
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"], ""
    if set_up != "online":  # `wandb offline` was called
        return set_up, ""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online", ""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(os.environ.get("NETRC")).authenticators(host):
            return "online", ""  # `wandb login` was called
    return "offline", "neither WANDB_API_KEY nor WANDB_MODE is set: "
