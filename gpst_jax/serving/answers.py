"""What the page shows for a request: audio, spectrograms, units and times, or one message."""

import dataclasses
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.audio.io import AudioError, load_audio
from data_pipeline.runtime.endings import ending, one_line
from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.report.players import data_uri, escape
from gpst_jax.evaluation.report.plots import spectrogram_png
from gpst_jax.synthesis.requests import SpeechRequest
from gpst_jax.synthesis.synthesizer import Speech, Synthesizer

_LOG = logging.getLogger(__name__)
# Field of a request -> what the page calls it.
FIELDS = {
    "source": "Source recording",
    "prompt": "Voice prompt",
    "text": "Text",
    "seconds": "Seconds",
    "seed": "Seed",
    "mode": "Mode",
}
_PATH = re.compile(r"(?<![\w.])(?:/[^\s/:]+)+/")
_LARGEST_SECONDS = 60.0  # of speech that one visitor may ask for
_LONGEST_TEXT = 1000  # characters


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is shown.

    Attributes:
        audio: (sample rate in Hz, samples (N,) int16), or None.
        message: a line: progress, what was made, or what is wrong with the input.
        details: HTML of spectrograms, times and units.
        failed: whether there is no speech.
    """

    audio: tuple[int, np.ndarray] | None = None
    message: str = ""
    details: str = ""
    failed: bool = False


def answers(
    synthesizer: Synthesizer, values: Mapping[str, Any], *, stream: bool = False
) -> Iterator[Answer]:
    """Makes speech; the last answer is the result, those before tell how far it is.

    Args:
        synthesizer: makes it.
        values: fields of `SpeechRequest`; those that the mode does not take are left out, and
            so are 0 seconds.
        stream: whether audio is decoded as it is made, which tells the time to first audio.
    """
    try:
        request = _request(synthesizer, values)
        if not stream:
            yield Answer(message="Working …")
            (speech,) = synthesizer.generate([request])
        else:
            speech = yield from _streamed(synthesizer, request)
        yield _answer(request, speech)
    except Exception as error:
        yield Answer(message=message_of(error, values), failed=True)


def message_of(error: Exception, values: Mapping[str, Any]) -> str:
    """One line for a visitor, without paths of the machine and flags of the command line."""
    if not isinstance(error, UserError):
        _LOG.exception("speech could not be made")
        known = ending(error)
        return "The machine failed" + (
            ": it is out of memory or storage." if known else ": the program's log says why."
        )
    text = one_line(error)
    for field, label in FIELDS.items():
        text = text.replace(f"--{field}={values.get(field)}", label)
        text = text.replace(f"--{field}=", f"{label}=").replace(f"--{field}", label)
    return _PATH.sub("", text)


def _request(synthesizer: Synthesizer, values: Mapping[str, Any]) -> SpeechRequest:
    mode = synthesizer.modes.get(str(values.get("mode")))
    if mode is None:
        raise UserError(f"--mode: choose from {', '.join(synthesizer.modes)}")
    fields: dict[str, Any] = {name: values.get(name) for name in (*mode.needs, *mode.takes)}
    fields = {name: value for name, value in fields.items() if value not in (None, "", 0)}
    for name in ("source", "prompt"):
        if name in fields:
            fields[name] = Path(fields[name])
    if len(fields.get("text", "")) > _LONGEST_TEXT:
        raise UserError(f"--text: longer than {_LONGEST_TEXT} characters: give a shorter one")
    if fields.get("seconds", 0) > _LARGEST_SECONDS:
        raise UserError(f"--seconds: give at most {_LARGEST_SECONDS:g}")
    seed = values.get("seed") or 0
    if seed != int(seed):
        raise UserError("--seed: give a whole number")
    return SpeechRequest(mode=str(values["mode"]), seed=int(seed), **fields)


def _streamed(synthesizer: Synthesizer, request: SpeechRequest) -> Generator[Answer, None, Speech]:
    yield Answer(message="Working …")
    chunks = synthesizer.stream(request)
    samples = 0
    while True:
        try:
            samples += len(next(chunks))
        except StopIteration as end:
            return end.value
        yield Answer(message=f"Working … {samples / synthesizer.sample_rate:.1f} s are there")


def _answer(request: SpeechRequest, speech: Speech) -> Answer:
    if not len(speech.wav):
        return Answer(message="Nothing was said: try another seed or input.", failed=True)
    pcm = (np.clip(speech.wav, -1, 1) * 32767).astype(np.int16)
    return Answer((speech.sample_rate, pcm), _summary(speech.info), _details(request, speech))


def _summary(info: Mapping[str, Any]) -> str:
    line = f"{info['seconds']:.2f} s of speech made in {info['wall_seconds']:.1f} s"
    if info.get("first_audio_seconds") is not None:
        line += f", the first audio after {info['first_audio_seconds']:.2f} s"
    if info.get("real_time_factor") is not None:
        line += f" (real-time factor {info['real_time_factor']:.2f})"
    return line


def _details(request: SpeechRequest, speech: Speech) -> str:
    """Spectrograms on one time axis, facts and units."""
    shown = {}
    for field in ("source", "prompt"):
        if (path := getattr(request, field)) is not None:
            try:
                wav = load_audio(path, speech.sample_rate)
            except AudioError:
                continue  # it was read a moment ago: the file has gone since
            shown[FIELDS[field]] = (wav, speech.sample_rate)
    shown["Result"] = (speech.wav, speech.sample_rate)
    seconds = max(len(wav) / rate for wav, rate in shown.values())
    figures = "".join(
        f"<figure><figcaption>{escape(name)}, {len(wav) / rate:.2f} s</figcaption>"
        f'<img alt="Mel spectrogram: {escape(name)}" src="'
        f'{data_uri(spectrogram_png(wav, rate, seconds), "image/png")}"></figure>'
        for name, (wav, rate) in shown.items()
    )
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(speech.info)
    )
    units = " ".join(map(str, speech.units.tolist()))
    return (
        f'<div class="speech-details">{figures}<dl>{facts}</dl>'
        f"<details><summary>{len(speech.units)} units</summary><p>{units}</p></details></div>"
    )


def _facts(info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    names = {
        "understood": "Understood as",
        "written": "Answer",
        "text": "Text",
        "given_seconds": "Given seconds",
        "prompt_seconds": "Seconds of the prompt used",
        "ended_by": "Ended by",
        "guards": "Guards",
        "seed": "Seed",
    }
    for key, name in names.items():
        value = info.get(key)
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in (None, "", 0.0) or key == "seed":
            yield name, value
