"""Settings of a tokenising run, and the description by which two runs are compared."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.audio import chunking
from data_pipeline.runtime.contents import file_state, in_threads
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import Failure, FolderSource, Source, Utterance, open_source
from data_pipeline.sources.base import ON_HUB
from data_pipeline.sources.speakers import AUTO, check_rule
from data_pipeline.tokenizers import load_codec, load_semantic

LOCAL = "local"
# Version 1 compared names and sizes of recordings, but not what they hold.
_RUN_VERSION = 2
_FITTED = "fitted on this corpus"
# Settings that do not affect the dataset's bytes, or that the description has in another form.
_NOT_DESCRIBED = (
    "audio_dir",
    "source",
    "exclude",
    "transcripts",
    "output",
    "num_workers",
    "semantic",
    "codec",
    "runner",
    "beam_arguments",
)


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Settings of a run.

    Attributes:
        audio_dir: the folder source's directory; None where `source` names another.
        output: the dataset directory.
        transcripts: CSV file, or None.
        speaker_pattern: see `sources.FolderSource`.
        language: of recordings whose language is unknown.
        semantic: name of the semantic tokenizer, see `tokenizers`; None fits one.
        codec: name of the acoustic codec; None fits one.
        min_seconds: shorter recordings fail.
        chunk_seconds: longest record.
        valid_fraction: fraction of each speaker's recordings in the split `valid`.
        heldout_speakers: how many speakers, or which, go to the split `unseen`; None: see
            `sources.assign_splits`.
        seed: seeds the splits.
        utterances_per_shard: 0 chooses by the size of the corpus.
        num_workers: processes on this machine; 0 runs in this one.
        chunking: how longer recordings are cut, see `chunking.chunk_bounds`.
        trim_silence: leave out silence before the first speech and after the last.
        source: any other source, see `sources.open_source`; `transcripts`, `speaker_pattern` and
            `language` are for the folder source, other sources take them as options.
        runner: `local`, processes on this machine; or on Apache Beam, see `beam_runner.run_tasks`.
        beam_arguments: pipeline options for Beam.
        speaker_from: the rule that names the speakers, see `sources.speakers.SpeakerNames`; for the
            folder source, excludes `speaker_pattern`.
        exclude: paths below the folder source's directory that are left out, besides `output`.
    """

    audio_dir: str | None
    output: str
    transcripts: str | None = None
    speaker_pattern: str = AUTO
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
    chunking: str = "even"
    trim_silence: bool = False
    source: str | None = None
    runner: str = LOCAL
    beam_arguments: tuple[str, ...] = ()
    speaker_from: str = AUTO
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks all that needs no files; raises UserError."""
        if (self.audio_dir is None) == (self.source is None):
            raise UserError("name the recordings with either --audio_dir or --source")
        if self.source is not None and self.transcripts is not None:
            raise UserError(
                "--transcripts belongs to --audio_dir: a source takes it as its option "
                "?transcripts=FILE"
            )
        check_rule(self.speaker_pattern, self.speaker_from)
        for name in ("speaker_pattern", "speaker_from"):
            if self.source is not None and getattr(self, name) != AUTO:
                raise UserError(
                    f"--{name} belongs to --audio_dir: a source takes it as its option ?{name}=..."
                )
        if not 0 < self.min_seconds < self.chunk_seconds:
            raise UserError(
                f"min_seconds {self.min_seconds} must be positive and below chunk_seconds "
                f"{self.chunk_seconds}"
            )
        if self.chunk_seconds < 1:
            raise UserError(f"chunk_seconds must be at least 1, is {self.chunk_seconds}")
        if self.utterances_per_shard < 0 or self.num_workers < 0:
            raise UserError("utterances_per_shard and num_workers must not be negative")
        if self.chunking not in chunking.RULES:
            raise UserError(f"chunking {self.chunking!r} is not one of {chunking.RULES}")
        if self.beam_arguments and self.runner == LOCAL:
            raise UserError(
                f"unexpected argument {self.beam_arguments[0]!r}: arguments after -- are for a "
                "Beam runner, name one with --runner"
            )


def open_corpus(config: CorpusConfig) -> Source:
    """The source of the recordings."""
    if config.source is not None:
        source = open_source(config.source)
        if not isinstance(source, FolderSource):
            return source
    else:
        source = FolderSource(
            config.audio_dir or "",
            config.transcripts,
            config.speaker_pattern,
            config.language,
            config.speaker_from,
        )
    given = (source.exclude,) if isinstance(source.exclude, str) else source.exclude
    return dataclasses.replace(source, exclude=(*given, *config.exclude, config.output))


def corpus_root(config: CorpusConfig, items: Sequence[Utterance | Failure]) -> str:
    """The directory that stored paths are relative to, so that a corpus may be moved."""
    if config.audio_dir is not None:
        return str(Path(config.audio_dir).absolute())
    folders = [os.path.dirname(item.path) for item in items if os.path.isabs(item.path)]
    return os.path.commonpath(folders) if folders else os.sep


def describe(
    config: CorpusConfig, root: str, utterances: Sequence[Utterance], failures: Sequence[Failure]
) -> dict[str, Any]:
    """All that determines the dataset's bytes but those of recordings.

    Settings, tokenizers, and a digest of the inputs' names, texts, speakers and sizes. What the
    recordings hold is known when they have been read, and is compared by `inputs`. Directories are
    left out, so that a corpus and its dataset may be moved.
    """
    settings = dataclasses.asdict(config)
    for name in _NOT_DESCRIBED:
        del settings[name]
    for name in ("chunking", "trim_silence", "speaker_from"):
        # Omitted at their defaults, as in datasets older than these settings.
        if settings[name] == getattr(CorpusConfig, name):
            del settings[name]
    semantic = load_semantic(config.semantic).sha256 if config.semantic else _FITTED
    codec = load_codec(config.codec).sha256 if config.codec else _FITTED
    digest = hashlib.sha256()
    items: list[Utterance | Failure] = [*utterances, *failures]
    states = in_threads(lambda item: file_state(item.path), items)
    for item, (size, _, _) in zip(items, states, strict=True):
        content = {**dataclasses.asdict(item), "path": item.path}
        if item.path and not item.path.startswith(ON_HUB):
            content["path"] = os.path.relpath(item.path, root)
        if not content.get("member"):
            content.pop("member", None)  # as in datasets older than this field
        digest.update(json.dumps([content, size], sort_keys=True).encode())
    return {
        "version": _RUN_VERSION,
        **settings,
        "semantic": semantic,
        "codec": codec,
        "inputs": len(utterances) + len(failures),
        "inputs_sha256": digest.hexdigest(),
    }
