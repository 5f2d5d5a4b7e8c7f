"""What every command-line program of the project shares: how it ends and how it reports.

A program's ``main`` is an ordinary absl ``main(argv)``. Bad input is raised as :class:`UserError`
and reaches the user as one line on standard error; anything else is a bug and keeps its traceback.
"""

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging
from absl import app, flags

from data_pipeline.runtime.errors import UserError

USER_ERROR_EXIT_CODE = 2

JSON_OUT = flags.DEFINE_string("json_out", None, "File for the program's result, as JSON.")


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
