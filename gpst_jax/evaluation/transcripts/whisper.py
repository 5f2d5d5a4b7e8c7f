"""Whisper (arXiv 2212.04356) through faster-whisper and CTranslate2, on a CPU.

Greedy and the same on every run: one hypothesis, temperature 0 alone, one thread, no text from
before a window as context, no voice activity filter. Whisper invents text where there is no speech
("you", "Thank you."), and may repeat a phrase to the end of its window. Four rules, each with its
number below, leave out what is not in the sound; a text that they leave empty is an empty
transcript, all words deleted.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import whisper_weights

SAMPLE_RATE = 16000
COMPUTE_TYPE = "int8"

# No word: a recording shorter than this, or without a 20 ms frame above this level. Quiet speech at
# -73 dBFS is recognised as well as loud speech; the rounding noise of 16-bit files is at -98.
SHORTEST_SECONDS = 0.2
SILENCE_DBFS = -80.0
# No speech: a window with that probability of the no-speech token, whose text is not certain. Of
# tones, noise, clicks and silence tiny.en and base gave 0.71 to 0.96 with log-probabilities per
# token from -0.83 to -2.4; of 37 strings of recorded digits, the harder speech, all but one at most
# 0.70, and of 10 read sentences at most 0.37.
NO_SPEECH = 0.7
CERTAIN_LOG_PROBABILITY = -0.5
# No text: more letters than anyone says in the time (fast English has about 20 a second).
LETTERS, LETTERS_PER_SECOND = 8, 30
# Runaway: a text that compresses better than this is cut after the first phrase that follows
# itself at least twice.
COMPRESSION = 2.4
_REPEATS = 3

RULES = (
    f"empty: shorter than {SHORTEST_SECONDS} s or nowhere above {SILENCE_DBFS:g} dBFS; a window "
    f"with no-speech probability above {NO_SPEECH} and mean log-probability of at most "
    f"{CERTAIN_LOG_PROBABILITY}; a text of more than {LETTERS} + {LETTERS_PER_SECOND} letters a "
    f"second. A text that compresses more than {COMPRESSION} times is cut after the first phrase "
    f"that comes {_REPEATS} times in a row"
)
# With timestamps, as published. Without them a window may end after its first sentence: of 40 read
# recordings base left two at "Chapter 35." and "Chapter 16.". In strings of recorded digits they
# made no difference to the errors (of 324 digits, by base and tiny.en: 45 without, 50 with them).
DECODING = (
    f"CTranslate2, {COMPUTE_TYPE} on a CPU, one thread; beam 1, temperature 0, no previous text, "
    "no voice activity filter; with timestamps"
)


def load(model: str, language: str | None) -> Callable[[np.ndarray], str]:
    """A recogniser: wav (N,) float32 at 16 kHz -> text.

    Args:
        model: name of the weights, see `data_pipeline.tokenizers.whisper_weights`.
        language: code of the language; None: detected in the first window of each recording.

    Raises:
        UserError: the weights are nowhere, or do not load.
    """
    return transcriber(open_model(model, COMPUTE_TYPE), language)


def open_model(model: str, compute_type: str) -> Any:
    """A `faster_whisper.WhisperModel` of that name on one thread; raises as `load` does."""
    from faster_whisper import WhisperModel

    directory = whisper_weights.find(model)
    try:
        recogniser = WhisperModel(
            str(directory), device="cpu", compute_type=compute_type, cpu_threads=1, num_workers=1
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{directory}: cannot load Whisper {model}: {reason}") from error
    if recogniser.model.is_multilingual == model.endswith(".en"):
        held = "many languages" if recogniser.model.is_multilingual else "English only"
        raise UserError(f"{directory}: holds a Whisper model for {held}, {model} is needed")
    return recogniser


def transcriber(recogniser: Any, language: str | None) -> Callable[[np.ndarray], str]:
    """The rules of this module around a `faster_whisper.WhisperModel`."""

    def transcribe(wav: np.ndarray) -> str:
        seconds = len(wav) / SAMPLE_RATE
        if seconds < SHORTEST_SECONDS or is_silent(wav):
            return ""
        segments, _ = recogniser.transcribe(
            np.clip(wav, -1, 1).astype(np.float32),
            language=language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
            without_timestamps=False,
            # The rules below take the place of the library's own thresholds.
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        windows = [spoken for window in by_window(segments) if (spoken := window_text(window))]
        text = " ".join(windows)
        letters = sum(map(str.isalnum, text))
        return "" if letters > LETTERS + LETTERS_PER_SECOND * seconds else text

    return transcribe


def is_silent(wav: np.ndarray) -> bool:
    """Whether no frame of 20 ms of a waveform (N,) has a level above SILENCE_DBFS."""
    frame = SAMPLE_RATE // 50
    frames = np.pad(wav, (0, -len(wav) % frame)).reshape(-1, frame).astype(np.float64)
    loudest = float(np.mean(frames**2, axis=1).max(initial=0.0))
    return bool(loudest <= 10 ** (SILENCE_DBFS / 10))


def by_window(segments: Iterable[Any]) -> list[list[Any]]:
    """Segments of faster-whisper, grouped by the window that they were decoded in."""
    windows: dict[int, list[Any]] = {}
    for segment in segments:
        windows.setdefault(segment.seek, []).append(segment)
    return list(windows.values())


def window_text(segments: Sequence[Any]) -> str:
    """The text of one window by the rules; empty where it holds no speech.

    Args:
        segments: with `text`, and the window's `no_speech_prob`, `avg_logprob` (per token) and
            `compression_ratio`.
    """
    window = segments[0]
    if window.no_speech_prob > NO_SPEECH and window.avg_logprob <= CERTAIN_LOG_PROBABILITY:
        return ""
    text = " ".join(segment.text.strip() for segment in segments).strip()
    return cut_runaway(text) if window.compression_ratio > COMPRESSION else text


def cut_runaway(text: str) -> str:
    """The text up to the end of the first phrase that comes three times in a row.

    Phrases are words; where none repeats, characters, for numerals and scripts without spaces.
    """
    words = text.split()
    kept = _before_repeats(words)
    if len(kept) < len(words):
        return " ".join(kept)
    return "".join(_before_repeats(list(text)))


def _before_repeats(parts: list[str]) -> list[str]:
    for start in range(len(parts)):
        for length in range(1, (len(parts) - start) // _REPEATS + 1):
            phrase = parts[start : start + length]
            if parts[start : start + _REPEATS * length] == phrase * _REPEATS:
                return parts[: start + length]
    return parts
