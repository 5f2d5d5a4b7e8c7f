"""Entry point of every command-line program: logging, error reporting and exit code.

A program's ``main`` is an ordinary absl ``main(argv)``. Bad input is raised as :class:`UserError`
and reaches the user as one line on standard error; anything else is a bug and keeps its traceback.
"""

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging
from absl import app, flags

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.errors import UserError

JSON_OUT = flags.DEFINE_string("json_out", None, "File for the program's result, as JSON.")


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Parses the flags, runs ``main(argv)`` and leaves the process with its exit code.

    Args:
        main: gets the positional arguments as absl passes them (program name first) and returns an
            exit code of `exit_codes`, or None for 0.

    The exit code is what ``main`` returns, or `BAD_INPUT` if it raises :class:`UserError`, whose
    message is printed as the one line ``error: ...`` on standard error.
    """

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # INFO for our own packages only: libraries such as Orbax log too much there.
            absl.logging.set_verbosity(absl.logging.WARNING)
            for package in ("gpst_jax", "data_pipeline"):
                logging.getLogger(package).setLevel(logging.INFO)
        try:
            return main(argv) or exit_codes.OK
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"error: {message}", file=sys.stderr)
            return exit_codes.BAD_INPUT

    # `--help` lists only key flags, those of the program's own module: make this shared one key.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["json_out"])
    app.run(guarded)
    raise AssertionError("absl.app.run does not return")
