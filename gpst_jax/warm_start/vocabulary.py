"""A GPST for other tokenizers: rows of ids that mean the same stay, all others are drawn anew."""

from collections.abc import Mapping

import numpy as np

from data_pipeline.tokens import NUM_SPECIALS, TokenLayout

# Path of an array, and its axis whose entries stand for ids.
_AXES: Mapping[str, tuple[str, int]] = {
    "global_net/embed/embedding": ("global", 0),
    "local_net/embed/embedding": ("local", 0),
    "semantic_head/kernel": ("semantic", -1),
    "acoustic_head/kernel": ("classes", -1),
}
_CODEBOOKS = ("acoustic_head/kernel", "local_net/positions/embedding")  # their leading axis
# Regular expressions of all that depends on the vocabularies.
VOCABULARY_ARRAYS = ("^(global_net|local_net)/embed/", "_head/kernel$", "^local_net/positions/")


class VocabularyChange:
    """Maps the arrays of a GPST to another layout; for `warm_start.from_source`.

    Args:
        old: layout that the model was trained with.
        new: layout of the new dataset.
        keep: whether units and codes of the same number mean the same, as when a tokenizer got
            further entries. Otherwise only the special ids keep their rows.
        seed: of the new rows, drawn from the mean and deviation of the old ones.
    """

    def __init__(self, old: TokenLayout, new: TokenLayout, *, keep: bool, seed: int = 0):
        self._old, self._new, self._keep, self._seed = old, new, keep, seed

    def __call__(self, path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array for the new layout; one that does not depend on a layout stays as it is."""
        rng = np.random.default_rng([self._seed, *path.encode()])
        if path in _CODEBOOKS and array.ndim == len(shape) and path not in _AXES:
            array = _moved(array, 0, np.arange(len(array)), np.arange(len(array)), shape[0], rng)
        elif path in _AXES:
            if array.ndim == 3 and array.shape[0] != shape[0]:
                shared = np.arange(min(array.shape[0], shape[0]))
                array = _moved(array, 0, shared, shared, shape[0], rng)
            kind, axis = _AXES[path]
            old, new = self._same(kind)
            array = _moved(array, axis, old, new, shape[axis], rng)
        return array

    def _same(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Old and new positions of what means the same, along an axis of a kind."""
        old, new = self._old, self._new
        units = min(old.num_units, new.num_units) if self._keep else 0
        books = min(old.num_codebooks, new.num_codebooks) if self._keep else 0
        codes = min(old.codebook_size, new.codebook_size) if self._keep else 0
        semantic = np.arange(NUM_SPECIALS + units)
        classes = np.arange(NUM_SPECIALS + codes)
        if kind == "semantic":
            return semantic, semantic
        if kind == "classes":
            return classes, classes

        def local(layout: TokenLayout) -> np.ndarray:
            first = layout.code_offsets()[:books, None]
            return np.concatenate([np.arange(NUM_SPECIALS), (first + np.arange(codes)).ravel()])

        if kind == "local":
            return local(old), local(new)
        return (
            np.concatenate([semantic, old.semantic_vocab + local(old)]),
            np.concatenate([semantic, new.semantic_vocab + local(new)]),
        )


def _moved(
    array: np.ndarray,
    axis: int,
    old: np.ndarray,
    new: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Entries `old` of an axis at the places `new` of one of another size, the rest drawn."""
    rows = np.moveaxis(array, axis, 0)
    fresh = rng.normal(rows.mean(axis=0), rows.std(axis=0), (size, *rows.shape[1:]))
    inside = (old < len(rows)) & (new < size)
    fresh[new[inside]] = rows[old[inside]]
    return np.moveaxis(fresh, 0, axis).astype(array.dtype)
