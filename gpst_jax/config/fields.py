"""Shared by all configurations: field checks, and strict construction from nested dicts."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration value is unknown or inconsistent; the message names the field."""


def require(condition: bool, field: str, message: str) -> None:
    """Raises ConfigError naming the field unless the condition holds."""
    if not condition:
        raise ConfigError(f"config field {field}: {message}")


def choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Checks that a field has one of a few values."""
    value = getattr(config, name)
    require(value in choices, name, f"{value!r} is not one of {', '.join(choices)}")


def fraction(config: Any, name: str) -> None:
    """Checks that a field is in [0, 1]."""
    value = getattr(config, name)
    require(0 <= value <= 1, name, f"must be in [0, 1], is {value}")


def positive(config: Any, *names: str) -> None:
    """Checks that fields are above zero."""
    for name in names:
        require(getattr(config, name) > 0, name, f"must be positive, is {getattr(config, name)}")


def not_negative(config: Any, *names: str) -> None:
    """Checks that fields are finite and at least zero."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, name, f"must not be negative, is {value}")


def stored_as(
    renamed: dict[str, str] | None = None, absent: dict[str, Any] | None = None
) -> Callable[[type[Config]], type[Config]]:
    """Class decorator: how configurations stored by older versions are read.

    Args:
        renamed: former name of a field -> its present name. `from_dict` accepts both; the
            constructor raises ConfigError that names the present one.
        absent: values of fields that are missing from records older than the field. They state
            what was computed then, whatever the present default: changing a default changes no
            stored model.
    """
    names, values = renamed or {}, absent or {}

    def decorate(cls: type[Config]) -> type[Config]:
        construct = cls.__init__

        @functools.wraps(construct)
        def checked(self: Config, *args: Any, **fields: Any) -> None:
            for name in fields.keys() & names.keys():
                raise ConfigError(
                    f"config field {name}: {cls.__name__}({name}=...) is now "
                    f"{cls.__name__}({names[name]}=...)"
                )
            construct(self, *args, **fields)

        cls.__init__ = checked  # type: ignore[method-assign, assignment]
        _STORED[cls] = (names, values)
        return cls

    return decorate


_STORED: dict[type, tuple[dict[str, str], dict[str, Any]]] = {}


def renamed_to(cls: type, name: str) -> str | None:
    """The present name of a renamed field; None for any other name."""
    return _STORED.get(cls, ({}, {}))[0].get(name)


def from_dict(cls: type, tree: Any, path: str = "") -> Any:
    """Builds dataclass `cls` from nested dicts, checking names and types at every level.

    Records of older versions are read too, see `stored_as`.

    Raises:
        ConfigError: a field is unknown, missing, given twice or of another type.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"config field {path or cls.__name__}: expected fields, got {tree!r}")
    renamed, absent = _STORED.get(cls, ({}, {}))
    for old in renamed.keys() & tree.keys():
        if renamed[old] in tree:
            raise ConfigError(
                f"config field {path}{old}: is now {path}{renamed[old]}, which is given as well"
            )
    tree = absent | {renamed.get(name, name): value for name, value in tree.items()}
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - set(fields))
    if unknown:
        raise ConfigError(f"config field {path}{unknown[0]}: unknown; known are {sorted(fields)}")
    values = {}
    for name, value in tree.items():
        values[name] = _convert(hints[name], value, f"{path}{name}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"config field {path}{missing[0]}: missing")
    return cls(**values)


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = _one_of([arg for arg in hint.__args__ if arg is not type(None)], value, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path + ".")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"config field {path}: expected {hint.__name__}, got {value!r}")
    return value


def _one_of(hints: list[Any], value: Any, path: str) -> Any:
    """The member of a union for a value; among configurations, the one its `family` names."""
    if len(hints) == 1:
        return hints[0]
    families = {_default(hint, "family"): hint for hint in hints}
    # Runs stored before there were several families do not name theirs.
    family = value.get("family", next(iter(families))) if isinstance(value, dict) else None
    require(family in families, f"{path}.family", f"{family!r} is not one of {sorted(families)}")
    return families[family]


def _default(cls: Any, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(cls) if field.name == name)
