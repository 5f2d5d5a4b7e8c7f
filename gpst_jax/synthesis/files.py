"""Speech in files: a wav or flac file and a line of JSON for each request."""

import io
import json
import os
import tempfile
import wave
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
        self._lines = {} if single else self._read_lines()

    @property
    def results(self) -> Path:
        """The file of JSON lines."""
        return self.output.with_suffix(".json") if self._single else self.output / RESULTS_FILE

    def path(self, request: SpeechRequest) -> Path:
        """The audio file of a request."""
        return self.output if self._single else self.output / f"{request.id}.wav"

    def kept(self, prints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """What earlier calls have made, by id: results whose audio is still there.

        Args:
            prints: of the requests, by id, see `Synthesizer.fingerprint`; a result of another
                fingerprint is not kept.
        """
        found = {}
        for name, line in self._lines.items():
            info = json.loads(line)
            there = info["audio"] is None or (self.output / info["audio"]).is_file()
            if there and prints.get(name, "") == info.get("fingerprint"):
                found[name] = info
        return found

    def write(
        self, speeches: Sequence[Speech], prints: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Writes audio, where there is some, then the results beside those of earlier calls.

        Args:
            speeches: what was made.
            prints: fingerprints by id, with which a later call finds them again.

        Returns:
            The results.

        Raises:
            UserError: a file cannot be written.
            OSError: the storage is full, or failed.
        """
        made = []
        for speech in speeches:
            path, name = self.path(speech.request), speech.request.id
            if len(speech.wav):
                write_speech(path, speech.wav, speech.sample_rate)
            made.append(_result(speech, path.name))
            if prints:
                made[-1]["fingerprint"] = prints[name]
            self._lines[name] = _line(made[-1])
        write_text(self.results, "".join(self._lines.values()))
        return made

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
        write_text(self.results, _line(_result(speech, path.name)))
        return speech

    def _read_lines(self) -> dict[str, str]:
        """Lines of the results that are there, by id."""
        try:
            lines = self.results.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.results}: cannot be read: {error}") from error
        found = {}
        for number, line in enumerate(lines, 1):
            try:
                info = json.loads(line)
                name, _ = info["id"], info["audio"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.results} line {number}: no result: delete the file, or name another "
                    "--output"
                ) from None
            found[name] = f"{line}\n"
        return found

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


def _result(speech: Speech, name: str) -> dict[str, Any]:
    return {**speech.info, "audio": name if len(speech.wav) else None}


def _line(result: Mapping[str, Any]) -> str:
    return json.dumps(result, ensure_ascii=False) + "\n"
