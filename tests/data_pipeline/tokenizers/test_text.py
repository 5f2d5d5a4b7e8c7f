"""Text tokenizers: both kinds of file behind one protocol, and one trained on transcripts."""

import dataclasses
import io
import sys
from pathlib import Path

import pytest
import sentencepiece

from data_pipeline import fit_text_tokenizer
from data_pipeline.fit_text_tokenizer import FitConfig, train
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences import templates
from data_pipeline.tokenizers.text import (
    JSON_FILE,
    MODEL_FILE,
    JSONTokenizer,
    SentencePieceTokenizer,
    TextTokenizer,
    load_text_tokenizer,
    store_text_tokenizer,
)

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEXTS = [" ".join(WORDS[(n * k) % 10] for k in range(1, 7)) for n in range(200)]
ODD = ["seven eight", "  two  spaces ", "a\nb", "ünïcode 漢字 😀", "!"]


@pytest.fixture(scope="module")
def small() -> bytes:
    return train([*TEXTS, *templates.all_texts()], 512)


@pytest.fixture
def small_dir(small, tmp_path) -> Path:
    (tmp_path / MODEL_FILE).write_bytes(small)
    return tmp_path


def _llama2_like(path: Path) -> Path:
    """A model with the ids of Llama 2: unknown, start and end in front, then bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


def _llama3_like(path: Path):
    """A byte-level model whose post-processor puts a start id first, as Llama 3's does."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens(["<|begin|>", "<|reserved|>"])
    start = made.token_to_id("<|begin|>")
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", start)]
    )
    made.enable_truncation(4)
    made.save(str(path))
    return made


def _check_protocol(tokenizer: TextTokenizer) -> None:
    assert isinstance(tokenizer, TextTokenizer)
    assert len(tokenizer.sha256) == 64
    assert str(tokenizer.vocab_size) in tokenizer.id
    for text in ODD:
        ids = tokenizer.encode(text)
        assert ids
        assert all(0 <= token < tokenizer.vocab_size for token in ids)
    for text in TEXTS[:5]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_a_trained_tokenizer_gives_back_any_text(small_dir) -> None:
    tokenizer = load_text_tokenizer(small_dir)
    _check_protocol(tokenizer)
    assert tokenizer.prefix == ()
    assert [tokenizer.decode(tokenizer.encode(text)) for text in ODD] == ODD
    # Whole words of the corpus are single ids.
    assert all(len(tokenizer.encode(text)) == 6 for text in TEXTS)


def test_training_is_deterministic(small) -> None:
    assert train([*TEXTS, *templates.all_texts()], 512) == small
    assert train([*TEXTS, *templates.all_texts()], 450) != small


def test_a_sentencepiece_model_with_a_start_id(tmp_path) -> None:
    tokenizer = SentencePieceTokenizer(_llama2_like(tmp_path / MODEL_FILE))
    _check_protocol(tokenizer)
    assert tokenizer.vocab_size == 300
    assert tokenizer.prefix == (1,)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / MODEL_FILE))
    assert tokenizer.encode("one two") == reference.encode("one two")
    assert 1 not in tokenizer.encode("one two")


def test_a_tokenizer_json_as_the_library_reads_it(tmp_path) -> None:
    reference = _llama3_like(tmp_path / JSON_FILE)
    tokenizer = load_text_tokenizer(tmp_path)
    assert isinstance(tokenizer, JSONTokenizer)
    _check_protocol(tokenizer)
    start = reference.token_to_id("<|begin|>")
    assert tokenizer.prefix == (start,)
    assert tokenizer.vocab_size == start + 2
    reference.no_truncation()
    for text in [*TEXTS[:3], *ODD]:
        assert [*tokenizer.prefix, *tokenizer.encode(text)] == reference.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_directory_may_hold_both_kinds(tmp_path) -> None:
    _llama3_like(tmp_path / JSON_FILE)
    _llama2_like(tmp_path / MODEL_FILE)
    assert isinstance(load_text_tokenizer(tmp_path), SentencePieceTokenizer)
    # Llama 3 ships a tiktoken file under this name.
    (tmp_path / MODEL_FILE).write_text("IQ== 0\nIg== 1\n")
    assert isinstance(load_text_tokenizer(tmp_path), JSONTokenizer)


def test_storing_copies_what_is_needed_only(small_dir, tmp_path_factory) -> None:
    (small_dir / "weights.bin").write_bytes(b"much")
    output = tmp_path_factory.mktemp("stored") / "tokenizers" / "text"
    stored = store_text_tokenizer(small_dir, output)
    assert [path.name for path in output.iterdir()] == [MODEL_FILE]
    assert stored.sha256 == load_text_tokenizer(small_dir).sha256


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (MODEL_FILE, b"not a model", "tokenizer.model is not a sentencepiece model"),
        (MODEL_FILE, b"", "the file is empty"),
        (JSON_FILE, b"{}", "is not a tokenizer.json"),
        ("other", b"", "holds neither tokenizer.model nor tokenizer.json"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, name, content, message) -> None:
    if name == JSON_FILE:
        pytest.importorskip("tokenizers")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_text_tokenizer(tmp_path)


def test_a_missing_library_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / JSON_FILE).write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="needs the package tokenizers: pip install"):
        load_text_tokenizer(tmp_path)


def test_fits_on_the_transcripts_of_datasets(tmp_path, write_dataset, make_token_record) -> None:
    def record(number: int, text: str | None):
        return dataclasses.replace(make_token_record(number), text=text)

    write_dataset(tmp_path / "a", {"train": [record(n, TEXTS[n]) for n in range(20)]})
    write_dataset(
        tmp_path / "b",
        {"train": [record(n, None) for n in range(5)], "valid": [record(9, "Quetzal")]},
    )
    both = FitConfig((str(tmp_path / "a"), str(tmp_path / "b")), str(tmp_path / "out"), 450)
    result = fit_text_tokenizer.fit_text_tokenizer(both)
    made = load_text_tokenizer(tmp_path / "out")
    assert result["texts"] == 20
    assert (result["id"], result["sha256"]) == (made.id, made.sha256)
    assert made.vocab_size == result["vocab_size"] <= 450
    assert made.decode(made.encode("Quetzal")) == "Quetzal"  # never seen: by its bytes

    with pytest.raises(UserError, match="no record has a transcript"):
        fit_text_tokenizer.fit_text_tokenizer(FitConfig((str(tmp_path / "b"),), "out"))
    with pytest.raises(UserError, match="--vocab_size=100: 256 bytes and the characters take"):
        fit_text_tokenizer.fit_text_tokenizer(dataclasses.replace(both, vocab_size=100))
