"""From finished shards to a dataset: length index, TFDS metadata, failure manifest, dataset.json.

`dataset.json` is written last: where it exists, everything else does.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_dataset import (
    CODEC_PATH,
    FAILURES_FILE,
    SEMANTIC_PATH,
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from data_pipeline.runtime.files import write_text
from data_pipeline.sources import Failure
from data_pipeline.tokenization.shard import ShardReport, align
from data_pipeline.tokenizers.base import AcousticCodec, SemanticTokenizer
from data_pipeline.tokens import TokenLayout

_SILENCE_SECONDS = 0.1


def finish(
    output: Path,
    reports: Mapping[str, Sequence[ShardReport]],
    num_inputs: int,
    list_failures: Sequence[Failure],
    semantic: SemanticTokenizer,
    codec: AcousticCodec,
    min_seconds: float,
    chunk_seconds: float,
    batch_mismatches: Mapping[str, int],
) -> DatasetSpec | None:
    """Writes everything that goes beside the shards.

    Args:
        output: the dataset directory, with all shards.
        reports: of the shards of every split, in order.
        num_inputs: recordings that the source found, those that it refused included.
        list_failures: those that it refused.
        semantic: the tokenizer used.
        codec: the codec used.
        min_seconds: shorter recordings failed.
        chunk_seconds: longest record.
        batch_mismatches: see `batch_check.batch_mismatches`.

    Returns:
        The spec as written; None when no input became a record: then only the failure manifest is
        written.
    """
    failures = [dataclasses.asdict(failure) for failure in list_failures]
    recorded, left_out = 0, 0.0
    for shard in (report for split in reports.values() for report in split):
        failures.extend(shard.failures)
        recorded += shard.recorded
        left_out += shard.left_out_seconds
    if recorded + len(failures) != num_inputs:
        raise AssertionError(f"{num_inputs} inputs, {recorded} recorded, {len(failures)} failed")
    failures.sort(key=lambda failure: (failure["id"], failure["path"]))
    lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures]
    write_text(output / FAILURES_FILE, "".join(lines))

    splits = {}
    for name, shards in reports.items():
        if any(shard.units for shard in shards):
            splits[name] = _split(output, name, shards)
        else:
            for number in range(len(shards)):
                path = output / token_records.shard_name(name, number, len(shards))
                path.unlink(missing_ok=True)
    if not splits:
        return None
    token_records.write_metadata(
        output,
        codec.num_codebooks,
        {name: [len(shard.units) for shard in reports[name]] for name in splits},
        {name: sum(shard.num_bytes for shard in reports[name]) for name in splits},
    )
    stages = Counter(failure["stage"] for failure in failures)
    languages = {code for name in splits for shard in reports[name] for code in shard.language}
    spec = DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=codec.sample_rate,
        semantic=StreamSpec(
            semantic.id, semantic.sha256, semantic.vocab_size, semantic.frame_rate, SEMANTIC_PATH
        ),
        codec=CodecSpec(
            codec.id,
            codec.sha256,
            codec.num_codebooks,
            codec.codebook_size,
            codec.frame_rate,
            codec.sample_rate,
            CODEC_PATH,
        ),
        text_tokenizer=None,
        languages=tuple(sorted(languages)),
        silence=encode_silence(semantic, codec),
        splits=splits,
        min_seconds=min_seconds,
        chunk_seconds=chunk_seconds,
        statistics={
            "inputs": num_inputs,
            "recorded": recorded,
            "failed": len(failures),
            **{f"failed_{stage}": stages[stage] for stage in sorted(stages)},
            "records": sum(split.num_records for split in splits.values()),
            **({"left_out_seconds": round(left_out)} if left_out else {}),
            **batch_mismatches,
        },
    ).sealed()
    spec.save(output)
    return spec


def layout_of(semantic: SemanticTokenizer, codec: AcousticCodec) -> TokenLayout:
    """The token layout of a pair of tokenizers."""
    return TokenLayout(
        semantic.vocab_size,
        codec.num_codebooks,
        codec.codebook_size,
        semantic.frame_rate,
        codec.frame_rate,
    )


def encode_silence(semantic: SemanticTokenizer, codec: AcousticCodec) -> SilenceSpec:
    """Tokens of 0.1 s of digital silence."""
    wav = np.zeros(round(_SILENCE_SECONDS * codec.sample_rate), np.float32)
    rate = codec.sample_rate
    units, codes = align(
        layout_of(semantic, codec), semantic.encode(wav, rate), codec.encode(wav, rate)
    )
    return SilenceSpec(
        _SILENCE_SECONDS, tuple(units.tolist()), tuple(tuple(row) for row in codes.tolist())
    )


def _split(output: Path, name: str, shards: Sequence[ShardReport]) -> SplitSpec:
    """Writes the length index of a split and describes it."""
    columns = {
        column: [value for shard in shards for value in getattr(shard, column)]
        for column in ("units", "units_dedup", "frames", "speaker", "language", "seconds")
    }
    speakers, speaker = np.unique(np.array(columns["speaker"], np.str_), return_inverse=True)
    languages, language = np.unique(np.array(columns["language"], np.str_), return_inverse=True)
    index = LengthIndex(
        units=np.array(columns["units"], np.int32),
        units_dedup=np.array(columns["units_dedup"], np.int32),
        frames=np.array(columns["frames"], np.int32),
        speaker=speaker.astype(np.int32),
        language=language.astype(np.int32),
        speakers=tuple(speakers.tolist()),
        languages=tuple(languages.tolist()),
    )
    digests = "\n".join(shard.sha256 for shard in shards)
    return SplitSpec(
        num_records=len(index),
        num_shards=len(shards),
        hours=round(sum(columns["seconds"]) / 3600, 6),
        index_sha256=index.save(index_path(output, name)),
        shards_sha256=hashlib.sha256(digests.encode()).hexdigest(),
    )
