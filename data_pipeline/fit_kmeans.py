"""Fits k-means on the hidden states of a speech model, whose clusters are the semantic units.

    python -m data_pipeline.fit_kmeans --model='hubert:DIR_OR_HUB_ID?layer=9' --clusters=500 \
        --source=DIR --output=kmeans.safetensors

Recordings stream through the model once per pass, in seeded random order; neither audio nor hidden
states are accumulated. An interrupted run resumes where it stopped, from a file beside the output,
and gives the same clusters as an uninterrupted one. `--output` may also be .npz. The tokenizer is
then `hubert:DIR_OR_HUB_ID?layer=9&kmeans=kmeans.safetensors`. For `whisper:MODEL` the layer may be
left out: the clusters are then of the encoder's output.
"""

import dataclasses

from absl import flags

from data_pipeline.fitting.kmeans import KMeansConfig, fit_kmeans
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.sources import assign_splits, open_source


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_string("model", None, "KIND:MODEL?layer=N, see docs/tokenizers.md.", required=True)
    flags.DEFINE_string(
        "source", None, "Directory of recordings or KIND:WHERE, see docs/sources.md.", required=True
    )
    flags.DEFINE_string("output", None, ".npz or .safetensors file.", required=True)
    flags.DEFINE_integer("clusters", 500, "Semantic units.")
    flags.DEFINE_integer("passes", KMeansConfig.passes, "Passes over the recordings.")
    flags.DEFINE_float("max_hours", KMeansConfig.max_hours, "Hours of audio in one pass.")
    flags.DEFINE_integer("batch_frames", KMeansConfig.batch_frames, "Frames per update.")
    flags.DEFINE_float(
        "min_seconds", KMeansConfig.min_seconds, "Shorter recordings are skipped.", 0
    )
    flags.DEFINE_integer("seed", 0, "Seeds the splits, the order and the clusters.", 0)
    flags.DEFINE_float("valid_fraction", 0.05, "Fraction of a speaker's recordings left out.", 0, 1)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    given = flags.FLAGS
    names = [field.name for field in dataclasses.fields(KMeansConfig)]
    config = KMeansConfig(**{name: getattr(given, name) for name in names})
    utterances = open_source(given.source).list()[0]
    utterances = assign_splits(utterances, given.valid_fraction, seed=given.seed)
    result = fit_kmeans(config, utterances)
    print(
        f"{result['clusters']} clusters of {result['frames']} frames, {result['audio_seconds']} s "
        f"of audio ({result['unreadable']} recordings unreadable), in {result['seconds']} s: "
        f"{result['output']}"
    )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
