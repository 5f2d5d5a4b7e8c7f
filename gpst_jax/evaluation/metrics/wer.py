"""Word error rate: transcribers, alignment counts, and their corpus aggregate.

A corpus word error rate is sum(S + D + I) / sum(reference words). An utterance whose sound is
missing or cannot be decoded counts as all of its words deleted; it is never left out.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.synthetic.questions import DIGITS
from gpst_jax.evaluation.metrics import statistics

_NUMERALS = {str(value): word for value, word in enumerate(DIGITS)} | {"oh": "zero", "o": "zero"}

PADDING_SECONDS = 0.1
NOISE_AMPLITUDE = 1e-4
SILENCE_PROBABILITY = 0.3
WORD_INSERTION_PENALTY = 0.01


def normalise_digits(text: str) -> str:
    """Lower case, punctuation dropped, numerals spelled digit by digit, "oh" read as "zero".

    Raises:
        UserError: a word is no digit, so the digit grammar could never recognise it.
    """
    cleaned = re.sub(r"[^\w\s]|_", " ", re.sub(r"(\d)", r" \1 ", text.lower()))
    words = [_NUMERALS.get(word, word) for word in cleaned.split()]
    foreign = sorted(set(words) - set(DIGITS))
    if foreign:
        raise UserError(
            f"transcript {text!r} is marked as digits but holds {', '.join(foreign)}; "
            "give such samples text_kind 'free'"
        )
    return " ".join(words)


def normalise_librispeech(text: str) -> str:
    """Upper case; letters and apostrophes only; single spaces."""
    return " ".join(re.sub(r"[^A-Z' ]+", " ", text.upper().replace("\u2019", "'")).split())


def load_pocketsphinx_digits() -> Callable[[np.ndarray], str]:
    """A recogniser of digit strings: wav (N,) float32 at 16 kHz -> words separated by spaces."""
    import pocketsphinx

    # The bundled dictionary has 130,000 words; the ten that the grammar needs load in 7 ms. So
    # every utterance gets a new decoder: one that is used again carries its estimates of the
    # channel (cepstral mean) and of the noise over, and results would depend on the order.
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
            dict=str(Path(folder.name, "digits.dict")),  # the directory lives as long as we do
            silprob=SILENCE_PROBABILITY,
            wip=WORD_INSERTION_PENALTY,
            loglevel="FATAL",
        )
        decoder.add_jsgf_string("digits", grammar)
        decoder.activate_search("digits")
        padded = np.concatenate([padding, wav, padding])
        # Digital silence upsets the noise estimate; the same noise each time keeps it exact.
        noise = np.random.default_rng(0).standard_normal(len(padded))
        pcm = np.clip(padded + NOISE_AMPLITUDE * noise, -1, 1) * 32767
        decoder.start_utt()
        decoder.process_raw(pcm.astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr.strip() if hypothesis else ""

    return transcribe


@dataclass(frozen=True)
class ErrorCounts:
    """Alignment of one utterance."""

    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int
    empty: bool  # the hypothesis has no words
    failed: bool = False  # the sound could not be read

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str, hypothesis: str | None) -> ErrorCounts:
    """Aligns normalised texts; a hypothesis of None (a failed sound) deletes every word."""
    words = len(reference.split())
    heard = len((hypothesis or "").split())
    if hypothesis is None or not heard or not words:
        return ErrorCounts(words, 0, words, heard, not heard, hypothesis is None)
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    return ErrorCounts(words, output.substitutions, output.deletions, output.insertions, False)


def count_pair_errors(transcripts: Sequence[tuple[str | None, str | None]]) -> list[ErrorCounts]:
    """Aligns the second rendition of each pair with the transcript of the first.

    There is no reference text. When the first is empty the second serves as reference, all of it
    deleted. When both are empty, the pair counts as a deleted reference of the mean length of the
    others, so that silence never looks like agreement.
    """
    usable = [(a, b) if a else (b, a) for a, b in transcripts]
    lengths = [len(a.split()) for a, _ in usable if a]
    fallback = max(1, round(sum(lengths) / len(lengths))) if lengths else 1
    return [
        count_errors(a, b) if a else ErrorCounts(fallback, 0, fallback, 0, True, None in pair)
        for (a, b), pair in zip(usable, transcripts, strict=True)
    ]


def summarise(
    counts: Sequence[ErrorCounts], speakers: Sequence[str] | None, *, resamples: int, seed: int
) -> dict[str, Any]:
    """The corpus word error rate of a condition with everything that one number hides.

    Returns:
        value, ci95 (utterances resampled), ci95_speakers (whole speakers resampled; None with
        fewer than two, absent without speakers), n utterances, reference words, S, D and I, mean
        and median over utterances, share_above_half, share_empty, and the number of failed files.
    """
    errors = np.array([count.errors for count in counts])
    words = np.array([count.words for count in counts])
    if not words.sum():
        return statistics.not_available("reference transcripts hold no words")
    estimate = statistics.ratio(errors, words, resamples=resamples, seed=seed)
    ci95 = estimate.ci95
    if ci95 and not errors.sum():
        ci95 = statistics.share(0, int(words.sum())).ci95  # no errors: resampling has no width
    rates = errors / np.maximum(words, 1)
    voices: dict[str, Any] = {}
    if speakers is not None:
        clustered = statistics.ratio(
            errors, words, clusters=speakers, resamples=resamples, seed=seed
        )
        voices = {"ci95_speakers": clustered.ci95, "speakers": len(set(speakers))}
    return {
        "value": estimate.value,
        "ci95": ci95,
        "n": len(counts),
        **voices,
        "words": int(words.sum()),
        "substitutions": sum(count.substitutions for count in counts),
        "deletions": sum(count.deletions for count in counts),
        "insertions": sum(count.insertions for count in counts),
        "mean": float(rates.mean()),
        "median": float(np.median(rates)),
        "share_above_half": float((rates > 0.5).mean()),
        "share_empty": float(np.mean([count.empty for count in counts])),
        "failed": sum(count.failed for count in counts),
    }
