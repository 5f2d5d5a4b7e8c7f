"""The columns of a dataset that hold audio, transcripts, speakers and languages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.hf_datasets.files import import_datasets
from data_pipeline.sources.hf_datasets.rows import import_pyarrow
from data_pipeline.sources.tables import NAMES, normalized

_FOUND = ("text", "speaker", "language")  # without being named


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes:
        audio: encoded audio: bytes, or structs with `bytes` and `path`.
        named: columns in order of preference, by what they hold: text, speaker, language, id.
        labels: the names that numbers of a column stand for (ClassLabel).
    """

    audio: str
    named: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]

    @classmethod
    def find(cls, path: str, schema: Any, audio: str, given: Mapping[str, str]) -> "Columns":
        """Finds the columns.

        Args:
            path: for messages.
            schema: of the file.
            audio: the column of audio, or empty.
            given: columns by what they hold, empty where they are not named.

        Raises:
            UserError: a column is missing, of another kind, or not clear.
        """
        features = _features(path, schema)
        for option, column in {"audio": audio, **given}.items():
            if column and column not in schema.names:
                option = "language_column" if option == "language" else option
                raise UserError(
                    f"{path}: no column {column!r} ({option}=), it has {', '.join(schema.names)}"
                )
        named: dict[str, tuple[str, ...]] = {}
        written = {normalized(name): name for name in reversed(schema.names)}
        for what, column in given.items():
            aliases = NAMES[what] if what in _FOUND else ()
            found = (
                (column,)
                if column
                else tuple(written[alias] for alias in aliases if alias in written)
            )
            if found:
                named[what] = found
        labels = {
            name: tuple(feature.names)
            for name, feature in features.items()
            if type(feature).__name__ == "ClassLabel" and feature.names
        }
        return cls(_audio(path, schema, features, audio), named, labels)

    @property
    def others(self) -> tuple[str, ...]:
        """All columns but the audio."""
        return tuple(dict.fromkeys(name for names in self.named.values() for name in names))

    def has(self, what: str) -> bool:
        """Whether a column holds this."""
        return what in self.named

    def value(self, row: Mapping[str, Any], what: str) -> str:
        """The first value that is not empty, as text; "" without one.

        Raises:
            ValueError: it is neither text nor number.
        """
        for name in self.named.get(what, ()):
            text = self._text(name, row[name])
            if text:
                return text
        return ""

    def _text(self, name: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{name} is a {type(value).__name__}, not a text or number")
        if name in self.labels and isinstance(value, int):
            names = self.labels[name]
            return names[value] if 0 <= value < len(names) else ""  # -1 is datasets' none
        if isinstance(value, float):
            # A column of whole numbers with gaps is one of floats.
            return "" if value != value else str(int(value) if value.is_integer() else value)
        return str(value).strip()


def _features(path: str, schema: Any) -> Mapping[str, Any]:
    datasets = import_datasets()
    try:
        return datasets.Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its features cannot be read: {error}") from error


def _audio(path: str, schema: Any, features: Mapping[str, Any], given: str) -> str:
    """The column of audio."""
    found = (
        [given]
        if given
        else [name for name, feature in features.items() if type(feature).__name__ == "Audio"]
    )
    if not found:
        found = [field.name for field in schema if _holds_audio(field.type)]
    if len(found) != 1:
        held = ", ".join(found) or f"none of {', '.join(schema.names)}"
        raise UserError(f"{path}: one column of audio is needed, found {held}: name it as ?audio=")
    if not _holds_audio(schema.field(found[0]).type, of_bytes=True):
        raise UserError(
            f"{path}: column {found[0]!r} is {schema.field(found[0]).type}, not encoded audio "
            "(bytes, or a struct of bytes and path): cast it with "
            "cast_column(NAME, Audio(decode=False))"
        )
    return found[0]


def _holds_audio(kind: Any, of_bytes: bool = False) -> bool:
    """Whether a type is a struct of bytes and path, or, if `of_bytes`, plain bytes."""
    types = import_pyarrow().types
    if types.is_struct(kind):
        inner = {kind.field(number).name for number in range(kind.num_fields)}
        return {"bytes", "path"} <= inner
    return of_bytes and (types.is_binary(kind) or types.is_large_binary(kind))
