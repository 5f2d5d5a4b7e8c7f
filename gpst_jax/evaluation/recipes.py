"""Named, versioned recipes of measurement.

A number without its recipe cannot be compared with any other, so results are keyed by recipe id
and a bare "WER" is never printed. Recipes with "smoke" in their name run from pip packages alone,
with models too weak for published numbers: they compare conditions of one experiment.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import hf_models, mos, speaker, wer
from gpst_jax.evaluation.metrics.optional_packages import require, versions


@dataclass(frozen=True)
class Measurement:
    """What is computed from one sound file, shared by the recipes that read its result."""

    id: str
    version: int  # raise it when the value for the same file changes
    sample_rate: int  # Hz, that files are resampled to
    modules: tuple[tuple[str, str], ...]  # (import name, distribution) of the packages it needs
    load: Callable[[], Callable[[np.ndarray], Any]]  # the model; returns wav (N,) -> JSON value
    extra: str = "eval"
    directory_variable: str = ""  # environment variable that names a local directory of weights

    def check(self) -> None:
        """Raises UserError when a package is missing."""
        require(self.id, dict(self.modules), self.extra)

    def key(self) -> str:
        """Identifies values that may stand for each other: id, version, packages, weights."""
        found = versions(dict(self.modules))
        packages = ",".join(f"{name}={version}" for name, version in sorted(found.items()))
        return f"{self.id};v{self.version};{packages};{self.weights() or ''}"

    def weights(self) -> str | None:
        """The local directory that stands in for the published weights, if one is named."""
        return os.environ.get(self.directory_variable) if self.directory_variable else None


@dataclass(frozen=True)
class Recipe:
    """A metric: model, conventions and aggregation, fixed under one id."""

    id: str
    kind: str  # wer | similarity | mos
    model: str
    normalisation: str
    aggregation: str
    measurement: Measurement
    text_kinds: tuple[str, ...] = ()  # wer: transcripts it may score
    normalise: Callable[[str], str] = str  # wer: applied to reference and hypothesis
    output: str = ""  # mos: which score of the measurement

    def describe(self) -> dict[str, Any]:
        """The recipe as a JSON value, with the installed package versions."""
        return {
            "kind": self.kind,
            "model": self.model,
            "version": self.measurement.version,
            "sample_rate": self.measurement.sample_rate,
            "normalisation": self.normalisation,
            "aggregation": self.aggregation,
            "packages": versions(dict(self.measurement.modules)),
            "weights": self.measurement.weights(),
        }


_JIWER = ("jiwer", "jiwer")
_TORCH = (("torch", "torch"), ("transformers", "transformers"))
_CORPUS = "corpus: sum of S+D+I over sum of reference words; a failed file is all deletions"
_COSINE = "mean cosine over items; a failed file scores 0"
_SCORE = "mean over items; a failed file scores 1"
_DNSMOS = Measurement(
    id="dnsmos/speechmos",
    version=1,
    sample_rate=16000,
    modules=(
        ("speechmos", "speechmos"),
        ("librosa", "librosa"),
        ("onnxruntime", "onnxruntime"),
        ("requests", "requests"),
        ("tqdm", "tqdm"),
    ),
    load=mos.load_speechmos,
)
_DNSMOS_INPUT = (
    "windows of 9.01 s every second; a shorter clip is repeated to one window; no level change"
)

_RECIPES = (
    Recipe(
        id="wer/pocketsphinx-digits-smoke",
        kind="wer",
        model="pocketsphinx with its bundled en-us acoustic model and a grammar of digit strings "
        f"(silprob {wer.SILENCE_PROBABILITY}, wip {wer.WORD_INSERTION_PENALTY}, "
        f"{wer.PADDING_SECONDS} s padding, {wer.NOISE_AMPLITUDE:g} fixed noise)",
        normalisation="lower case, no punctuation, numerals spelled, oh = zero",
        aggregation=_CORPUS,
        measurement=Measurement(
            id="transcript/pocketsphinx-digits",
            version=1,
            sample_rate=16000,
            modules=(("pocketsphinx", "pocketsphinx"), _JIWER),
            load=wer.load_pocketsphinx_digits,
        ),
        text_kinds=("digits",),
        normalise=wer.normalise_digits,
    ),
    Recipe(
        id="wer/hubert-large-ls960-ctc",
        kind="wer",
        model="facebook/hubert-large-ls960-ft, greedy CTC, float32, one utterance at a time",
        normalisation="upper case, letters and apostrophes",
        aggregation=_CORPUS,
        measurement=Measurement(
            id="transcript/hubert-large-ls960-ctc",
            version=1,
            sample_rate=16000,
            modules=(*_TORCH, _JIWER),
            load=hf_models.load_hubert_ctc,
            extra="codecs,eval",
            directory_variable=hf_models.HUBERT_CTC_VARIABLE,
        ),
        text_kinds=("digits", "free"),
        normalise=wer.normalise_librispeech,
    ),
    Recipe(
        id="sim-o/resemblyzer-smoke",
        kind="similarity",
        model="Resemblyzer GE2E encoder, 256 numbers",
        normalisation="level raised to -30 dBFS, long silences cut by WebRTC VAD (unless all is)",
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
            load=speaker.load_resemblyzer,
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
            modules=_TORCH,
            load=hf_models.load_wavlm_xvector,
            extra="codecs,eval",
            directory_variable=hf_models.WAVLM_SV_VARIABLE,
        ),
    ),
    Recipe(
        id="dnsmos-p835/speechmos",
        kind="mos",
        model="DNSMOS P.835 (sig_bak_ovr), overall quality; signal and background beside it",
        normalisation=_DNSMOS_INPUT,
        aggregation=_SCORE,
        measurement=_DNSMOS,
        output="ovrl_mos",
    ),
    Recipe(
        id="dnsmos-p808/speechmos",
        kind="mos",
        model="DNSMOS P.808 (model_v8)",
        normalisation=_DNSMOS_INPUT,
        aggregation=_SCORE,
        measurement=_DNSMOS,
        output="p808_mos",
    ),
)
RECIPES = {recipe.id: recipe for recipe in _RECIPES}
OFFLINE = (
    "wer/pocketsphinx-digits-smoke",
    "sim-o/resemblyzer-smoke",
    "dnsmos-p835/speechmos",
    "dnsmos-p808/speechmos",
)


def get_recipe(recipe_id: str) -> Recipe:
    """The recipe of that id.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    if recipe_id not in RECIPES:
        raise UserError(f"no recipe {recipe_id!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[recipe_id]
