"""Text tokenizers behind one protocol: sentencepiece models and Hugging Face's tokenizer.json.

Both are files in a local directory: `tokenizer.model` (Llama 2, or from `fit_text_tokenizer`) and
`tokenizer.json` (Llama 3; needs the package `tokenizers`, which comes with transformers). Nothing
is downloaded, and no code from the directory is run.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import sentencepiece

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256

MODEL_FILE, JSON_FILE = "tokenizer.model", "tokenizer.json"


@runtime_checkable
class TextTokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        id: names the method and its size.
        sha256: of the file.
        vocab_size: ids are in [0, vocab_size).
        prefix: ids that every sequence starts with, such as Llama's BOS; often none.
    """

    id: str
    sha256: str
    vocab_size: int
    prefix: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the prefix."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids in [0, vocab_size)."""
        ...

    def lacking(self, text: str) -> list[str]:
        """Characters of a text that are unknown, or that only bytes spell, each once."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece model; see `TextTokenizer`."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads a `tokenizer.model`; UserError if it is not one."""
        try:
            data = Path(path).read_bytes()
            # An empty model would be accepted, and crash the process at the first text.
            if not data:
                raise RuntimeError("the file is empty")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except RuntimeError as error:
            raise UserError(f"{path} is not a sentencepiece model: {error}") from error
        self.sha256 = file_sha256(path)
        self.vocab_size = self._model.get_piece_size()
        self.id = f"sentencepiece-{self.vocab_size}"
        start = self._model.bos_id()
        self.prefix = (start,) if start >= 0 else ()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the prefix."""
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids in [0, vocab_size)."""
        return self._model.decode([int(token) for token in ids])

    def lacking(self, text: str) -> list[str]:
        """Characters of a text that are unknown, or that only bytes spell, each once."""

        def lacks(character: str) -> bool:
            ids = self._model.encode(character)
            return any(self._model.is_unknown(i) or self._model.is_byte(i) for i in ids)

        return [c for c in dict.fromkeys(text) if not c.isspace() and lacks(c)]


class JSONTokenizer:
    """A `tokenizer.json` of the library `tokenizers`; see `TextTokenizer`."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads a `tokenizer.json`; UserError if it is not one."""
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                f"{path} needs the package tokenizers: pip install 'gpst_jax[codecs]'"
            ) from error
        try:
            self._model = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except Exception as error:  # the library raises bare Exception for bad content
            raise UserError(f"{path} is not a tokenizer.json: {error}") from error
        self._model.no_padding()
        self._model.no_truncation()
        self.sha256 = file_sha256(path)
        # Ids may have gaps: this is the number of rows that an embedding table needs.
        self.vocab_size = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        self.id = f"tokenizers-{self.vocab_size}"
        self.prefix = self._prefix()

    def _prefix(self) -> tuple[int, ...]:
        """Ids that the post-processor puts in front of a text."""
        processed = self._model.encode("a", add_special_tokens=True).ids
        plain = self._model.encode("a", add_special_tokens=False).ids
        for start in range(len(processed) - len(plain) + 1):
            if processed[start : start + len(plain)] == plain:
                return tuple(processed[:start])
        return ()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the prefix."""
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids in [0, vocab_size)."""
        return self._model.decode([int(token) for token in ids], skip_special_tokens=True)

    def lacking(self, text: str) -> list[str]:
        """Characters of a text that are unknown, each once; byte-level models lack none."""
        return [
            character
            for character in dict.fromkeys(text)
            if not character.isspace() and character not in self.decode(self.encode(character))
        ]


def load_text_tokenizer(directory: str | os.PathLike[str]) -> TextTokenizer:
    """Loads the tokenizer of a directory.

    Raises:
        UserError: the directory holds none, or an invalid one.
    """
    return _open(_file(directory))


def store_text_tokenizer(
    directory: str | os.PathLike[str], output: str | os.PathLike[str]
) -> TextTokenizer:
    """Copies the file of a tokenizer into a new directory and loads it from there."""
    path = _file(directory)
    _open(path)
    Path(output).mkdir(parents=True, exist_ok=True)
    temporary = Path(output, f".{path.name}.tmp")
    shutil.copyfile(path, temporary)
    temporary.replace(Path(output, path.name))
    return load_text_tokenizer(output)


def _file(directory: str | os.PathLike[str]) -> Path:
    model, text = Path(directory, MODEL_FILE), Path(directory, JSON_FILE)
    if not (model.is_file() or text.is_file()):
        raise UserError(
            f"{directory} holds neither {MODEL_FILE} nor {JSON_FILE}: name a text tokenizer's "
            "directory, or make one with data_pipeline.fit_text_tokenizer"
        )
    # Llama 3 also ships a tiktoken file under sentencepiece's name: plain text, unlike a model.
    if model.is_file() and not (text.is_file() and _is_tiktoken(model)):
        return model
    return text


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(256).split()
    return len(first) == 2 and first[1].isdigit()


def _open(path: Path) -> Any:
    return SentencePieceTokenizer(path) if path.name == MODEL_FILE else JSONTokenizer(path)
