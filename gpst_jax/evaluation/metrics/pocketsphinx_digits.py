"""PocketSphinx with a grammar of digit strings, from its pip package alone."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.synthetic.questions import DIGITS

PADDING_SECONDS = 0.1
NOISE_AMPLITUDE = 1e-4
SILENCE_PROBABILITY = 0.3
WORD_INSERTION_PENALTY = 0.01


def load() -> Callable[[np.ndarray], str]:
    """A recogniser of digit strings: wav (N,) float32 at 16 kHz -> words separated by spaces."""
    import pocketsphinx

    # A decoder that is used again carries its estimates of the channel (cepstral mean) and of the
    # noise over, and results would depend on the order of files; so every utterance gets a new
    # one. The bundled dictionary has 130,000 words; the ten of the grammar load in 7 ms.
    entries = [
        line
        for line in Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
        .read_text(encoding="utf-8")
        .splitlines()
        if re.split(r"[\s(]", line, maxsplit=1)[0] in DIGITS
    ]
    grammar = f"#JSGF V1.0; grammar digits; public <digits> = ( {' | '.join(DIGITS)} )+ ;"
    folder = tempfile.TemporaryDirectory(prefix="digits-")
    Path(folder.name, "digits.dict").write_text("\n".join(entries) + "\n", encoding="utf-8")
    padding = np.zeros(round(PADDING_SECONDS * 16000), np.float32)

    def transcribe(wav: np.ndarray) -> str:
        decoder = pocketsphinx.Decoder(
            lm=None,
            dict=str(Path(folder.name, "digits.dict")),  # `folder` lives as long as this closure
            silprob=SILENCE_PROBABILITY,
            wip=WORD_INSERTION_PENALTY,
            loglevel="FATAL",
        )
        decoder.add_jsgf_string("digits", grammar)
        decoder.activate_search("digits")
        padded = np.concatenate([padding, wav, padding])
        # Digital silence upsets the noise estimate; a fixed seed keeps the result reproducible.
        noise = np.random.default_rng(0).standard_normal(len(padded))
        pcm = np.clip(padded + NOISE_AMPLITUDE * noise, -1, 1) * 32767
        decoder.start_utt()
        decoder.process_raw(pcm.astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr.strip() if hypothesis else ""

    return transcribe
