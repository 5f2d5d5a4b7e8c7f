"""What every command-line program of the project shares: how it ends and how it reports.

A program's ``main`` is an ordinary absl ``main(argv)``. Bad input is raised as :class:`UserError`
and reaches the user as one line on standard error; anything else is a bug and keeps its traceback.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import absl.logging
from absl import app, flags

USER_ERROR_EXIT_CODE = 2

JSON_OUT = flags.DEFINE_string("json_out", None, "File for the program's result, as JSON.")


class UserError(Exception):
    """Bad input: the message names the file or flag, what is wrong with it, and the remedy."""


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Parses the flags, runs ``main(argv)`` and leaves the process with its exit code.

    Args:
        main: gets the positional arguments as absl passes them (program name first) and returns an
            exit code, or None for 0.

    Exit codes: what ``main`` returns; 2 when it raises :class:`UserError`, whose message is printed
    as the one line ``error: ...`` on standard error.
    """

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # Our own progress at INFO; libraries such as Orbax say too much there.
            absl.logging.set_verbosity(absl.logging.WARNING)
            for package in ("gpst_jax", "data_pipeline"):
                logging.getLogger(package).setLevel(logging.INFO)
        try:
            return main(argv) or 0
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"error: {message}", file=sys.stderr)
            return USER_ERROR_EXIT_CODE

    # `--help` lists the flags of the program's own module: count this shared one among them.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["json_out"])
    app.run(guarded)
    raise AssertionError("absl.app.run does not return")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file so that a reader sees the old content or the new, never a part.

    Missing parent directories are made.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # mkstemp makes files private; the finished file gets the usual permissions instead.
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes ``obj`` as indented JSON, atomically (see :func:`write_text`).

    Raises:
        UserError: the file cannot be written.
        ValueError: ``obj`` holds NaN or infinity, which JSON has no word for.
        TypeError: ``obj`` holds something that JSON has no form for.
    """
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
