"""The vocabulary of a language model over text and speech: one id space, arithmetic only.

    0 .. text_size - 1                 the text tokenizer's ids, unchanged
    text_size .. unit_start - 1        special ids, in the order of SPECIALS
    unit_start .. size - 1             semantic units

So a language model of the text tokenizer grows by exactly `len(SPECIALS) + num_units` rows, and
what it knew of text stays where it was (arXiv 2401.13527, section 3; arXiv 2305.11000).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

# Part of what a trained model means: another list is another vocabulary.
SPECIALS = (
    "speech_start",
    "speech_end",
    "user",  # begins what a person says, after the system prefix
    "input",  # between the instruction and what it is about
    "end_of_turn",  # ends what the person says
    "assistant",  # begins the answer
    "question_transcript",
    "text_answer",
    "speech_answer",
    "end",  # of the sequence
    "padding",
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of text, markers and units.

    Attributes:
        text_size: ids of the text tokenizer.
        num_units: semantic units.
        specials: names of the markers, one id each.
    """

    text_size: int
    num_units: int
    specials: tuple[str, ...] = SPECIALS

    def __post_init__(self) -> None:
        """Raises ValueError for impossible sizes or unknown markers."""
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
        """Id of positions that hold nothing."""
        return self.id("padding")

    @property
    def end(self) -> int:
        """Id that ends every sequence: where generation stops."""
        return self.id("end")

    def id(self, name: str) -> int:
        """Id of a marker; ValueError where there is none of that name."""
        if name not in self.specials:
            raise ValueError(f"no special id is called {name!r}: there are {self.specials}")
        return self.text_size + self.specials.index(name)

    def name(self, token: int) -> str | None:
        """Name of a marker's id, None for every other id."""
        place = token - self.text_size
        return self.specials[place] if 0 <= place < len(self.specials) else None

    def is_text(self, ids: np.ndarray) -> np.ndarray:
        """Which ids (...) are text, bool."""
        ids = np.asarray(ids)
        return (ids >= 0) & (ids < self.text_size)

    def is_unit(self, ids: np.ndarray) -> np.ndarray:
        """Which ids (...) are units, bool."""
        ids = np.asarray(ids)
        return (ids >= self.unit_start) & (ids < self.size)

    def units_to_ids(self, units: np.ndarray) -> np.ndarray:
        """Ids (T,) int32 of units (T,); ValueError where one is out of range."""
        units = np.asarray(units, np.int64)
        if units.size and not (units.min() >= 0 and units.max() < self.num_units):
            raise ValueError(
                f"units {units.min()} to {units.max()} are not all in 0 .. {self.num_units - 1}"
            )
        return (units + self.unit_start).astype(np.int32)

    def ids_to_units(self, ids: np.ndarray) -> np.ndarray:
        """Units (T,) int32 of ids (T,) of units; ValueError where one is none."""
        ids = np.asarray(ids, np.int64)
        if not self.is_unit(ids).all():
            raise ValueError("not all ids are units")
        return (ids - self.unit_start).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self) | {"specials": list(self.specials)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave; ValueError, KeyError or TypeError where it did not."""
        return cls(int(value["text_size"]), int(value["num_units"]), tuple(value["specials"]))
