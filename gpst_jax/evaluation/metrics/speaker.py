"""Speaker similarity: embeddings of voices and cosines between them.

SIM-o compares with the original recording of the prompt, never with its codec reconstruction.
A generated sound that is missing or cannot be decoded scores 0; it is never left out.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import statistics


def load_resemblyzer() -> Callable[[np.ndarray], list[float]]:
    """A voice encoder: wav (N,) float32 at 16 kHz -> 256 numbers of unit length."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        # The encoder calls torch.load without arguments; from 2.6 that loads tensors only.
        raise UserError(
            f"torch {torch.__version__} would unpickle the weights in the Resemblyzer wheel; "
            "install torch 2.6 or newer"
        )
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports an old name of scipy's
        from resemblyzer import VoiceEncoder, preprocess_wav
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wav: np.ndarray) -> list[float]:
        voiced = preprocess_wav(wav)
        # The voice detector may find no speech at all; then the whole clip is embedded.
        embedding = encoder.embed_utterance(voiced if len(voiced) else wav)
        return [float(value) for value in embedding]

    return embed


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of the angle between two embeddings; 0 when one of them has no length."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm else 0.0


def mean_embeddings(
    labelled: Iterable[tuple[str, Sequence[float]]],
) -> dict[str, np.ndarray]:
    """Mean of the embeddings of each speaker, from (speaker, embedding) of original recordings."""
    groups: dict[str, list[Sequence[float]]] = {}
    for speaker, embedding in labelled:
        groups.setdefault(speaker, []).append(embedding)
    return {speaker: np.mean(group, axis=0) for speaker, group in groups.items()}


def clearly_different(
    means: Mapping[str, np.ndarray], a: str | None, b: str | None, threshold: float
) -> bool:
    """Whether two known speakers' mean embeddings have a cosine below the threshold."""
    if a is None or b is None or a == b or a not in means or b not in means:
        return False
    return cosine(means[a], means[b]) < threshold


def summarise(
    values: Sequence[float],
    speakers: Sequence[str],
    *,
    reference: str,
    failed: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Mean cosine of a condition with its interval; `reference` says what it compares with."""
    if not values:
        return statistics.not_available(f"no samples with {reference}")
    estimate = statistics.mean(values, resamples=resamples, seed=seed)
    by_speaker = statistics.mean(values, clusters=speakers, resamples=resamples, seed=seed)
    return {
        "value": estimate.value,
        "ci95": estimate.ci95,
        "ci95_speakers": by_speaker.ci95,
        "n": len(values),
        "speakers": len(set(speakers)),
        "reference": reference,
        "failed": failed,
    }
