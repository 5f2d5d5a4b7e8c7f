"""The convention of seed-tts-eval (arXiv 2406.02430, BytedanceSpeech/seed-tts-eval) for English.

Whisper large-v3, greedy, told that it hears English, without the rules by which our other recipes
of Whisper leave text out; punctuation but the straight apostrophe dropped from both texts and not
replaced by spaces, lower case, numbers as they are; the word error rate of each sentence, and the
mean of these. Where the published script leaves out a file that is missing, it is all deletions
here. The corpus rate stands beside the mean.
"""

import functools
import string
from collections.abc import Callable
from typing import Any

import numpy as np

from gpst_jax.evaluation.transcripts import whisper, whisper_recipes
from gpst_jax.evaluation.transcripts.alignment import MEAN
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe

MODEL = "large-v3"
COMPUTE_TYPE = "float32"
# Chinese punctuation, as code points in ranges: the published script drops it from English as well.
_CHINESE = (
    (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64), (0x3000, 0x3003),
    (0x3008, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0x2013, 0x2014),
    (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0xFE4F, 0xFE4F), (0xFE51, 0xFE51),
    (0xFE54, 0xFE54), (0x00B7, 0x00B7),
)  # fmt: skip
_KEPT = ("'", "\uff0e")  # the full-width full stop is in neither of its lists
_DROPPED = {ord(c): None for c in string.punctuation} | {
    code: None for first, last in _CHINESE for code in range(first, last + 1)
}
for _character in _KEPT:
    _DROPPED.pop(ord(_character), None)


def without_punctuation(text: str) -> str:
    """The text without punctuation but the straight apostrophe, with single spaces."""
    return " ".join(text.translate(_DROPPED).split())


def english(text: str) -> str:
    """Both texts of the English test: no punctuation, lower case, numbers as they are."""
    return without_punctuation(text).lower()


def load(model: str) -> Callable[[np.ndarray], str]:
    """The recogniser: wav (N,) float32 at 16 kHz -> text, of windows of 30 s.

    Raises:
        UserError: the weights are nowhere, or do not load.
    """
    recogniser: Any = whisper.open_model(model, COMPUTE_TYPE)

    def transcribe(wav: np.ndarray) -> str:
        segments, _ = recogniser.transcribe(
            np.clip(wav, -1, 1).astype(np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
            without_timestamps=True,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()

    return transcribe


def recipe() -> TranscriptRecipe:
    """`wer/seed-tts-en`."""
    return TranscriptRecipe(
        id="wer/seed-tts-en",
        kind="wer",
        model=f"Whisper {MODEL} (Systran/faster-whisper-{MODEL}, MIT) through CTranslate2, "
        f"{COMPUTE_TYPE}, one thread; language English, beam 1, temperature 0, no timestamps, no "
        "previous text, nothing left out",
        normalisation="punctuation but the straight apostrophe dropped, lower case, numbers as "
        "they are",
        aggregation="mean over sentences of (S+D+I) / reference words, the corpus rate beside it; "
        "a failed file is all deletions",
        measurement=whisper_recipes.WhisperMeasurement(
            id="transcript/seed-tts-en",
            version=1,
            sample_rate=whisper.SAMPLE_RATE,
            modules=tuple(m for m in whisper_recipes.MODULES if m[0] != "whisper_normalizer"),
            load=functools.partial(load, MODEL),
            extra="eval,whisper",
            name=MODEL,
        ),
        text_kinds=("digits", "free"),
        normalise=english,
        aggregate=MEAN,
    )
