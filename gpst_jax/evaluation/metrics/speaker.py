"""Speaker similarity: cosines between embeddings of a speaker encoder.

SIM-o compares with the original recording of the prompt, never with its codec reconstruction.
A generated file that is missing or cannot be decoded scores 0; it is never left out.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.comparisons import CEILINGS
from gpst_jax.evaluation.metrics import hf_models, statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Row, Scores, setting
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.samples.manifest import UNSEEN, Sample, similarity_reference, voice_files

# The embedding of a file, or None where there is none.
Embed = Callable[[Path | None], list[float] | None]


def load_resemblyzer() -> Callable[[np.ndarray], list[float]]:
    """A speaker encoder: wav (N,) float32 at 16 kHz -> unit-norm embedding (256,)."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        # The encoder calls torch.load without arguments; from 2.6 that loads tensors only.
        raise UserError(
            f"torch {torch.__version__} would unpickle the weights in the Resemblyzer wheel; "
            "install torch 2.6 or newer"
        )
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports a deprecated scipy name
        from resemblyzer import VoiceEncoder, preprocess_wav
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wav: np.ndarray) -> list[float]:
        voiced = preprocess_wav(wav)
        # Voice activity detection may keep nothing; then the unprocessed clip is embedded.
        embedding = encoder.embed_utterance(voiced if len(voiced) else wav)
        return [float(value) for value in embedding]

    return embed


_COSINE = "mean cosine over items; a failed file scores 0"
RECIPES: dict[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        Recipe(
            id="sim-o/resemblyzer-smoke",
            kind="similarity",
            model="Resemblyzer GE2E encoder, 256 numbers",
            normalisation="level raised to -30 dBFS, long silences cut by WebRTC VAD "
            "(unless all is)",
            aggregation=_COSINE,
            measurement=Measurement(
                id="embedding/resemblyzer",
                version=1,
                sample_rate=16000,
                modules=(
                    ("resemblyzer", "Resemblyzer"),
                    ("webrtcvad", "webrtcvad-wheels"),
                    ("librosa", "librosa"),
                    ("torch", "torch"),
                ),
                load=load_resemblyzer,
            ),
        ),
        Recipe(
            id="sim-o/wavlm-base-plus-sv",
            kind="similarity",
            model="microsoft/wavlm-base-plus-sv x-vector, float32, one utterance at a time",
            normalisation="zero mean and unit variance where the model's own configuration says so",
            aggregation=_COSINE,
            measurement=Measurement(
                id="embedding/wavlm-base-plus-sv",
                version=1,
                sample_rate=16000,
                modules=hf_models.MODULES,
                load=hf_models.load_wavlm_xvector,
                extra="codecs,eval",
                directory_variable=hf_models.WAVLM_SV_VARIABLE,
            ),
        ),
    )
}


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine similarity of two embeddings; 0 when one of them is zero."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm else 0.0


def is_transfer(sample: Sample) -> bool:
    """Whether the prompt is of another speaker than the source."""
    return sample.prompt_speaker not in (None, sample.speaker)


def summarise(
    values: Sequence[float],
    speakers: Sequence[str],
    *,
    reference: str,
    failed: int,
    resamples: int,
    seed: int,
) -> Row:
    """Mean cosine of a condition with its interval; `reference` names what it compares with."""
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


def another_speaker(samples: Sequence[Sample], embed: Embed, *, resamples: int, seed: int) -> Row:
    """Similarity of original recordings of different speakers.

    Prompt against source recording where samples have both; otherwise each source recording (or
    sample) against the next one of another speaker.
    """
    pairs: list[tuple[str, Path | None, Path | None]]
    pairs = [(s.speaker, s.prompt_audio, s.source_audio) for s in samples if is_transfer(s)]
    reference = "prompt_audio against source_audio of another speaker"
    values, speakers = _cosines(pairs, embed)
    if not values:
        reference = "recordings of different speakers"
        values, speakers = _cosines(_following(samples), embed)
    return summarise(
        values, speakers, reference=reference, failed=0, resamples=resamples, seed=seed
    )


def _following(samples: Sequence[Sample]) -> list[tuple[str, Path | None, Path | None]]:
    """Each original recording with the next one, cyclically, of another speaker."""
    originals = [(s.speaker, s.source_audio or s.audio) for s in samples]
    pairs: list[tuple[str, Path | None, Path | None]] = []
    for i, (name, path) in enumerate(originals):
        others = (p for other, p in originals[i + 1 :] + originals[:i] if other != name)
        if (other := next(others, None)) is not None:
            pairs.append((name, path, other))
    return pairs


def _cosines(
    pairs: Sequence[tuple[str, Path | None, Path | None]], embed: Embed
) -> tuple[list[float], list[str]]:
    """Cosines of the pairs (speaker, file, file) of which both have embeddings; speakers."""
    values, speakers = [], []
    for name, *paths in pairs:
        a, b = (embed(path) for path in paths)
        if a is not None and b is not None:
            values.append(cosine(a, b))
            speakers.append(name)
    return values, speakers


@dataclass(frozen=True)
class Embeddings(Metric):
    """Base of the kinds that compare speaker embeddings."""

    prefix: ClassVar[str] = "sim-o/"
    recipes: ClassVar[dict[str, Recipe]] = RECIPES

    similarity: str = setting(
        "sim-o/resemblyzer-smoke",
        "Recipe of the speaker similarity. GPST_WAVLM_SV in the environment names a local model.",
        tuple(RECIPES),
    )
    similarity_items: int = setting(100, "Items for similarity per condition; 0: none.")

    def selected(self) -> list[Recipe]:
        """The speaker encoder."""
        return [self.recipe(self.similarity)]

    def embed(self, inputs: Inputs) -> tuple[dict[str, list[Sample]], Embed]:
        """The samples to compare, by condition, and the embeddings of their files."""
        chosen = inputs.first(self.similarity_items)
        files = [path for samples in chosen.values() for s in samples for path in voice_files(s)]
        outcomes = inputs.measure(self.recipe(self.similarity).measurement, files)
        return chosen, lambda path: outcomes[path].value if path in outcomes else None


@dataclass(frozen=True)
class Similarity(Embeddings):
    """Mean cosine with the original recording of the prompt, or else of the source."""

    kind: ClassVar[str] = "similarity"
    item_fields: ClassVar[tuple[str, ...]] = ("similarity",)
    floor_names: ClassVar[Mapping[str, str]] = {"another_speaker": "another speaker"}

    def score(self, inputs: Inputs) -> Scores:
        """Similarities of all conditions; recordings of another speaker are the floor."""
        scores = Scores()
        if not self.similarity_items:
            return scores
        chosen, embed = self.embed(inputs)
        for name, samples in chosen.items():
            row, values = self._condition(samples, embed, inputs)
            scores.rows[name, self.similarity] = row
            scores.values[self.similarity, name] = values
            scores.items |= {(name, id_): {"similarity": value} for id_, value in values.items()}
        for suffix in ("", UNSEEN):
            prompted = ("speaker_transfer", "voice_conversion", *CEILINGS)
            usable = [base + suffix for base in prompted if base + suffix in chosen]
            if usable:
                row = another_speaker(chosen[usable[0]], embed, **inputs.bootstrap)
                scores.floors.append(Floor(f"another_speaker{suffix}", self.similarity, row))
        return scores

    @staticmethod
    def _condition(
        samples: list[Sample], embed: Embed, inputs: Inputs
    ) -> tuple[Row, dict[str, float]]:
        """The row of a condition and the cosines of its items."""
        values: dict[str, float] = {}
        speakers, against, failed, unusable = [], set(), 0, 0
        for sample in samples:
            path, reference_kind = similarity_reference(sample, samples)
            if path is None:
                continue
            reference, generated = embed(path), embed(sample.audio)
            if reference is None:
                unusable += 1  # without the original there is nothing to compare with
                continue
            failed += generated is None
            values[sample.id] = 0.0 if generated is None else cosine(generated, reference)
            speakers.append(sample.prompt_speaker or sample.speaker)
            against.add(reference_kind)
        row = summarise(
            list(values.values()),
            speakers,
            reference=" or ".join(sorted(against)) or "a prompt or source recording",
            failed=failed,
            **inputs.bootstrap,
        )
        return row | ({"unusable_references": unusable} if unusable else {}), values
