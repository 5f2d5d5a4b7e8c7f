"""Do the offline codecs beat Opus and Codec 2 with fewer bits, and what do frame rates change?"""

from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import ONLY, JsonFigure, RecipeFigure

_WORDS = "wer/whisper-base-english-self"
_SIMILARITY = "sim-o/resemblyzer-smoke"
# Codec, and how many of its codebooks are used.
_CODECS = {
    "world-8-of-8": ("world_rvq:8x1024", 8),
    "world-6-of-8": ("world_rvq:8x1024", 6),
    "world-4-of-8": ("world_rvq:8x1024", 4),
    "world-75hz": ("world_rvq:5x1024@75", 5),
    "world-100hz": ("world_rvq:4x1024@100", 4),
    "mel-8-of-8": ("mel_rvq:8x1024", 8),
}
_CODERS = {"opus-6": "opus:6", "codec2-3200": "codec2:3200", "codec2-2400": "codec2:2400"}


def get_study() -> Study:
    """The study; `--audio_dir` has a folder of recordings for each speaker."""
    codecs = tuple(
        _cell(name, f"--codecs={codec}", f"--depths={depth}")
        for name, (codec, depth) in _CODECS.items()
    )
    coders = tuple(_cell(name, "--codecs=", f"--coders={coder}") for name, coder in _CODERS.items())
    return Study(
        name="codecs",
        question="Do the offline codecs beat Opus and Codec 2 with fewer bits?",
        cells=(*codecs, *coders),
        figures=(
            JsonFigure(
                "bits", "bits per second", "study.json", ("bits_per_second", ONLY), digits=0
            ),
            RecipeFigure("words", "word errors, %", _WORDS, ONLY, 100.0, 1, "lower"),
            RecipeFigure("similarity", "similarity to the recording", _SIMILARITY, ONLY),
            RecipeFigure("dnsmos", "DNSMOS P.835", "dnsmos-p835/speechmos", ONLY, digits=2),
            RecipeFigure("distillmos", "DistillMOS", "mos/distillmos", ONLY, digits=2),
        ),
        seeds=(0,),
        comparisons=(
            Comparison("world-8-of-8", ("world-75hz", "world-100hz", "mel-8-of-8", "opus-6")),
            Comparison("world-6-of-8", ("codec2-3200",)),
            Comparison("world-4-of-8", ("codec2-2400",)),
        ),
        notes=(
            "One recording of each of 40 speakers whom the fit leaves out; codecs are fitted on at "
            "most an hour of the other speakers.",
            "Words are those that Whisper base hears in the recording itself: agreement, not "
            "accuracy. Similarity is to the recording.",
            "Bits are those that are sent: Opus at the lowest rate of libsndfile, without the "
            "pages of its file; Codec 2 has 8 kHz.",
        ),
    )


def _cell(name: str, *flags: str) -> Cell:
    where = ("--audio_dir={audio_dir}", "--workdir={cell}", "--shared={shared}")
    measure = Call("measure", "experiments.studies.codecs", (*where, *flags, f"--wer={_WORDS}"))
    return Cell(name, calls=(measure,))
