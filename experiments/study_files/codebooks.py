"""How many codebooks? One codec of 4, 8 or 16 on the same recordings and units."""

import dataclasses

from experiments.studies import scales
from experiments.studies.scales import DEMO
from gpst_jax.studies.definition import Call, Cell, Comparison, Study

_COUNTS = (4, 8, 16)


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are the demo's."""
    cells = tuple(_cell(count) for count in _COUNTS)
    return Study(
        name="codebooks",
        question="How many codebooks should a frame have?",
        cells=cells,
        figures=(
            scales.PARAMETERS,
            scales.words("codec", "word errors, codec, %"),
            scales.WORDS,
            scales.TRANSFER_WORDS,
            scales.TRANSFER,
        ),
        comparisons=(Comparison(cells[0].name, tuple(cell.name for cell in cells[1:])),),
        axis="codebooks",
        notes=(
            *DEMO.notes,
            "Equal training FLOPs: more codebooks are fewer steps. Bits per second are left out, "
            "since another codec has other information to predict.",
            "Each codec is fitted on the recordings of the training set.",
        ),
        layout=DEMO.layout,
    )


def _cell(count: int) -> Cell:
    codec, tokens = f"{{shared}}/codec{count}", f"{{shared}}/tokens{count}"
    of_corpus = ("--audio_dir={audio_dir}", "--transcripts={audio_dir}/manifest.csv")
    prepare = (
        Call(
            f"fit-codec{count}",
            "data_pipeline.fit_tokenizers",
            (*of_corpus, f"--output={codec}", f"--num_codebooks={count}"),
        ),
        Call(
            f"tokenise{count}",
            "data_pipeline.tokenize_corpus",
            (
                *of_corpus,
                f"--codec={codec}/codec",
                "--semantic={tokens}/tokenizers/semantic",
                f"--output={tokens}",
            ),
        ),
    )
    layout = dataclasses.replace(DEMO.layout, num_codebooks=count)
    overrides = DEMO.equal(layout=layout)
    return DEMO.trained(
        f"q{count}",
        *overrides,
        place=float(count),
        prepare=prepare,
        tokens=tokens,
        layout=layout,
    )
