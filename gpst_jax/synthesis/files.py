"""Speech in files: a wav or flac file and a line of JSON for each request."""

import io
import json
import os
import tempfile
import wave
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.synthesis.requests import SpeechRequest
from gpst_jax.synthesis.synthesizer import Speech

AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
RESULTS_FILE = "results.jsonl"


def names_a_file(output: str | Path) -> bool:
    """Whether an output is a file of audio."""
    return Path(output).suffix.lower() in AUDIO_FORMATS


class SpeechFiles:
    """Where speech is written.

    Args:
        output: file, of one request; or a directory.
        single: whether there is one request, whose output must be a file.

    Raises:
        UserError: it cannot be written, or is a file for several requests.
    """

    def __init__(self, output: str | Path, single: bool):
        self.output, self._single = Path(output), single
        if single and not names_a_file(self.output):
            raise UserError(
                f"--output={output}: one input makes one file: name it "
                f"{' or '.join(f'FILE{suffix}' for suffix in AUDIO_FORMATS)}"
            )
        if not single and names_a_file(self.output):
            raise UserError(f"--output={output}: a manifest makes several files: name a directory")
        if single and self.output.is_dir():
            raise UserError(f"--output={output} is a directory: name a file")
        self._check_writable()

    @property
    def results(self) -> Path:
        """The file of JSON lines."""
        return self.output.with_suffix(".json") if self._single else self.output / RESULTS_FILE

    def path(self, request: SpeechRequest) -> Path:
        """The audio file of a request."""
        return self.output if self._single else self.output / f"{request.id}.wav"

    def write(self, speeches: Sequence[Speech]) -> None:
        """Writes audio, where there is some, and results.

        Raises:
            UserError: a file cannot be written.
            OSError: the storage is full, or failed.
        """
        lines = []
        for speech in speeches:
            path = self.path(speech.request)
            if len(speech.wav):
                write_speech(path, speech.wav, speech.sample_rate)
            lines.append(_line(speech, path.name))
        write_text(self.results, "".join(lines))

    def write_stream(self, chunks: Generator[np.ndarray, None, Speech], rate: int) -> Speech:
        """Writes samples as they come to a wav file that is complete at any time; see `write`."""
        path = self.output
        try:
            wav = next(chunks)  # before there is a file: inputs are checked now
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate)
                while True:
                    file.writeframes(_pcm(wav).tobytes())  # and the header
                    wav = next(chunks)
        except StopIteration as stopped:
            speech: Speech = stopped.value
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        write_text(self.results, _line(speech, path.name))
        return speech

    def _check_writable(self) -> None:
        """Finds out before any model is loaded."""
        folder = self.output.parent if self._single else self.output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"--output={self.output}: cannot be written: {reason}") from error


def write_speech(path: Path, wav: np.ndarray, sample_rate: int) -> None:
    """Writes a signal (N,) as 16-bit audio, by suffix; readers never see a part of it.

    Raises:
        OSError: the storage is full, or failed; nothing of the file is left then.
    """
    data = io.BytesIO()
    kind = AUDIO_FORMATS[path.suffix.lower()]
    soundfile.write(data, _pcm(wav), sample_rate, subtype="PCM_16", format=kind)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is None:
            error.filename = str(path)  # the system does not name a file that it was writing
        raise


def _pcm(wav: np.ndarray) -> np.ndarray:
    return np.round(np.clip(np.asarray(wav, np.float32), -1.0, 1.0) * 32767.0).astype("<i2")


def _line(speech: Speech, name: str) -> str:
    audio = name if len(speech.wav) else None
    return json.dumps({**speech.info, "audio": audio}, ensure_ascii=False) + "\n"
