"""Shared by the studies in `study_files/pods`: GPST at its published size, on one slice of a pod.

No cell of them has been run: their pages say what they would cost. The dataset is one of
`gpst_190m`'s layout (docs/tokenizers.md), with transcripts of the held-out recordings.
"""

from experiments.configs import gpst_190m
from experiments.studies import demo_size
from experiments.studies.scale import Scale

_WORDS = "wer/whisper-large-v3-english"
_ORIGINAL, _SIMILARITY = "sim-o/wavlm-base-plus-sv", "sim-r/wavlm-base-plus-sv"
WORDS = demo_size.words("semantic_to_acoustic", "word errors, units to speech, %", _WORDS)
TRANSFER_WORDS = demo_size.words("speaker_transfer", "word errors, speaker transfer, %", _WORDS)
TRANSFER = demo_size.similarity("speaker_transfer", "similarity to the prompt's voice", _SIMILARITY)

POD = Scale(
    folder="pods",
    config="experiments/configs/gpst_190m.py",
    layout=gpst_190m.get_layout(),
    steps=50_000,
    scored=("--items=200", f"--wer={_WORDS}", "--wer_items=200", f"--similarity={_ORIGINAL}"),
    figures=(
        demo_size.PARAMETERS,
        demo_size.BITS,
        WORDS,
        TRANSFER_WORDS,
        TRANSFER,
        demo_size.ENDS,
    ),
    notes=(
        "50,000 of the published million updates; 3.2 million crops of 10 s. What the step needs "
        "on v5e:4x4 and on two slices of v6e:4x4, compile-only: docs/pods.md. 1e18 training FLOPs "
        "are 3.5 chip-hours of v5e or 0.76 of v6e, if 40 % of the peak is reached.",
    ),
)
