"""Flags for single fields of a configuration, written `--config.section.field=value`.

absl parses flags that were defined under their full names. Which fields a configuration has is
known once its file has been read, so these flags are taken off the command line before absl sees
it, see `data_pipeline.runtime.cli.before_parsing`; `overrides` checks them.
"""

import re
from collections.abc import Callable

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError

_FLAG = re.compile(r"--?(\w+)\.([^=]*)(?:=(.*))?", re.DOTALL)
_FORMER = re.compile(r"--?set(?:=(.*))?", re.DOTALL)
_HELP = "help"

Describe = Callable[[str | None, list[str]], str]


class Taken:
    """What the command line says about the fields of one configuration.

    Attributes:
        assignments: the text `section.field=value` of each flag, in their order.
    """

    def __init__(self, flag: str, describe: Describe):
        self.assignments: list[str] = []
        self._flag, self._describe, self._help = flag, describe, False

    def clear(self) -> None:
        """Forgets an earlier command line."""
        self.assignments, self._help = [], False

    def add(self, field: str, value: str | None) -> None:
        """Adds the flag for a field; raises UserError if it has no value, and is not the help."""
        if value is not None:
            self.assignments.append(f"{field}={value}")
        elif field == _HELP:
            self._help = True
        else:
            name = f"--{self._flag}.{field}"
            raise UserError(f"{name}: needs a value: {name}=VALUE")

    def help(self, words: list[str]) -> str | None:
        """The text of `--FLAG.help`; None if the command line does not ask for it.

        Args:
            words: the command line without the flags of single fields.
        """
        if not self._help:
            return None
        value = flags.FLAGS[self._flag].default  # absl has not parsed it yet
        for word, following in zip(words, [*words[1:], None], strict=True):
            name, equals, given = word.partition("=")
            if name in (f"--{self._flag}", f"-{self._flag}"):
                value = given if equals else following
        return self._describe(value, self.assignments)


_defined: dict[str, Taken] = {}


def define(flag: str, describe: Describe) -> Taken:
    """Lets a program's command line have `--FLAG.section.field=value`, and `--FLAG.help`.

    Args:
        flag: name of the flag for the configuration itself, which is defined beside it.
        describe: makes the text of the help from that flag's value and the assignments.
    """
    cli.before_parsing(take)
    _defined[flag] = Taken(flag, describe)
    return _defined[flag]


def take(argv: list[str]) -> list[str]:
    """Takes the flags of single fields off a command line; returns what is left of it.

    Files of `--flagfile` are read. What follows a bare `--` is left alone.

    Raises:
        UserError: a flag has no value, or is written as in former versions.
        SystemExit: after the help on fields, which the command line asks for.
    """
    for taken in _defined.values():
        taken.clear()
    # absl, which would read the files later, finds none then.
    words = [*argv[:1], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
    rest: list[str] = []
    while words and words[0] != "--":
        word = words.pop(0)
        if former := _FORMER.fullmatch(word):
            value = former[1] if former[1] is not None else "".join(words[:1])
            raise UserError(f"--set={value}: write --{next(iter(_defined))}.{value}")
        match = _FLAG.fullmatch(word)
        if match is None or match[1] not in _defined:
            rest.append(word)
            continue
        value = match[3]
        if value is None and match[2] != _HELP and words and not words[0].startswith("--"):
            value = words.pop(0)
        _defined[match[1]].add(match[2], value)
    rest += words
    for taken in _defined.values():
        if text := taken.help(rest):
            print(text)
            raise SystemExit(0)
    return rest
