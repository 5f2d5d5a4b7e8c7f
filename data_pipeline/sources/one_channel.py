"""One channel of a recording whose channels are different voices, such as a telephone call's."""

import io
import os

import numpy as np
import soundfile

from data_pipeline.audio.decoder_messages import decoder_messages_hidden
from data_pipeline.audio.io import AudioError, decode_audio, decode_file


def decode_channel(
    source: str | bytes, path: str | os.PathLike[str], channel: int
) -> tuple[np.ndarray, int]:
    """Decodes one channel of an audio file.

    The file is decoded as every recording first, for the checks: what is refused is the same.

    Args:
        source: path of the file, or its content.
        path: for messages.
        channel: number of the channel, from 0.

    Returns:
        The channel, float32 (N,), and its sample rate in Hz.

    Raises:
        AudioError: see `audio.io.decode_file`; or there is no such channel.
    """
    mean, rate = decode_audio(source, path) if isinstance(source, bytes) else decode_file(source)
    given = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with decoder_messages_hidden():
            wav, own = soundfile.read(given, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        wav, own = np.zeros((0, channel + 1), np.float32), rate
    if channel >= wav.shape[1]:
        raise AudioError(f"has {wav.shape[1]} channels, none is number {channel}", path)
    if (len(wav), own) != (len(mean), rate):
        raise AudioError(
            f"channel {channel} cannot be read by itself: several streams are joined in the file, "
            "or its header has a wrong length",
            path,
        )
    return np.ascontiguousarray(wav[:, channel]), rate
