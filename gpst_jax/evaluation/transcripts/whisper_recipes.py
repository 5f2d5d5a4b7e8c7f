"""The recipes of Whisper: `wer/whisper-MODEL-NORMALISER` and `cer/whisper-MODEL-basic`, or `-self`.

`english` is Whisper's English normaliser, for English alone; `basic` scores the other languages of
Whisper as well: in words (`wer/`) those that are written with spaces between words, in characters
(`cer/`) those that are not. Digit strings are compared digit by digit, since Whisper writes "three
four" as "34", "3, 4" or in words. With `-self` the reference is what the same recogniser hears in
the recording that a sample renders, for speech without transcripts.
"""

import functools
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.runtime.contents import file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256
from data_pipeline.tokenizers import whisper_weights
from gpst_jax.evaluation.metrics.optional_packages import versions
from gpst_jax.evaluation.metrics.recipe import Measurement
from gpst_jax.evaluation.transcripts import normalisers, whisper
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.texts import (
    ENGLISH,
    UNSPACED,
    digit_words,
    language_code,
    language_name,
    normalise_digits,
    unspaced_script,
)

MODELS = ("tiny.en", "base", "base.en", "small", "small.en", "large-v3")
MODULES = (
    ("faster_whisper", "faster-whisper"),
    ("ctranslate2", "ctranslate2"),
    ("whisper_normalizer", "whisper-normalizer"),
    ("jiwer", "jiwer"),
)
# What is scored where nothing is chosen, in the order of preference.
DEFAULTS = ("base", "tiny.en")
_CODES = {"eng": "en", "english": "en", "cmn": "zh", "iw": "he", "nb": "no"}
# Languages of Whisper's multilingual models.
LANGUAGES = (
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy",
    "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw",
    "he", "hi", "hr", "ht", "hu", "hy", "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn",
    "ko", "la", "lb", "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt",
    "my", "ne", "nl", "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si",
    "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl",
    "tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "yue", "zh",
)  # fmt: skip


@dataclass(frozen=True)
class WhisperMeasurement(Measurement):
    """Transcripts of one model in one language."""

    name: str = ""  # of the weights

    def check(self) -> None:
        """Raises UserError when a package or the weights are missing; may fetch the weights."""
        super().check()
        whisper_weights.find(self.name)

    def key(self) -> str:
        """Values of equal id, version, packages and weights are interchangeable."""
        installed = versions(dict(self.modules))
        packages = ",".join(f"{name}={version}" for name, version in sorted(installed.items()))
        weights = whisper_weights.find(self.name) / whisper_weights.WEIGHTS
        return f"{self.id};v{self.version};{packages};{_sha256(weights)}"

    def weights(self) -> str | None:
        """Where the weights come from; None where they are not on this machine."""
        try:
            directory = whisper_weights.find(self.name, download=False)
        except UserError:
            return None
        if os.environ.get(whisper_weights.VARIABLE):
            return f"directory {directory}"
        if directory.parent.name == "snapshots":
            repository = directory.parents[1].name.removeprefix("models--").replace("--", "/")
            return f"hub {repository}, revision {directory.name}"
        modules = [module for module, *_ in whisper_weights.PACKAGES[self.name].parts]
        return "package " + ", ".join(map(_distribution, modules))

    def describe_weights(self) -> dict[str, Any]:
        """Where the weights come from, and the SHA-256 of their file."""
        described = super().describe_weights()
        if described["weights"] is None:
            return described
        directory = whisper_weights.find(self.name, download=False)
        return described | {"weights_sha256": _sha256(directory / whisper_weights.WEIGHTS)}


@dataclass(frozen=True)
class WhisperRecipe(TranscriptRecipe):
    """One of Whisper's models with one of its normalisers."""

    name: str = ""  # of the weights
    english_only: bool = True
    unspaced: bool = False  # for languages without spaces between words

    def refuses(self, sample: Sample) -> str | None:
        """What a transcript is in, if the recipe does not score it."""
        if self.english_only:
            return super().refuses(sample)
        code = _code(sample)
        if code is not None:
            return None if code in self.languages else language_name(code)
        script = unspaced_script(sample.text or "")
        if self.unspaced:
            return None if script or not sample.text else "a script with spaces between words"
        return script

    def measurement_of(self, sample: Sample) -> Measurement:
        """The recogniser in the sample's language; in English, or detected, where it is unknown."""
        return _measurement(self.name, "en" if self.english_only else _code(sample))

    def reference(self, text: str, text_kind: str) -> str:
        """A reference, digit by digit where it is a digit string."""
        return normalise_digits(text) if text_kind == "digits" else self.normalise(text)

    def hypothesis(self, text: str, text_kind: str) -> str:
        """A recognised text; digit by digit where a digit string was spoken."""
        return digit_words(text) if text_kind == "digits" else self.normalise(text)


def _code(sample: Sample) -> str | None:
    code = language_code(sample.language)
    return None if code is None else _CODES.get(code, code)


def _measurement(name: str, language: str | None) -> WhisperMeasurement:
    return WhisperMeasurement(
        id=f"transcript/whisper-{name}/{language or 'detected'}",
        version=1,
        sample_rate=whisper.SAMPLE_RATE,
        modules=MODULES,
        load=functools.partial(whisper.load, name, language),
        extra="eval,whisper",
        name=name,
    )


def _recipe(name: str, rules: str, by_recording: bool) -> WhisperRecipe:
    """One recipe; `rules` are `english`, `basic`, or `characters` for basic in characters."""
    english = rules == "english"
    unspaced = rules == "characters"
    spaced = tuple(code for code in LANGUAGES if code not in UNSPACED)
    unit = "characters" if unspaced else "words"
    language = "English" if english else "of the sample, detected where it is not known"
    reference = "transcript of the recording by the same recogniser" if by_recording else "text"
    return WhisperRecipe(
        id=f"{'cer' if unspaced else 'wer'}/whisper-{name}-{'english' if english else 'basic'}"
        + ("-self" if by_recording else ""),
        kind="wer",
        model=f"Whisper {name} (Systran/faster-whisper-{name}, MIT): {whisper.DECODING}; language: "
        f"{language}. {whisper.RULES}",
        normalisation=f"Whisper's {'English' if english else 'basic'} normaliser"
        + (", every character a word" if unspaced else "")
        + "; digit strings digit by digit on both sides, oh = zero, other words as they are",
        aggregation=f"corpus: sum of S+D+I over sum of reference {unit}; a failed file is all "
        f"deletions; reference: {reference}",
        measurement=_measurement(name, "en" if english else None),
        text_kinds=("digits", "free"),
        normalise={
            "english": normalisers.english,
            "basic": normalisers.basic,
            "characters": normalisers.characters,
        }[rules],
        languages=ENGLISH if english else UNSPACED if unspaced else spaced,
        scores={
            "english": "English",
            "basic": "languages of Whisper that put spaces between words",
            "characters": "languages of Whisper that put no spaces between words",
        }[rules],
        by_recording=by_recording,
        unit=unit,
        name=name,
        english_only=english,
        unspaced=unspaced,
    )


def recipes() -> list[TranscriptRecipe]:
    """All of them: the English models take the English normaliser only."""
    return [
        _recipe(name, rules, by_recording)
        for rules in ("english", "basic", "characters")
        for name in MODELS
        if rules == "english" or not name.endswith(".en")
        for by_recording in (False, True)
    ]


def at_hand() -> tuple[str | None, str]:
    """The recipe that is scored where none is chosen, and why there is none.

    Nothing is downloaded. Returns an id and an empty text, or None and one line of what was left
    out and how to get it.
    """
    left_out = "word errors of free text, by Whisper, are left out: "
    missing = [dist for module, dist in MODULES if importlib.util.find_spec(module) is None]
    if missing:
        return None, left_out + (
            f"{', '.join(missing)} not installed; pip install 'gpst_jax[eval,whisper]'"
        )
    for name in DEFAULTS:
        try:
            whisper_weights.find(name, download=False)
        except UserError:
            continue
        return f"wer/whisper-{name}-english", ""
    return None, left_out + (
        f"no weights of {' or '.join(DEFAULTS)} on this machine; name their directory with "
        f"{whisper_weights.VARIABLE}, or fetch them from the hub: --wer=wer/"
        f"pocketsphinx-digits-smoke,wer/whisper-{DEFAULTS[0]}-english"
    )


def _sha256(path: Path) -> str:
    return _known_sha256(str(path), file_state(path))


@functools.lru_cache(maxsize=32)
def _known_sha256(path: str, state: tuple[int, int, int]) -> str:
    del state  # another state is another content
    return file_sha256(path)


def _distribution(module: str) -> str:
    name = module.replace("_", "-")
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name
