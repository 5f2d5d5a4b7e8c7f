"""The convention of seed-tts-eval (arXiv 2406.02430) for Chinese: characters, by Paraformer.

Paraformer (arXiv 2206.08317) runs through sherpa-onnx (Apache License 2.0), which reads the model
as ONNX: no pickle, no code from a hub. `GPST_PARAFORMER` names a directory with a model in ONNX
(plain or int8) and its tokens, as the project sherpa-onnx hands them out for Paraformer;
nothing is downloaded. The published script turns traditional characters of the recognised text into
simplified ones; that is not done here, since this Paraformer writes simplified ones.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics.recipe import Measurement
from gpst_jax.evaluation.transcripts.alignment import MEAN
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.evaluation.transcripts.seed_tts import without_punctuation

VARIABLE = "GPST_PARAFORMER"
_MODELS = ("model.onnx", "model.int8.onnx")
_TOKENS = "tokens.txt"


@dataclass(frozen=True)
class ParaformerMeasurement(Measurement):
    """Transcripts of the model in the directory that is named."""

    def check(self) -> None:
        """Raises UserError when the package or the model is missing."""
        super().check()
        files()


def files() -> tuple[Path, Path]:
    """The model and its tokens; raises UserError where they are not."""
    named = os.environ.get(VARIABLE, "")
    for model in _MODELS:
        found = Path(named, model), Path(named, _TOKENS)
        if named and all(path.is_file() for path in found):
            return found
    raise UserError(
        f"{VARIABLE}={named}: name a directory with {' or '.join(_MODELS)} and {_TOKENS} of "
        "Paraformer for sherpa-onnx, such as sherpa-onnx-paraformer-zh-2023-09-14"
    )


def characters(text: str) -> str:
    """Every character a word, without punctuation; Latin letters in lower case."""
    return " ".join(without_punctuation(text).lower().replace(" ", ""))


def load() -> Callable[[np.ndarray], str]:
    """The recogniser: wav (N,) float32 at 16 kHz -> text."""
    import sherpa_onnx

    model, tokens = files()
    recogniser = sherpa_onnx.OfflineRecognizer.from_paraformer(
        paraformer=str(model), tokens=str(tokens), num_threads=1, provider="cpu"
    )

    def transcribe(wav: np.ndarray) -> str:
        stream = recogniser.create_stream()
        stream.accept_waveform(16000, np.ascontiguousarray(wav, np.float32))
        recogniser.decode_stream(stream)
        return stream.result.text.strip()

    return transcribe


def recipe() -> TranscriptRecipe:
    """`cer/seed-tts-zh`."""
    return TranscriptRecipe(
        id="cer/seed-tts-zh",
        kind="wer",
        model="Paraformer for Chinese through sherpa-onnx, greedy, one thread",
        normalisation="punctuation dropped, every character a word, Latin letters in lower case",
        aggregation="mean over sentences of (S+D+I) / reference characters, the corpus rate beside "
        "it; a failed file is all deletions",
        measurement=ParaformerMeasurement(
            id="transcript/seed-tts-zh",
            version=1,
            sample_rate=16000,
            modules=(("sherpa_onnx", "sherpa-onnx"), ("jiwer", "jiwer")),
            load=load,
            extra="",
            directory_variable=VARIABLE,
        ),
        text_kinds=("free",),
        normalise=characters,
        languages=("zh", "cmn", "chinese"),
        script="CJK",
        scores="Chinese",
        unit="characters",
        aggregate=MEAN,
    )
