"""Vocabulary of a language model over text and speech: one id space, arithmetic only.

    0 .. text_size - 1                 the text tokenizer's ids, unchanged
    text_size .. unit_start - 1        special ids, in the order of SPECIALS
    unit_start .. size - 1             semantic units

The embedding of a text language model is thus extended by exactly `len(SPECIALS) + num_units` rows,
and its text rows keep their ids (arXiv 2401.13527, section 3; arXiv 2305.11000).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

# Trained models depend on this list and its order: another list is another vocabulary.
SPECIALS = (
    "speech_start",
    "speech_end",
    "user",  # start of a user turn, after the system prompt
    "input",  # between an instruction and its input
    "end_of_turn",  # end of the user turn
    "assistant",  # start of the answer
    "question_transcript",
    "text_answer",
    "speech_answer",
    "end",  # end of the sequence
    "padding",
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of text, special tokens and units.

    Attributes:
        text_size: number of ids of the text tokenizer.
        num_units: number of semantic units.
        specials: names of the special tokens, one id each.
    """

    text_size: int
    num_units: int
    specials: tuple[str, ...] = SPECIALS

    def __post_init__(self) -> None:
        """Raises ValueError for invalid sizes or other special tokens."""
        if self.text_size < 1 or self.num_units < 1:
            raise ValueError(
                f"text_size {self.text_size} and num_units {self.num_units} must be positive"
            )
        if self.specials != SPECIALS:
            raise ValueError(f"special ids {self.specials} are not those of this code, {SPECIALS}")

    @property
    def unit_start(self) -> int:
        """Id of unit 0."""
        return self.text_size + len(self.specials)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.unit_start + self.num_units

    @property
    def padding(self) -> int:
        """Id of padding positions."""
        return self.id("padding")

    @property
    def end(self) -> int:
        """Id that ends every sequence: where generation stops."""
        return self.id("end")

    def id(self, name: str) -> int:
        """Id of a special token; ValueError if there is none of that name."""
        if name not in self.specials:
            raise ValueError(f"no special id is called {name!r}: there are {self.specials}")
        return self.text_size + self.specials.index(name)

    def name(self, token: int) -> str | None:
        """Name of a special token's id, None for every other id."""
        index = token - self.text_size
        return self.specials[index] if 0 <= index < len(self.specials) else None

    def is_text(self, ids: np.ndarray) -> np.ndarray:
        """Mask (...) bool of the ids that are text."""
        ids = np.asarray(ids)
        return (ids >= 0) & (ids < self.text_size)

    def is_unit(self, ids: np.ndarray) -> np.ndarray:
        """Mask (...) bool of the ids that are units."""
        ids = np.asarray(ids)
        return (ids >= self.unit_start) & (ids < self.size)

    def units_to_ids(self, units: np.ndarray) -> np.ndarray:
        """Ids (T,) int32 of units (T,); ValueError if a unit is out of range."""
        units = np.asarray(units, np.int64)
        if units.size and not (units.min() >= 0 and units.max() < self.num_units):
            raise ValueError(
                f"units {units.min()} to {units.max()} are not all in 0 .. {self.num_units - 1}"
            )
        return (units + self.unit_start).astype(np.int32)

    def ids_to_units(self, ids: np.ndarray) -> np.ndarray:
        """Inverse of `units_to_ids`; ValueError if an id is not a unit."""
        ids = np.asarray(ids, np.int64)
        if not self.is_unit(ids).all():
            raise ValueError("not all ids are units")
        return (ids - self.unit_start).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self) | {"specials": list(self.specials)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; ValueError, KeyError or TypeError for anything else."""
        return cls(int(value["text_size"]), int(value["num_units"]), tuple(value["specials"]))
