"""Describes every field of a configuration: its flag, type, default and meaning.

The meaning of a field is the comment beside it, or in the lines right above it, in the source of
its class.
"""

import ast
import dataclasses
import functools
import inspect
import io
import json
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any


def describe(config: Any, flag: str = "config") -> str:
    """One line for each field: `--config.section.field=VALUE (type, default): meaning`.

    Args:
        config: a configuration, whose values are shown; or the class of one, for its defaults, and
            for the fields of every class that a section may have.
        flag: name of the configuration's flag.
    """
    return "\n".join(_lines(config, f"--{flag}."))


def _lines(config: Any, prefix: str) -> Iterator[str]:
    cls = config if isinstance(config, type) else type(config)
    meanings, hints = comments(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        value = field.default if config is cls else getattr(config, field.name)
        name, members = f"{prefix}{field.name}", _members(hints[field.name])
        if dataclasses.is_dataclass(value):
            yield from _lines(value, f"{name}.")
        elif members and value is dataclasses.MISSING:
            for member in members:
                if len(members) > 1:
                    about = (inspect.getdoc(member) or "").splitlines()
                    yield f"\n{member.__name__}: {''.join(about[:1])}\n"
                yield from _lines(member, f"{name}.")
            if len(members) > 1:
                yield ""
        else:
            meaning = meanings.get(field.name, "")
            if members:
                keys = ", ".join(part.name for part in dataclasses.fields(members[0]))
                meaning = meaning or f"an object with {keys}"
            yield _line(name, hints[field.name], value, field.default, meaning)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _members(hint: Any) -> list[Any]:
    """The configurations among the types of a field."""
    return [kind for kind in _kinds(hint) if dataclasses.is_dataclass(kind)]


def _line(name: str, hint: Any, value: Any, default: Any, meaning: str) -> str:
    kind = " | ".join(map(_kind_name, _kinds(hint)))
    shown = "VALUE" if value is dataclasses.MISSING else _text(value)
    has = "no default" if default is dataclasses.MISSING else f"default {_text(default)}"
    return f"{name}={shown} ({kind}, {has})" + (f": {meaning}" if meaning else "")


def _kind_name(kind: Any) -> str:
    if kind is type(None):
        return "None"
    return str(kind) if typing.get_origin(kind) else kind.__name__


def _text(value: Any) -> str:
    """A value as it is written in a flag."""
    return value if isinstance(value, str) and value else json.dumps(value)


@functools.cache
def comments(cls: type) -> dict[str, str]:
    """The comment of each field that has one, on one line; none where there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        return {}
    texts: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts[token.start[0]] = token.string.lstrip("# ")
            if token.line.strip() == token.string:
                alone.add(token.start[0])
    found = {}
    for node in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first, last = node.lineno, node.end_lineno or node.lineno
            while first - 1 in alone:
                first -= 1
            parts = [texts[number] for number in range(first, last + 1) if number in texts]
            if parts:
                found[node.target.id] = " ".join(parts)
    return found
