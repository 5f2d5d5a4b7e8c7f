"""Fits the offline tokenizers on a folder of recordings.

    python -m data_pipeline.fit_tokenizers --audio_dir=DIR [--transcripts=FILE.csv] --output=DIR

writes DIR/semantic and DIR/codec, or with `--unified` only DIR/unified, whose first codebook is
semantic: pass it as both --semantic and --codec to data_pipeline.tokenize_corpus. The codec is one
of WORLD parameters (--codec_kind=world_rvq, which needs pyworld) or of log-mel frames (mel_rvq; the
only one that can be unified). Only a seeded sample of bounded duration from the training split is
read, so that memory and time do not grow with the corpus. The same recordings, flags and machine
give the same tokenizers.
"""

import os

from absl import flags

from data_pipeline.fitting.offline import MAX_SECONDS, fit_tokenizers
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.sources import FolderSource, assign_splits
from data_pipeline.sources.speakers import AUTO, SPEAKER_RULES, parse_heldout
from data_pipeline.tokenizers.codecs import DEFAULT_FITTED, FITTED
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ, MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeansConfig


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_string("audio_dir", None, "Directory tree of recordings.", required=True)
    flags.DEFINE_string("output", None, "Where semantic/ and codec/ are written.", required=True)
    flags.DEFINE_string(
        "transcripts", None, "CSV file: path and optionally speaker, text, language, split."
    )
    flags.DEFINE_enum(
        "speaker_from",
        AUTO,
        SPEAKER_RULES,
        "Who speaks: folder (the first below --audio_dir), parent (the folder of the file), prefix "
        "(the file name before - or _), column (of --transcripts), none; auto takes the column, "
        "else the folder.",
    )
    flags.DEFINE_string(
        "speaker_pattern",
        AUTO,
        "Instead of --speaker_from: a regular expression with one group, searched in the path.",
    )
    flags.DEFINE_float("valid_fraction", 0.05, "Fraction of a speaker's recordings left out.", 0, 1)
    flags.DEFINE_string(
        "heldout_speakers",
        None,
        "How many speakers (4), or which (a,b,c), are left out; one speaker whose name is a number "
        "is written 84, (with a comma) or name:84.",
    )
    flags.DEFINE_multi_string(
        "exclude",
        [],
        "Folder or file below --audio_dir to leave out, besides --output; repeatable.",
    )
    flags.DEFINE_float("min_seconds", 0.1, "Shorter recordings are skipped.", 0)
    flags.DEFINE_float("max_seconds", MAX_SECONDS, "Seconds of audio to fit on.", 1)
    flags.DEFINE_integer("vocab_size", MFCCKMeansConfig.vocab_size, "Semantic units.")
    flags.DEFINE_float("semantic_rate", MFCCKMeansConfig.frame_rate, "Units per second.")
    flags.DEFINE_enum(
        "codec_kind",
        None,
        tuple(FITTED),
        f"Kind of the codec; by default {DEFAULT_FITTED}, or {MelRVQ.kind} with --unified.",
    )
    flags.DEFINE_integer("num_codebooks", MelRVQConfig.num_codebooks, "Codebooks of the codec.")
    flags.DEFINE_integer("codebook_size", MelRVQConfig.codebook_size, "Codes per codebook.")
    flags.DEFINE_float("codec_rate", MelRVQConfig.frame_rate, "Frames per second.")
    flags.DEFINE_bool("unified", False, "One codec, whose first codebook is semantic.")
    flags.DEFINE_integer("seed", 0, "Seeds the splits, the sample and k-means.", 0)
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes that read recordings.", 0)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    given = flags.FLAGS
    try:
        semantic = MFCCKMeansConfig(frame_rate=given.semantic_rate, vocab_size=given.vocab_size)
        kind = given.codec_kind or (MelRVQ.kind if given.unified else DEFAULT_FITTED)
        codec = FITTED[kind].config(
            frame_rate=given.codec_rate,
            num_codebooks=given.num_codebooks,
            codebook_size=given.codebook_size,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if given["speaker_from"].present and given.speaker_pattern != AUTO:
        raise UserError("--speaker_pattern and --speaker_from exclude each other: give one of them")
    heldout = parse_heldout(given.heldout_speakers)
    # Recordings that the source refuses are reported when the corpus is tokenised.
    source = FolderSource(
        given.audio_dir,
        given.transcripts,
        given.speaker_pattern,
        speaker_from=given.speaker_from,
        exclude=(*given.exclude, given.output),
    )
    utterances = assign_splits(source.list()[0], given.valid_fraction, heldout, given.seed)
    result = fit_tokenizers(
        utterances,
        given.output,
        semantic,
        codec,
        max_seconds=given.max_seconds,
        min_seconds=given.min_seconds,
        seed=given.seed,
        num_workers=given.num_workers,
        unified=given.unified,
    )
    print(
        f"fitted on {result['utterances']} utterances, {result['audio_seconds']} s of audio, in "
        f"{result['seconds']} s: {result['output']}"
    )
    del result["contents"]  # for those who resume
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
