"""The flags of a run's configuration, as programs define them.

    _CONFIG = config_flags.DEFINE_config("config", None, "What the run is.", required=True)

gives a program `--config=FILE[:ARGUMENT]`, `--config.section.field=value` for any field, and
`--config.help`, which prints all fields; `_CONFIG.load()` is the configuration with the fields as
the command line has them. `gpst_jax.config.overrides` says why ml_collections' flags are not used.
"""

from typing import cast

from absl import flags

from data_pipeline.runtime.errors import UserError
from experiments.common import load_config
from gpst_jax.config import ConfigError, RunConfig, override_flags
from gpst_jax.config.field_help import describe
from gpst_jax.config.overrides import field_of, with_defaults

# Flags defined through this module are those of the module that calls it, in its `--help` too.
flags.disclaim_key_flags()


class OverrideFlags:
    """The flags for single fields of one configuration.

    Args:
        name: of the configuration's flag.
    """

    def __init__(self, name: str):
        self.name = name
        self._overrides = override_flags.define(name, self._help)

    @property
    def overrides(self) -> list[str]:
        """`section.field=value` of every flag, in the order of the command line."""
        return list(self._overrides.assignments)

    def refuse(self, field: str, reason: str) -> None:
        """Raises UserError if a flag sets the field, or a section that holds it."""
        for key in map(field_of, self.overrides):
            if key == field or field.startswith(f"{key}."):
                raise UserError(f"--{self.name}.{key}: {reason}")

    def _help(self, value: str | None, assignments: list[str]) -> str:
        del value, assignments
        return describe(RunConfig, self.name)


class ConfigFlag(OverrideFlags):
    """A configuration that the command line names, and the flags for its fields.

    Args:
        holder: of the flag that names it.
    """

    def __init__(self, holder: flags.FlagHolder):
        super().__init__(holder.name)
        self._holder = holder

    @property
    def value(self) -> str:
        """The file or module, with its argument: `FILE[:ARGUMENT]`."""
        return cast(str, self._holder.value)

    def load(self, *defaults: str) -> RunConfig:
        """The configuration with the overrides of the command line.

        Args:
            *defaults: further `section.field=value`, for fields that the command line leaves alone.

        Raises:
            UserError: there is no such configuration, or an override is invalid.
        """
        return self._load(self.value, with_defaults(self.overrides, defaults))

    def as_flags(self, *defaults: str) -> list[str]:
        """The same configuration as flags of another program, where it is called `--config`."""
        return [
            f"--config={self.value}",
            *as_flags(with_defaults(self.overrides, defaults)),
        ]

    def _load(self, name: str, assignments: list[str]) -> RunConfig:
        try:
            return load_config(name, self.name).override(assignments)
        except ConfigError as error:
            of = "" if self.name == "config" else f"--{self.name}: "
            raise UserError(f"{of}{error}") from error

    def _help(self, value: str | None, assignments: list[str]) -> str:
        if value is None:
            return super()._help(value, assignments)
        return describe(self._load(value, assignments), self.name)


def DEFINE_config(name: str, default: str | None, help: str, required: bool = False) -> ConfigFlag:
    """Defines `--NAME=FILE[:ARGUMENT]`, `--NAME.section.field=value` and `--NAME.help`.

    Args:
        name: of the flag.
        default: file or module of the configuration without the flag; None for a required one.
        help: the flag's description.
        required: whether the command line must have it.
    """
    more = f"{help} --{name}.section.field=value changes a field, --{name}.help lists them all."
    return ConfigFlag(flags.DEFINE_string(name, default, more, required=required))


def DEFINE_overrides(name: str, help: str) -> OverrideFlags:
    """Defines `--NAME.section.field=value` for a configuration that the command line cannot name.

    Args:
        name: of the flags.
        help: where the configuration comes from.
    """
    more = f"{help}: --{name}.section.field=value changes a field, --{name}.help lists them all."
    flags.DEFINE_string(name, None, more)
    flags.register_validator(
        name, lambda value: value is None, f"names no file here: write --{name}.section.field=value"
    )
    return OverrideFlags(name)


def as_flags(assignments: list[str], name: str = "config") -> list[str]:
    """Flags for single fields, from `section.field=value`."""
    return [f"--{name}.{assignment}" for assignment in assignments]
