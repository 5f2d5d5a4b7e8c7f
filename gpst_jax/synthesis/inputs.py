"""Recordings as models read them: tokens of a source, and of the best seconds of a prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.audio.chunking import chunk_bounds
from data_pipeline.audio.io import AudioError, check_and_resample, decode_file
from data_pipeline.audio.voice_activity import most_speech
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization.shard import align
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.batching import encode_many
from gpst_jax.generation.gpst_modes import Part

LEAST_SPEECH_SECONDS = 1.0  # of a prompt: less does not tell a voice


class PromptTokens(NamedTuple):
    """The part of a prompt that is used."""

    part: Part
    start: float  # in the recording, in seconds
    seconds: float
    speech_seconds: float


class SpeechEncoder:
    """The tokenizers of a model: recordings to parts, as tokenisation of a corpus makes them.

    Attributes:
        spec: contract of the model's tokens.
        codec: decodes what the model makes.

    Args:
        directory: that the paths in `spec` are relative to.
        spec: contract of the model's tokens.
        report: called with lines about what is done to inputs.

    Raises:
        UserError: a tokenizer is missing, or is not the one that the model was trained with.
    """

    def __init__(
        self, directory: str | Path, spec: DatasetSpec, report: Callable[[str], None] = print
    ):
        self.spec, self._report = spec, report
        self._semantic = load_semantic(Path(directory) / spec.semantic.path)
        self.codec = load_codec(Path(directory) / spec.codec.path)
        for stream, loaded in ((spec.semantic, self._semantic), (spec.codec, self.codec)):
            if stream.sha256 != loaded.sha256:
                raise UserError(
                    f"{Path(directory) / stream.path}: its sha256 is {loaded.sha256}, the model "
                    f"was trained with {stream.sha256} ({stream.id}): give the directory of a "
                    "dataset of the same tokenizers as --dataset"
                )

    def source(self, path: Path, name: str) -> Part:
        """Units (S,) and codes (Q, T) of a recording of any length.

        Args:
            path: of the recording.
            name: of the input, for messages.

        Raises:
            UserError: it cannot be used.
        """
        return self._encode(self._read(path, name), path, name)

    def prompt(self, path: Path, seconds: float, name: str) -> PromptTokens:
        """The tokens of the `seconds` of a recording that hold the most speech.

        Args:
            path: of the recording.
            seconds: how much is used.
            name: of the input, for messages.

        Raises:
            UserError: it cannot be used, or holds less than a second of speech.
        """
        wav = self._read(path, name)
        rate = self.spec.sample_rate
        start, stop, speech = most_speech(wav, rate, seconds)
        least = min(LEAST_SPEECH_SECONDS, 0.8 * seconds)  # no speech is without pauses
        if speech < least:
            raise UserError(
                f"{name}={path}: {speech:.2f} s of speech in {len(wav) / rate:.2f} s, a voice "
                f"needs at least {least:g} s: give a longer recording of it"
            )
        if stop - start < len(wav):
            self._report(
                f"{path}: {(stop - start) / rate:.2f} of its {len(wav) / rate:.2f} s are the "
                f"prompt, those from {start / rate:.2f} s on: they hold the most speech"
            )
        part = self._encode(wav[start:stop], path, name)
        return PromptTokens(part, start / rate, (stop - start) / rate, speech)

    def _read(self, path: Path, name: str) -> np.ndarray:
        """The signal (N,) at the rate of the model's recordings."""
        rate = self.spec.sample_rate
        try:
            wav, own_rate = decode_file(path)
            signal = check_and_resample(wav, own_rate, rate, self.spec.min_seconds, path)
        except AudioError as error:
            raise UserError(f"{name}={path}: {error.reason}") from error
        if own_rate != rate:
            self._report(f"{path}: resampled from {own_rate} to {rate} Hz")
        return signal

    def _encode(self, wav: np.ndarray, path: Path, name: str) -> Part:
        layout, rate = self.spec.layout(), self.spec.sample_rate
        bounds = chunk_bounds(len(wav), rate, self.spec.chunk_seconds, layout)
        chunks = [wav[start:stop] for start, stop in bounds]
        try:
            parts = [
                align(layout, *tokens)
                for tokens in zip(
                    encode_many(self._semantic, chunks, rate),
                    encode_many(self.codec, chunks, rate),
                    strict=True,
                )
            ]
        except (AudioError, ValueError) as error:
            raise UserError(f"{name}={path}: {error}") from error
        units, codes = zip(*parts, strict=True)
        return (
            np.concatenate(units).astype(np.int32),
            np.concatenate(codes, axis=1).astype(np.int32),
        )
