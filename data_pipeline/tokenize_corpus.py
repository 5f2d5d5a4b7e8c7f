"""Tokenises a corpus of recordings into a token dataset: shards and `dataset.json`.

    python -m data_pipeline.tokenize_corpus --audio_dir=DIR --output=DIR

Every recording ends in a shard or, with a reason, in `failures.jsonl`. An interrupted run keeps its
finished shards when it is resumed, and writes the same bytes as an uninterrupted one; a finished
run has nothing to do. Exit code: 0 when every input was tokenised, 3 when some failed.
"""

import dataclasses
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.audio import chunking
from data_pipeline.datasets.token_dataset import (
    CODEC_PATH,
    FAILURES_FILE,
    SEMANTIC_PATH,
    SPEC_FILE,
    DatasetSpec,
)
from data_pipeline.datasets.token_records import shard_name
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.output_lock import claimed, remove_leftovers
from data_pipeline.sources import Utterance, assign_splits
from data_pipeline.sources.speakers import AUTO, SPEAKER_RULES, parse_heldout
from data_pipeline.tokenization import beam_runner, inputs
from data_pipeline.tokenization.batch_check import batch_mismatches
from data_pipeline.tokenization.config import (
    LOCAL,
    CorpusConfig,
    corpus_root,
    describe,
    open_corpus,
)
from data_pipeline.tokenization.finish import finish
from data_pipeline.tokenization.local_runner import run_tasks
from data_pipeline.tokenization.provide_tokenizers import REPORTS, provide_tokenizers
from data_pipeline.tokenization.shard import ShardReport, ShardTask
from data_pipeline.tokenizers import load_codec, load_semantic

# About this many shards per split, within these bounds of recordings per shard: a killed run loses
# little, and readers open few files.
_SHARDS, _LEAST_PER_SHARD, _MOST_PER_SHARD = 16, 64, 4096


def tokenize_corpus(config: CorpusConfig) -> dict[str, Any]:
    """Tokenises a corpus, or resumes a run that does.

    Returns:
        For `--json_out`: `output`, `fingerprint` (None when no recording could be used),
        `statistics`, `splits`, `hours`, `failures_file`, `resumed_shards`, `seconds` (of this run),
        `real_time_factor` (seconds of audio per second; None when there was nothing to do).

    Raises:
        UserError: nothing to read, a directory that cannot be written, or one that holds a run
            with other settings or inputs.
    """
    began = time.monotonic()
    if config.runner != LOCAL:
        beam_runner.check(config.runner)
    utterances, failures = open_corpus(config).list()
    root = corpus_root(config, [*utterances, *failures])
    utterances = assign_splits(
        utterances, config.valid_fraction, config.heldout_speakers, config.seed
    )
    num_inputs = len(utterances) + len(failures)
    output = Path(config.output).absolute()
    description = describe(config, root, utterances, failures)
    with claimed(output, inputs.comparable(output, description)):
        remove_leftovers(output)
        if (output / SPEC_FILE).exists():
            _remove_reports(output)
            finished = DatasetSpec.load(output)
            _check_shards(output, finished)
            inputs.check_finished(output, utterances, root)
            return _result(output, finished, num_inputs, 0, began, worked=False)
        provide_tokenizers(
            output,
            config.semantic,
            config.codec,
            utterances,
            min_seconds=config.min_seconds,
            seed=config.seed,
            num_workers=config.num_workers,
        )
        tasks = _plan_shards(config, root, utterances, output)
        shards = [task for split in tasks.values() for task in split]
        known = inputs.check_unfinished(output, shards)
        pending = [task for task in shards if not task.is_done()]
        resumed = len(shards) - len(pending)
        if config.runner == LOCAL:
            run_tasks(pending, config.num_workers)
        else:
            beam_runner.run_tasks(
                pending,
                config.runner,
                config.beam_arguments,
                config.num_workers,
                output / REPORTS / "tasks",
            )
        inputs.store(output, utterances, shards, known, root)
        semantic, codec = load_semantic(output / SEMANTIC_PATH), load_codec(output / CODEC_PATH)
        spec = finish(
            output,
            {
                split: [ShardReport.load(task.report) for task in shards]
                for split, shards in tasks.items()
            },
            num_inputs,
            failures,
            semantic,
            codec,
            config.min_seconds,
            config.chunk_seconds,
            batch_mismatches(utterances, semantic, codec, config.min_seconds),
        )
        if spec is not None:
            _remove_reports(output)
        return _result(output, spec, num_inputs, resumed, began, worked=bool(pending))


def _remove_reports(output: Path) -> None:
    # An orphan of a killed run may still be writing there.
    shutil.rmtree(output / REPORTS, ignore_errors=True)


def _check_shards(output: Path, spec: DatasetSpec) -> None:
    for name, split in spec.splits.items():
        for number in range(split.num_shards):
            path = output / shard_name(name, number, split.num_shards)
            if not path.is_file():
                raise UserError(f"{path} is missing: restore it, or delete {output} and run again")


def _plan_shards(
    config: CorpusConfig, root: str, utterances: Sequence[Utterance], output: Path
) -> dict[str, list[ShardTask]]:
    """Shards of every split: its utterances in their order."""
    reports = output / REPORTS
    reports.mkdir(exist_ok=True)
    splits: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        splits.setdefault(utterance.split, []).append(utterance)
    tasks = {}
    for split in sorted(splits):
        members = splits[split]
        size = config.utterances_per_shard or min(
            max(math.ceil(len(members) / _SHARDS), _LEAST_PER_SHARD), _MOST_PER_SHARD
        )
        count = math.ceil(len(members) / size)
        tasks[split] = [
            ShardTask(
                utterances=tuple(members[number * size : (number + 1) * size]),
                audio_root=root,
                semantic=str(output / SEMANTIC_PATH),
                codec=str(output / CODEC_PATH),
                min_seconds=config.min_seconds,
                chunk_seconds=config.chunk_seconds,
                shard=str(output / shard_name(split, number, count)),
                report=str(reports / f"{split}-{number:05d}.json"),
                chunking=config.chunking,
                trim_silence=config.trim_silence,
            )
            for number in range(count)
        ]
    return tasks


def _result(
    output: Path,
    spec: DatasetSpec | None,
    num_inputs: int,
    resumed: int,
    began: float,
    worked: bool,
) -> dict[str, Any]:
    seconds = time.monotonic() - began
    hours = sum(split.hours for split in spec.splits.values()) if spec else 0.0
    failures = output / FAILURES_FILE
    return {
        "output": str(output),
        "fingerprint": spec.fingerprint if spec else None,
        "statistics": spec.statistics if spec else {"inputs": num_inputs, "failed": num_inputs},
        "splits": {name: dataclasses.asdict(split) for name, split in spec.splits.items()}
        if spec
        else {},
        "hours": hours,
        "failures_file": str(failures),
        "resumed_shards": resumed,
        "seconds": seconds,
        "real_time_factor": 3600 * hours / seconds if worked and not resumed else None,
    }


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_string("audio_dir", None, "Directory tree of recordings.")
    flags.DEFINE_string(
        "source",
        None,
        "Instead of --audio_dir: manifest:FILE, kaldi:DIR, webdataset:PATTERN, tfds:NAME, "
        "lhotse:MANIFEST, hf:DIR_OR_NAME or folder:DIR, with options after it as "
        "?name=value&name=value.",
    )
    flags.DEFINE_string("output", None, "Dataset directory, created if missing.", required=True)
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
    flags.DEFINE_string("language", "und", "Language of recordings whose row does not name one.")
    flags.DEFINE_string(
        "semantic",
        None,
        "Semantic tokenizer: its directory, or hubert:MODEL?..., wav2vec2:, w2v-bert:; if left "
        "out, one is fitted on the corpus.",
    )
    flags.DEFINE_string(
        "codec",
        None,
        "Acoustic codec: its directory, or encodec:MODEL?..., dac:, mimi:, speechtokenizer:; if "
        "left out, one is fitted on the corpus.",
    )
    flags.DEFINE_float("min_seconds", CorpusConfig.min_seconds, "Shorter recordings fail.")
    flags.DEFINE_float("chunk_seconds", CorpusConfig.chunk_seconds, "Longest record.")
    flags.DEFINE_enum(
        "chunking",
        CorpusConfig.chunking,
        chunking.RULES,
        "How longer recordings are cut: even chunks, or the rule of the GPST paper's code (use it "
        "with --min_seconds=1).",
    )
    flags.DEFINE_bool("trim_silence", False, "Leave out silence before and after the speech.")
    flags.DEFINE_float(
        "valid_fraction",
        CorpusConfig.valid_fraction,
        "Fraction of a speaker's recordings in valid.",
        0,
        1,
    )
    flags.DEFINE_string(
        "heldout_speakers",
        None,
        "How many speakers (4), or which (a,b,c), go to the split unseen; one whose name is "
        "a number is written 84, (with a comma) or name:84.",
    )
    flags.DEFINE_multi_string(
        "exclude",
        [],
        "Folder or file below --audio_dir to leave out, besides --output; repeatable.",
    )
    flags.DEFINE_integer("seed", 0, "Seeds the splits.", 0)
    flags.DEFINE_integer(
        "utterances_per_shard", 0, "Recordings per shard; 0 chooses by the size of the corpus."
    )
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes; 0 runs in this one.")
    flags.DEFINE_string(
        "runner",
        LOCAL,
        "local: processes on this machine. Or on Apache Beam: direct (processes on this machine), "
        "DataflowRunner, FlinkRunner, SparkRunner, PortableRunner; its pipeline options follow "
        "after a lone --",
    )


def _config_from_flags(beam_arguments: Sequence[str]) -> CorpusConfig:
    names = {field.name for field in dataclasses.fields(CorpusConfig)} - {"beam_arguments"}
    values = {name: getattr(flags.FLAGS, name) for name in names}
    values["beam_arguments"] = tuple(beam_arguments)
    if flags.FLAGS["speaker_from"].present and values["speaker_pattern"] != AUTO:
        raise UserError("--speaker_pattern and --speaker_from exclude each other: give one of them")
    values["heldout_speakers"] = parse_heldout(values["heldout_speakers"])
    values["exclude"] = tuple(values["exclude"])
    return CorpusConfig(**values)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    for argument in argv[1:]:
        if not argument.startswith("--"):
            raise UserError(f"unexpected argument {argument!r}: flags are written --name=value")
    result = tokenize_corpus(_config_from_flags(argv[1:]))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    counts, failed = result["statistics"], result["statistics"]["failed"]
    for name, split in result["splits"].items():
        print(
            f"{name}: {split['num_records']} records, {split['num_shards']} shards, "
            f"{split['hours']:.3f} h"
        )
    if failed:
        where = result["failures_file"]
        print(f"{failed} of {counts['inputs']} inputs failed: reasons in {where}", file=sys.stderr)
    if not result["splits"]:
        print("error: no recording could be used, there is no dataset", file=sys.stderr)
    return exit_codes.PARTIAL if failed else exit_codes.OK


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
