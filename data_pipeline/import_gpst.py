"""Imports tokens that the official GPST code wrote as LMDB into token shards.

    python -m data_pipeline.import_gpst --root=DIR --splits=train=train-960,valid=dev \
        --semantic=NAME --codec=NAME --output=DIR

The official layout is one LMDB environment per stream and split, ROOT/xlsr2_unit/SPLIT and
ROOT/meta24khz_12kpbs_codec/SPLIT. A key is the path of a recording, or of a part of one; its value
is the tokens as int64, codes codebook after codebook. KEY_size holds the shape as a pickle, which
is never read: the number of codebooks, which follows from the directory's name (12 kbps: 16), and
the length of the value determine it.

The tokenizers must be those that made the tokens: the dataset needs their encoded silence, and
generation needs the codec. Only their vocabularies can be checked here.
"""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.datasets.token_dataset import CODEC_PATH, SEMANTIC_PATH, SPEC_FILE, DatasetSpec
from data_pipeline.datasets.token_records import Record, ShardWriter, shard_name
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.contents import file_digest, file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256, write_json
from data_pipeline.runtime.output_lock import RUN_FILE, claimed
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import SPLITS, Failure
from data_pipeline.sources.folder import SpeakerNames
from data_pipeline.tokenization.finish import finish, layout_of
from data_pipeline.tokenization.shard import ShardReport, align
from data_pipeline.tokenizers import load_codec, load_semantic, store_tokenizer
from data_pipeline.tokens import deduplicate

UNITS_DIR, CODES_DIR = "xlsr2_unit", "meta24khz_12kpbs_codec"
_SIZE = b"_size"
_PER_SHARD = 4096
_CHUNK_SECONDS = 30.0  # of the official preparation (spec section 1.3)
_MIN_SECONDS = 1.0
_BITS_PER_SECOND = 750  # of one EnCodec codebook: 75 frames of 10 bits


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Settings of an import.

    Attributes:
        root: directory of both streams.
        output: dataset directory.
        splits: from our names (train, valid, unseen) to the official code's.
        semantic: name of the semantic tokenizer that made the units.
        codec: name of the codec that made the codes; it may have fewer codebooks than are stored,
            of which the first are then read.
        units_dir: directory of the units, below the root.
        codes_dir: directory of the codes, below the root.
        stored_codebooks: codebooks of the stored codes; 0: follows from `codes_dir`.
        language: of all recordings.
    """

    root: str
    output: str
    splits: Mapping[str, str]
    semantic: str
    codec: str
    units_dir: str = UNITS_DIR
    codes_dir: str = CODES_DIR
    stored_codebooks: int = 0
    language: str = "und"

    def __post_init__(self) -> None:
        """Raises UserError for an unknown split, or if the number of codebooks is unknown."""
        for name in self.splits:
            if name not in SPLITS:
                raise UserError(f"splits: {name!r} is not one of {', '.join(SPLITS)}")
        if not self.splits:
            raise UserError("splits: name at least one, such as train=train-clean-100")
        _ = self.depth

    @property
    def depth(self) -> int:
        """Codebooks that are stored."""
        if self.stored_codebooks > 0:
            return self.stored_codebooks
        rate = re.search(r"(\d+)k(?:pb|bp)s", self.codes_dir)  # misspelt in the official name
        if rate is None:
            raise UserError(f"no kbps in the name {self.codes_dir}: set stored_codebooks")
        return int(rate[1]) * 1000 // _BITS_PER_SECOND


def import_gpst(config: ImportConfig) -> dict[str, Any]:
    """Writes a dataset from the official layout; finished shards of a killed run are kept.

    Returns:
        `output`, `fingerprint` (None when nothing could be imported), `statistics`, `seconds`.

    Raises:
        UserError: the environments or tokenizers cannot be read, or the output cannot be written.
    """
    began = time.monotonic()
    output = Path(config.output).absolute()
    semantic, codec = load_semantic(config.semantic), load_codec(config.codec)
    if codec.num_codebooks > config.depth:
        raise UserError(
            f"codec {codec.id} has {codec.num_codebooks} codebooks, {config.depth} are stored"
        )
    streams = {name: _Streams(config, theirs) for name, theirs in config.splits.items()}
    description = dataclasses.asdict(config) | {
        "semantic": semantic.sha256,
        "codec": codec.sha256,
        "inputs": sum(len(stream.keys) for stream in streams.values()),
    }
    for name in ("root", "output"):
        del description[name]
    if not _finished_without_contents(output):
        files = [path for stream in streams.values() for path in stream.files]
        held = "\n".join(file_digest(str(path), file_state(path)) for path in files)
        description["inputs_sha256"] = hashlib.sha256(held.encode()).hexdigest()
    with claimed(output, description):
        if not (output / SPEC_FILE).exists():
            for given, path in ((config.semantic, SEMANTIC_PATH), (config.codec, CODEC_PATH)):
                if not (output / path).exists():
                    store_tokenizer(given, output / path)
            reports = {
                name: stream.write(output, name, layout_of(semantic, codec), config)
                for name, stream in streams.items()
            }
            seconds = [s for shards in reports.values() for r in shards for s in r.seconds]
            finish(
                output,
                reports,
                description["inputs"],
                [],
                semantic,
                codec,
                min([_MIN_SECONDS, *seconds]),
                max([_CHUNK_SECONDS, *seconds]),
                {},  # nothing was encoded here
            )
        done = (output / SPEC_FILE).exists()
        spec = DatasetSpec.load(output) if done else None
    return {
        "output": str(output),
        "fingerprint": spec.fingerprint if spec else None,
        "statistics": spec.statistics if spec else {},
        "seconds": round(time.monotonic() - began, 2),
    }


def _finished_without_contents(output: Path) -> bool:
    """Whether an older version, which did not store what its inputs held, has finished there."""
    try:
        stored = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "inputs_sha256" not in stored and (output / SPEC_FILE).exists()


class _Streams:
    """Both LMDB environments of one official split."""

    def __init__(self, config: ImportConfig, split: str):
        folders = [Path(config.root, name, split) for name in (config.units_dir, config.codes_dir)]
        self._units, self._codes = map(_open, folders)
        self.files = [folder / "data.mdb" for folder in folders]
        # Recordings that only one stream has are inputs too: they become failures.
        self.keys = sorted(_keys(self._units) | _keys(self._codes))

    def write(
        self, output: Path, split: str, layout: Any, config: ImportConfig
    ) -> list[ShardReport]:
        """Writes the missing shards of a split; returns the reports of all."""
        reports = []
        count = -(-len(self.keys) // _PER_SHARD)
        paths = [Path(os.fsdecode(key)) for key in self.keys]
        speakers = SpeakerNames("auto", Path("/"), paths)
        with progress(f"import {split}, recordings", len(self.keys)) as advance:
            for number in range(count):
                keys = self.keys[number * _PER_SHARD : (number + 1) * _PER_SHARD]
                report = output / ".reports" / f"{split}-{number:05d}.json"
                shard = output / shard_name(split, number, count)
                if not (report.exists() and shard.exists()):
                    self._write_shard(shard, report, keys, speakers, layout, config)
                reports.append(ShardReport.load(report))
                advance(len(keys))
        return reports

    def _write_shard(
        self,
        shard: Path,
        report: Path,
        keys: Sequence[bytes],
        speakers: SpeakerNames,
        layout: Any,
        config: ImportConfig,
    ) -> None:
        names = ("units", "units_dedup", "frames", "speaker", "language", "seconds")
        columns: dict[str, list] = {name: [] for name in names}
        failures = []
        temporary = shard.with_name(f".{shard.name}.part")
        with ShardWriter(temporary, layout.num_codebooks) as writer:
            for key in keys:
                path = os.fsdecode(key)
                try:
                    units, codes = align(layout, *self._tokens(key, config.depth, layout))
                except ValueError as error:
                    failure = Failure(path, path, "tokenise", str(error))
                    failures.append(dataclasses.asdict(failure))
                    continue
                seconds = len(units) / float(layout.unit_rate)
                record = Record(
                    id=path,
                    source=path,
                    speaker=speakers(Path(path)),
                    language=config.language,
                    text=None,
                    start=0.0,
                    end=seconds,
                    units=units,
                    codes=codes,
                )
                writer.write(record)
                columns["units"].append(len(units))
                columns["units_dedup"].append(len(deduplicate(units)[0]))
                columns["frames"].append(codes.shape[1])
                columns["speaker"].append(record.speaker)
                columns["language"].append(record.language)
                columns["seconds"].append(seconds)
        done = ShardReport(
            **columns,
            recorded=len(columns["units"]),
            left_out_seconds=0.0,
            failures=failures,
            num_bytes=writer.num_bytes,
            sha256=file_sha256(temporary),
        )
        temporary.replace(shard)
        write_json(report, dataclasses.asdict(done))

    def _tokens(self, key: bytes, depth: int, layout: Any) -> tuple[np.ndarray, np.ndarray]:
        """Units (S,) and the first codebooks' codes (Q, T); ValueError where they are invalid."""
        found = []
        for name, environment in (("units", self._units), ("codes", self._codes)):
            with environment.begin() as transaction:
                value = transaction.get(key)
            if value is None:
                raise ValueError(f"the official {name} lack this recording")
            if len(value) % 8:
                raise ValueError(f"{name} of {len(value)} bytes are not int64")
            found.append(np.frombuffer(value, "<i8"))
        units, codes = found
        if len(codes) % depth:
            raise ValueError(f"{len(codes)} codes are not a multiple of {depth} codebooks")
        return units, codes.reshape(depth, -1)[: layout.num_codebooks]


def _open(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError("the official layout needs lmdb: pip install lmdb") from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(f"{path} is not an LMDB environment: {error}") from error


def _keys(environment: Any) -> set[bytes]:
    """Keys of tokens, without those of sizes."""
    with environment.begin() as transaction:
        keys = set(transaction.cursor().iternext(keys=True, values=False))
    return {key for key in keys if not (key.endswith(_SIZE) and key.removesuffix(_SIZE) in keys)}


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_string("root", None, "Directory of both streams.", required=True)
    flags.DEFINE_string("output", None, "Dataset directory.", required=True)
    flags.DEFINE_list("splits", None, "OURS=THEIRS, such as train=train-960.", required=True)
    flags.DEFINE_string("semantic", None, "Tokenizer that made the units.", required=True)
    flags.DEFINE_string("codec", None, "Codec that made the codes.", required=True)
    flags.DEFINE_string("units_dir", UNITS_DIR, "Directory of the units, below the root.")
    flags.DEFINE_string("codes_dir", CODES_DIR, "Directory of the codes, below the root.")
    flags.DEFINE_integer(
        "stored_codebooks", 0, "Codebooks of the stored codes; 0: follows from codes_dir.", 0
    )
    flags.DEFINE_string("language", "und", "Of all recordings.")


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    names = [field.name for field in dataclasses.fields(ImportConfig)]
    values = {name: getattr(flags.FLAGS, name) for name in names}
    pairs = [item.partition("=") for item in values["splits"]]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise UserError("splits are written OURS=THEIRS,OURS=THEIRS")
    values["splits"] = {ours: theirs for ours, _, theirs in pairs}
    result = import_gpst(ImportConfig(**values))
    print(json.dumps(result["statistics"]))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    failed = result["statistics"].get("failed") or not result["fingerprint"]
    return exit_codes.PARTIAL if failed else exit_codes.OK


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
