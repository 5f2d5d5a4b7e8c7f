"""Trains a small sentencepiece tokenizer on the transcripts of token datasets.

    python -m data_pipeline.fit_text_tokenizer --source=TOKENS [--source=...] --output=DIR \
        [--vocab_size=512]

Reads the split `train`. BPE with byte fallback over the transcripts and the texts of `templates`:
every text can be encoded and decodes to itself. Equal transcripts give an identical file.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from absl import flags

from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.sequences import templates
from data_pipeline.tokenizers.text import MODEL_FILE, load_text_tokenizer


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Settings of a run.

    Attributes:
        source: directories of token datasets.
        output: directory of the tokenizer.
        vocab_size: maximum number of ids, including 256 bytes; fewer if the texts run out of
            merges.
        max_texts: maximum number of transcripts of each source, from its beginning.
    """

    source: tuple[str, ...]
    output: str
    vocab_size: int = 512
    max_texts: int = 1_000_000

    def __post_init__(self) -> None:
        """Raises UserError for invalid values."""
        if not self.source:
            raise UserError("--source: name at least one token dataset")
        if self.max_texts < 1:
            raise UserError(f"--max_texts={self.max_texts} must be positive")


def fit_text_tokenizer(config: FitConfig) -> dict[str, Any]:
    """Trains and writes a tokenizer.

    Returns:
        For `--json_out`: `output`, `id`, `sha256`, `vocab_size`, `texts`.

    Raises:
        UserError: no transcripts, too small a vocabulary, or an output that cannot be written.
    """
    texts = [text for source in config.source for text in _transcripts(source, config.max_texts)]
    if not texts:
        raise UserError(
            f"{', '.join(config.source)}: no record has a transcript; tokenise the corpus with "
            "--transcripts, or use the tokenizer of a language model"
        )
    try:
        Path(config.output).mkdir(parents=True, exist_ok=True)
        temporary = Path(config.output, f".{MODEL_FILE}.tmp")
        temporary.write_bytes(train([*texts, *templates.all_texts()], config.vocab_size))
        temporary.replace(Path(config.output, MODEL_FILE))
    except OSError as error:
        raise UserError(f"cannot write {config.output}: {error.strerror}") from error
    made = load_text_tokenizer(config.output)
    return {
        "output": config.output,
        "id": made.id,
        "sha256": made.sha256,
        "vocab_size": made.vocab_size,
        "texts": len(texts),
    }


def train(texts: Sequence[str], vocab_size: int) -> bytes:
    """A sentencepiece model of at most `vocab_size` ids, as bytes.

    Raises:
        UserError: the bytes and characters alone are more.
    """
    characters = {character for text in texts for character in text}
    least = 256 + 1 + len(characters | {"\u2581"})
    if vocab_size < least:
        raise UserError(f"--vocab_size={vocab_size}: 256 bytes and the characters take {least}")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",  # decoding restores the text exactly
            remove_extra_whitespaces=False,
            bos_id=-1,  # the templates have their own markers
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"--vocab_size={vocab_size}: {error}") from error
    return model.getvalue()


def _transcripts(source: str, most: int) -> Iterator[str]:
    records = RecordReader(source, "train")
    texts = (records[number].text for number in range(len(records)))
    yield from itertools.islice((text for text in texts if text), most)


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_multi_string("source", None, "Token dataset with transcripts.", required=True)
    flags.DEFINE_string("output", None, "Directory of the tokenizer.", required=True)
    flags.DEFINE_integer(
        "vocab_size", FitConfig.vocab_size, "Maximum number of ids, including 256 bytes."
    )
    flags.DEFINE_integer("max_texts", FitConfig.max_texts, "Transcripts read of each source.")


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    names = [field.name for field in dataclasses.fields(FitConfig)]
    values = {name: getattr(flags.FLAGS, name) for name in names}
    values["source"] = tuple(values["source"])
    result = fit_text_tokenizer(FitConfig(**values))
    print(f"{result['id']} of {result['texts']} transcripts: {result['output']}")
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
