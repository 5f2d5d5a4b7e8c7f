"""Speech synthesis with espeak-ng through ctypes; a pip wheel holds the library and its data.

espeak-ng has hidden state beyond its random seed: the result of a call depends on earlier calls in
the process. The same sequence of calls in a new process gives the same samples.
"""

import ctypes
import functools
import os
import tempfile
from pathlib import Path

import numpy as np

from data_pipeline.runtime.errors import UserError

# Constants of espeak-ng's public header, speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH = 1, 2, 3
_BY_CHARACTER = 1
_UTF8 = 1
# The library copies the path of its data into a buffer of 160 bytes.
_LONGEST_DATA_PATH = 120

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """A synthesiser; create at most one per process (the library is a singleton).

    Attributes:
        sample_rate: of the synthesised signals, in Hz (22,050).
    """

    def __init__(self):
        """Loads the library.

        Raises:
            UserError: the wheel is not installed, or the library fails to initialise.
        """
        library, data = _find_library()
        self._library = ctypes.CDLL(library)
        with tempfile.TemporaryDirectory() as scratch:
            if len(os.fsencode(data)) > _LONGEST_DATA_PATH:
                shorter = Path(scratch, "espeak-ng-data")
                shorter.symlink_to(data, target_is_directory=True)
                data = str(shorter)
            self.sample_rate = self._library.espeak_Initialize(
                _SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT
            )
        if self.sample_rate <= 0:
            raise UserError(f"espeak-ng does not start with the data in {data}")
        self._blocks: list[np.ndarray] = []
        # The library holds no reference to this object: keep it alive.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        # Without a seed, voices with breath noise differ from process to process.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def synthesize(self, text: str, voice: str, *, rate: int = 175, pitch: int = 50) -> np.ndarray:
        """Synthesises a text.

        Args:
            text: the text.
            voice: a language, or a language and a variant such as "en-us+klatt4". The library
                accepts variants that do not exist, and uses its default voice.
            rate: words per minute.
            pitch: from 0 to 99; 50 is the default of the voice.

        Returns:
            The signal, float32 (N,), at `sample_rate`.

        Raises:
            UserError: the voice's language does not exist.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_VOLUME, 100), (_PITCH, pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        data = text.encode()
        status = self._library.espeak_Synth(
            data, len(data) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None
        )
        if status != 0:
            raise RuntimeError(f"espeak-ng failed with status {status} on {text!r}")
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        return samples.astype(np.float32) / 32768.0

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0


@functools.cache
def _find_library() -> tuple[str, str]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            "speech synthesis needs the package espeakng-loader: install the extra 'demo'"
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
