"""Rows of speech datasets as the package datasets writes them."""

import io

import numpy as np
import soundfile

RATE = 16_000


def encoded(number: int, kind: str = "FLAC") -> bytes:
    random = np.random.default_rng(number)
    buffer = io.BytesIO()
    channels = 1 + number % 2
    wav = (0.2 * random.standard_normal((RATE // 2 + 100 * number, channels))).clip(-1, 1)
    soundfile.write(buffer, wav, RATE, format=kind)
    return buffer.getvalue()


def expected(data: bytes) -> np.ndarray:
    """The samples as soundfile reads them, the mean of the channels."""
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].mean(axis=1)


def rows(first: int = 0, count: int = 10):
    """A dataset of noise, of one and two channels in turn."""
    import datasets

    features = datasets.Features(
        {
            "audio": datasets.Audio(sampling_rate=RATE),
            "speaker_id": datasets.Value("int64"),
            "text": datasets.Value("string"),
            "lang": datasets.ClassLabel(names=["en", "de"]),
        }
    )
    found = [
        {
            "audio": {"bytes": encoded(number), "path": f"{number}.flac"},
            "speaker_id": 84 + number % 3,
            "text": f"text {number}",
            "lang": number % 2,
        }
        for number in range(first, first + count)
    ]
    return datasets.Dataset.from_list(found).cast(features)
