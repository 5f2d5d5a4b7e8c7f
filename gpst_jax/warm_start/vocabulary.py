"""GPST with other tokenizers: rows of unchanged ids are kept, the others newly initialised."""

from collections.abc import Mapping

import numpy as np

from data_pipeline.tokens import NUM_SPECIALS, TokenLayout

# Path of an array: vocabulary, and the axis that runs over its ids.
_AXES: Mapping[str, tuple[str, int]] = {
    "global_net/embed/embedding": ("global", 0),
    "local_net/embed/embedding": ("local", 0),
    "semantic_head/kernel": ("semantic", -1),
    "acoustic_head/kernel": ("classes", -1),
}
# Arrays with a leading codebook axis.
_CODEBOOKS = ("acoustic_head/kernel", "local_net/positions/embedding")
# Regular expressions of all arrays that depend on the vocabularies.
VOCABULARY_ARRAYS = ("^(global_net|local_net)/embed/", "_head/kernel$", "^local_net/positions/")


class VocabularyChange:
    """Maps the arrays of GPST to another token layout; a `replace` for `arrays.from_source`.

    Args:
        old: layout that the model was trained with.
        new: layout of the new dataset.
        keep: whether units and codes keep their meaning, as when a tokenizer grew. Otherwise only
            the special ids keep their rows.
        seed: of the new rows, sampled with the mean and standard deviation of the old ones.
    """

    def __init__(self, old: TokenLayout, new: TokenLayout, *, keep: bool, seed: int = 0):
        self._old, self._new, self._keep, self._seed = old, new, keep, seed

    def __call__(self, path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array for the new layout; arrays that do not depend on it are unchanged."""
        rng = np.random.default_rng([self._seed, *path.encode()])
        if path in _CODEBOOKS and array.ndim == len(shape) and path not in _AXES:
            array = _resized(array, 0, np.arange(len(array)), np.arange(len(array)), shape[0], rng)
        elif path in _AXES:
            if array.ndim == 3 and array.shape[0] != shape[0]:
                shared = np.arange(min(array.shape[0], shape[0]))
                array = _resized(array, 0, shared, shared, shape[0], rng)
            vocabulary, axis = _AXES[path]
            old, new = self._kept(vocabulary)
            array = _resized(array, axis, old, new, shape[axis], rng)
        return array

    def _kept(self, vocabulary: str) -> tuple[np.ndarray, np.ndarray]:
        """Old and new indices of the kept ids, along the axis of a vocabulary."""
        old, new = self._old, self._new
        units = min(old.num_units, new.num_units) if self._keep else 0
        books = min(old.num_codebooks, new.num_codebooks) if self._keep else 0
        codes = min(old.codebook_size, new.codebook_size) if self._keep else 0
        semantic = np.arange(NUM_SPECIALS + units)
        classes = np.arange(NUM_SPECIALS + codes)
        if vocabulary == "semantic":
            return semantic, semantic
        if vocabulary == "classes":
            return classes, classes

        def local(layout: TokenLayout) -> np.ndarray:
            first = layout.code_offsets()[:books, None]
            return np.concatenate([np.arange(NUM_SPECIALS), (first + np.arange(codes)).ravel()])

        if vocabulary == "local":
            return local(old), local(new)
        return (
            np.concatenate([semantic, old.semantic_vocab + local(old)]),
            np.concatenate([semantic, new.semantic_vocab + local(new)]),
        )


def _resized(
    array: np.ndarray,
    axis: int,
    old: np.ndarray,
    new: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Copies entries `old` of an axis to indices `new` of a resized one; samples the others."""
    rows = np.moveaxis(array, axis, 0)
    fresh = rng.normal(rows.mean(axis=0), rows.std(axis=0), (size, *rows.shape[1:]))
    inside = (old < len(rows)) & (new < size)
    fresh[new[inside]] = rows[old[inside]]
    return np.moveaxis(fresh, 0, axis).astype(array.dtype)
