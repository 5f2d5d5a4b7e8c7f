"""Turns a corpus of recordings into token shards with `dataset.json`.

    python -m data_pipeline.tokenize_corpus --audio_dir=DIR --output=DIR

Every recording ends in a shard or, with its reason, in `failures.jsonl`. A run that was interrupted
goes on where it stopped, at the grain of a shard, and gives the same bytes as one that was not; a
finished one has nothing to do. Exit code: 0 when every input is in, 1 when some failed.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline import cli
from data_pipeline.cli import UserError
from data_pipeline.finish_dataset import CODEC_PATH, FAILURES_FILE, SEMANTIC_PATH, finish
from data_pipeline.fit_tokenizers import fit_tokenizers
from data_pipeline.output_claim import claimed
from data_pipeline.records import shard_name
from data_pipeline.sources import Failure, FolderSource, Utterance, assign_splits
from data_pipeline.spec import SPEC_FILE, DatasetSpec
from data_pipeline.tokenize_shard import ShardReport, ShardTask
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.worker_pool import run_tasks

_REPORTS = ".reports"
_RUN_VERSION = 1
_FITTED = "fitted on this corpus"
# About this many shards, of so many recordings: small enough to lose little, few enough to open.
_SHARDS, _LEAST_PER_SHARD, _MOST_PER_SHARD = 16, 64, 4096


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What to tokenise, with what, into what.

    Attributes:
        audio_dir: the folder source's directory.
        output: the dataset directory.
        transcripts: CSV file, or None.
        speaker_pattern: see `sources.FolderSource`.
        language: of recordings whose language is not given.
        semantic: directory of the semantic tokenizer, or None to fit one.
        codec: directory of the acoustic codec, or None to fit one.
        min_seconds: shortest recording taken.
        chunk_seconds: longest record; longer recordings are cut evenly.
        valid_fraction: share of each speaker's recordings that goes to the split `valid`.
        heldout_speakers: how many speakers, or which, go to the split `unseen`; None: see
            `sources.assign_splits`.
        seed: of the splits.
        utterances_per_shard: 0 chooses by the size of the corpus.
        num_workers: processes; 0 works in this one.
    """

    audio_dir: str
    output: str
    transcripts: str | None = None
    speaker_pattern: str = "auto"
    language: str = "und"
    semantic: str | None = None
    codec: str | None = None
    min_seconds: float = 0.1
    chunk_seconds: float = 30.0
    valid_fraction: float = 0.05
    heldout_speakers: int | tuple[str, ...] | None = None
    seed: int = 0
    utterances_per_shard: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        """Checks what can be checked without looking at files; raises UserError."""
        if not 0 < self.min_seconds < self.chunk_seconds:
            raise UserError(
                f"min_seconds {self.min_seconds} must be positive and below chunk_seconds "
                f"{self.chunk_seconds}"
            )
        if self.chunk_seconds < 1:
            raise UserError(f"chunk_seconds must be at least 1, is {self.chunk_seconds}")
        if self.utterances_per_shard < 0 or self.num_workers < 0:
            raise UserError("utterances_per_shard and num_workers must not be negative")


def tokenize_corpus(config: CorpusConfig) -> dict[str, Any]:
    """Tokenises a corpus, or finishes doing so.

    Returns:
        For `--json_out`: `output`, `fingerprint` (None when no recording could be used),
        `statistics`, `splits`, `hours`, `failures_file`, `resumed_shards`, `seconds` (of this run),
        `real_time_factor` (seconds of audio per second; None when there was nothing to do).

    Raises:
        UserError: nothing to read, a directory that cannot be written, or one that holds a run
            with other settings or inputs.
    """
    began = time.monotonic()
    utterances, failures = FolderSource(
        config.audio_dir, config.transcripts, config.speaker_pattern, config.language
    ).list()
    utterances = assign_splits(
        utterances, config.valid_fraction, config.heldout_speakers, config.seed
    )
    num_inputs = len(utterances) + len(failures)
    output = Path(config.output).absolute()
    with claimed(output, _describe(config, utterances, failures)):
        if (output / SPEC_FILE).exists():
            finished = DatasetSpec.load(output)
            _check_shards(output, finished)
            return _result(output, finished, num_inputs, 0, began, worked=False)
        _provide_tokenizers(config, utterances, output)
        tasks = _plan_shards(config, utterances, output)
        done = {task for split in tasks.values() for task in split if _is_done(task)}
        pending = [task for split in tasks.values() for task in split if task not in done]
        run_tasks(pending, config.num_workers)
        spec = finish(
            output,
            {
                split: [ShardReport.load(task.report) for task in shards]
                for split, shards in tasks.items()
            },
            num_inputs,
            failures,
            load_semantic(output / SEMANTIC_PATH),
            load_codec(output / CODEC_PATH),
            config.min_seconds,
            config.chunk_seconds,
        )
        if spec is not None:
            # An orphan of a killed run may still be writing there.
            shutil.rmtree(output / _REPORTS, ignore_errors=True)
        return _result(output, spec, num_inputs, len(done), began, worked=bool(pending))


def _describe(
    config: CorpusConfig, utterances: Sequence[Utterance], failures: Sequence[Failure]
) -> dict[str, Any]:
    """All that decides the bytes of the dataset: settings, tokenizers, and a digest of inputs.

    Directories are left out, so that a corpus and its dataset may be moved.
    """
    settings = dataclasses.asdict(config)
    for name in ("audio_dir", "transcripts", "output", "num_workers", "semantic", "codec"):
        del settings[name]
    root = Path(config.audio_dir).absolute()
    semantic = load_semantic(config.semantic).sha256 if config.semantic else _FITTED
    codec = load_codec(config.codec).sha256 if config.codec else _FITTED
    digest = hashlib.sha256()
    items: list[Utterance | Failure] = [*utterances, *failures]
    for item in items:
        try:
            size = os.stat(item.path).st_size
        except OSError:
            size = -1
        content = {**dataclasses.asdict(item), "path": os.path.relpath(item.path, root)}
        digest.update(json.dumps([content, size], sort_keys=True).encode())
    return {
        "version": _RUN_VERSION,
        **settings,
        "semantic": semantic,
        "codec": codec,
        "inputs": len(utterances) + len(failures),
        "inputs_sha256": digest.hexdigest(),
    }


def _check_shards(output: Path, spec: DatasetSpec) -> None:
    for name, split in spec.splits.items():
        for number in range(split.num_shards):
            path = output / shard_name(name, number, split.num_shards)
            if not path.is_file():
                raise UserError(f"{path} is missing: restore it, or delete {output} and run again")


def _provide_tokenizers(
    config: CorpusConfig, utterances: Sequence[Utterance], output: Path
) -> None:
    """Puts both tokenizers into the dataset directory: copied, or fitted on the corpus."""
    fitted = output / ".fitted"
    for given, path in ((config.semantic, SEMANTIC_PATH), (config.codec, CODEC_PATH)):
        target = output / path
        if target.exists():
            continue
        if given is None and not fitted.exists():
            _fit(config, utterances, fitted)
        temporary = target.with_name(f".{target.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(given or fitted / target.name, temporary)
        temporary.replace(target)
    shutil.rmtree(fitted, ignore_errors=True)


def _fit(config: CorpusConfig, utterances: Sequence[Utterance], target: Path) -> None:
    """Fits the offline tokenizers; `target` exists only once both are complete."""
    temporary = target.with_name(f"{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        fit_tokenizers(
            utterances,
            temporary,
            min_seconds=config.min_seconds,
            seed=config.seed,
            num_workers=config.num_workers or 1,
        )
    except UserError as error:
        raise UserError(
            f"fitting tokenizers: {error}. For other sizes, fit them with python -m "
            "data_pipeline.fit_tokenizers and name them with --semantic and --codec"
        ) from error
    temporary.replace(target)


def _plan_shards(
    config: CorpusConfig, utterances: Sequence[Utterance], output: Path
) -> dict[str, list[ShardTask]]:
    """Utterances in their sorted order, cut into shards; for every split."""
    reports = output / _REPORTS
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
                audio_root=str(Path(config.audio_dir).absolute()),
                semantic=str(output / SEMANTIC_PATH),
                codec=str(output / CODEC_PATH),
                min_seconds=config.min_seconds,
                chunk_seconds=config.chunk_seconds,
                shard=str(output / shard_name(split, number, count)),
                report=str(reports / f"{split}-{number:05d}.json"),
            )
            for number in range(count)
        ]
    return tasks


def _is_done(task: ShardTask) -> bool:
    return os.path.exists(task.report) and os.path.exists(task.shard)


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
    flags.DEFINE_enum("source", "folder", ["folder"], "Where recordings come from.")
    flags.DEFINE_string(
        "audio_dir", None, "Directory tree of wav, flac, ogg or mp3 files.", required=True
    )
    flags.DEFINE_string("output", None, "Dataset directory, made where missing.", required=True)
    flags.DEFINE_string(
        "transcripts", None, "CSV file: path and optionally speaker, text, language, split."
    )
    flags.DEFINE_string(
        "speaker_pattern", "auto", "auto, or a regular expression with one group for the path."
    )
    flags.DEFINE_string("language", "und", "Language of recordings whose row does not name one.")
    flags.DEFINE_string(
        "semantic", None, "Directory of a semantic tokenizer; fitted on the corpus if left out."
    )
    flags.DEFINE_string(
        "codec", None, "Directory of an acoustic codec; fitted on the corpus if left out."
    )
    flags.DEFINE_float("min_seconds", CorpusConfig.min_seconds, "Shortest recording taken.")
    flags.DEFINE_float(
        "chunk_seconds", CorpusConfig.chunk_seconds, "Longest record; longer ones are cut evenly."
    )
    flags.DEFINE_float(
        "valid_fraction", CorpusConfig.valid_fraction, "Share of a speaker's recordings in valid."
    )
    flags.DEFINE_string(
        "heldout_speakers", None, "How many speakers, or which (a,b,c), go to the split unseen."
    )
    flags.DEFINE_integer("seed", 0, "Of the choice of splits.")
    flags.DEFINE_integer(
        "utterances_per_shard", 0, "Recordings per shard; 0 chooses by the size of the corpus."
    )
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes; 0 works in this one.")


def _config_from_flags() -> CorpusConfig:
    names = (field.name for field in dataclasses.fields(CorpusConfig))
    values = {name: getattr(flags.FLAGS, name) for name in names}
    heldout = values["heldout_speakers"]
    if heldout is not None:
        whole = heldout.isdecimal()
        values["heldout_speakers"] = int(heldout) if whole else tuple(heldout.split(","))
    return CorpusConfig(**values)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    result = tokenize_corpus(_config_from_flags())
    if cli.JSON_OUT.value:
        cli.write_json(cli.JSON_OUT.value, result)
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
    return 1 if failed else 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
