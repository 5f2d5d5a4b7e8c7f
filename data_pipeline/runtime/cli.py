"""Entry point of every command-line program: flags, logging, error reporting and exit code.

A program's ``main`` is an ordinary absl ``main(argv)``. Bad input is raised as :class:`UserError`
and reaches the user as one line on standard error, and so do the failures that `endings` knows;
anything else is a bug and keeps its traceback.
"""

import logging
import math
import re
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging
from absl import app, flags

from data_pipeline.runtime import exit_codes, flag_rules, libraries
from data_pipeline.runtime.endings import ending, one_line
from data_pipeline.runtime.errors import UserError

_MISSING = re.compile(r"Flag (--\w+) must have a value other than None")

JSON_OUT = flags.DEFINE_string("json_out", None, "File for the program's result, as JSON.")
flag_rules.may_be_in_buckets("json_out")

_before_parsing: list[Callable[[list[str]], list[str]]] = []


def before_parsing(take: Callable[[list[str]], list[str]]) -> None:
    """Has a function take words off every command line before absl parses it.

    Args:
        take: gets the words, program name first, and returns those that are left for absl. It may
            raise UserError, or SystemExit after printing a help.
    """
    if take not in _before_parsing:
        _before_parsing.append(take)


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Parses the flags, runs ``main(argv)`` and leaves the process with its exit code.

    Args:
        main: gets the positional arguments as absl passes them (program name first) and returns an
            exit code of `exit_codes`, or None for 0.

    The exit code is what ``main`` returns, or that of the error that it raises, see `endings`: its
    message is printed as the one line ``error: ...`` on standard error. A bad flag ends the same
    way, and ``--help`` with 0.
    """

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # INFO for our own packages only: libraries such as Orbax log too much there.
            absl.logging.set_verbosity(absl.logging.WARNING)
            for package in ("gpst_jax", "data_pipeline"):
                logging.getLogger(package).setLevel(logging.INFO)
        try:
            flag_rules.check_paths()
            return main(argv) or exit_codes.OK
        except KeyboardInterrupt:
            print("\ninterrupted: the same command goes on", file=sys.stderr)
            return exit_codes.SIGINT
        except Exception as error:
            end = ending(error)
            if end is None:
                raise
            code, message = end
            sys.stdout.flush()  # in a log of both, the error is the last line
            print(f"error: {message}", file=sys.stderr)
            return code

    libraries.quieten()
    # `--help` lists only key flags, those of the program's own module: make this shared one key.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["json_out"])
    app.run(guarded, flags_parser=parse_flags)
    raise AssertionError("absl.app.run does not return")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; returns the positional arguments, program name first.

    Raises:
        SystemExit: with BAD_INPUT after one line about a flag that cannot be used, with OK after
            the help.
    """
    try:
        for take in _before_parsing:
            argv = take(argv)
        rest = flags.FLAGS(argv)
    except UserError as error:
        message = one_line(error)
    except flags.Error as error:
        message = f"{_bad_flag(one_line(error))}; --help lists the flags"
    except SystemExit:  # after a help that was asked for; absl returns 1 then
        raise SystemExit(exit_codes.OK) from None
    else:
        message = _not_finite()
        if not message:
            return rest
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(exit_codes.BAD_INPUT)


def _bad_flag(message: str) -> str:
    missing = _MISSING.findall(message)
    return f"{', '.join(missing)}: required" if missing else message.removeprefix("flag ")


def _not_finite() -> str:
    """A message about the first flag that is no number or infinite: bounds let NaN pass."""
    for name in sorted(flags.FLAGS):
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            return f"--{name}={value}: give a finite number"
    return ""
