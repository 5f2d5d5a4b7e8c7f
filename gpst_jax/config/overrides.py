"""Changes single fields of a configuration: `section.field=value`, as flags have it.

The flags `--config.section.field=value` of this field's programs are mostly ml_collections'
`config_flags`. They are not used here, since they write into the configuration that a file
returned: `setattr` on a frozen dataclass raises. They also cannot type a field that is a union of
configurations, such as `model`; check values one by one, before those that they must agree with;
and let the last of two overrides of a field win silently. So `override_flags` reads the flags,
and this module makes a new configuration from the old one and all changes at once, through the
checks of `fields.from_dict` and of every `__post_init__`.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from gpst_jax.config.fields import ConfigError, from_dict, renamed_to, require

Config = TypeVar("Config")

_LITERALS = {"True": True, "False": False, "None": None}
_CLOSE = 0.5  # likeness of a name that is worth a suggestion, in [0, 1]
_MOST_NAMED = 4
_FLAG = re.compile(r"--(?:config\.|set=)")


def override(config: Config, assignments: Sequence[str]) -> Config:
    """A configuration with some fields changed.

    Args:
        config: any dataclass of fields and further dataclasses; it is not changed.
        assignments: `section.field=value`. Values are JSON, or Python's True, False and None, or
            plain text for fields that hold text.

    Raises:
        ConfigError: a field is unknown or given twice, or a value does not fit.
    """
    tree = dataclasses.asdict(config)  # type: ignore[call-overload]
    given: dict[str, str] = {}
    for assignment in assignments:
        key, value = field_of(assignment), assignment.partition("=")[2]
        _check_once(key, value, given)
        given[key] = value
        *sections, name = _checked(config, key)
        node = tree
        for section in sections:
            node = node[section]
        node[name] = _parsed(value, node[name])
    return from_dict(type(config), tree)


def field_of(assignment: str) -> str:
    """The dotted name in `section.field=value`; raises ConfigError if there is no `=`."""
    key, equals, _ = assignment.partition("=")
    require(bool(equals), key, "an override is written section.field=value")
    return key


def with_defaults(assignments: Sequence[str], defaults: Iterable[str]) -> list[str]:
    """`defaults` whose fields are not assigned, and then all of `assignments`."""
    assigned = set(map(field_of, assignments))
    return [*(each for each in defaults if field_of(each) not in assigned), *assignments]


def from_flags(words: Iterable[str]) -> list[str]:
    """`section.field=value` of stored flags; former versions wrote `--set=` before it."""
    return [_FLAG.sub("", word, count=1) for word in words]


def _check_once(key: str, value: str, given: dict[str, str]) -> None:
    if key in given:
        raise ConfigError(
            f"config field {key}: given twice, as {given[key]} and as {value}; leave one out"
        )
    for other in given:
        short, long = sorted((key, other), key=len)
        require(
            not long.startswith(f"{short}."),
            key,
            f"given twice, within {short} and as {long}; leave one out",
        )


def _checked(config: Any, key: str) -> list[str]:
    """The parts of a dotted name; raises ConfigError if the configuration has no such field."""
    parts, section = key.split("."), config
    for index, part in enumerate(parts):
        names = _names(section)
        if part not in names:
            raise ConfigError(f"config field {key}: {_no_field(config, section, parts, index)}")
        section = getattr(section, part)
    return parts


def _no_field(config: Any, section: Any, parts: list[str], index: int) -> str:
    """What is wrong with `parts[index]`, which is no field of `section`, and what is near it."""
    before, part, after = parts[:index], parts[index], parts[index + 1 :]
    new = renamed_to(type(section), part)
    if new is not None:
        return f"is now {'.'.join([*before, new, *after])}"
    names = _names(section)
    if not names:
        return f"no such field: {'.'.join(before)} is {section!r}"
    known = list(_paths(config))
    close = difflib.get_close_matches(part, names, cutoff=_CLOSE)
    found = [".".join([*before, name, *after]) for name in close]
    found = [path for path in found if path in known]
    found += [path for path in known if path.rpartition(".")[2] == parts[-1]]
    found = list(dict.fromkeys(found))[:_MOST_NAMED]
    if found:
        return f"no such field; did you mean {' or '.join(found)}?"
    return f"no such field; {'.'.join(before) or 'a run'} has {', '.join(names)}"


def _names(section: Any) -> list[str]:
    known = dataclasses.is_dataclass(section) and not isinstance(section, type)
    return [field.name for field in dataclasses.fields(section)] if known else []


def _paths(section: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections included."""
    for name in _names(section):
        yield f"{prefix}{name}"
        yield from _paths(getattr(section, name), f"{prefix}{name}.")


def _parsed(text: str, was: Any) -> Any:
    """The value that a text stands for, in a field that held `was`."""
    try:
        value = json.loads(text, parse_constant=_not_finite)
    except ValueError:
        value = _LITERALS.get(text, text)
    # A directory may be called 2024: what was text stays text.
    return text if isinstance(was, str) and not isinstance(value, str) else value


def _not_finite(name: str) -> float:
    raise ValueError(name)  # stays text, which no field of numbers takes
