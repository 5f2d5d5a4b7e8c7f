"""Transcripts: numerals are words, kinds, and languages that rules are not for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.runtime.errors import UserError
from data_pipeline.synthetic.languages import LANGUAGES
from data_pipeline.synthetic.questions import DIGITS
from gpst_jax.samples.texts import (
    digit_words,
    language_code,
    normalise_digits,
    normalise_librispeech,
    other_language,
    text_kind,
    unspaced_script,
)

digits = st.lists(st.integers(0, 9), min_size=1)


@given(digits, st.sampled_from((" ", ", ", "-", "")))
def test_numerals_are_digits_where_the_normaliser_spells_them(values, between):
    words, numerals = (" ".join(DIGITS[v] for v in values), between.join(map(str, values)))
    assert normalise_digits(numerals) == normalise_digits(words.upper()) == words
    assert text_kind(numerals) == text_kind(words) == "digits"


@pytest.mark.parametrize("text", ["one apple", "7 apples", "", " . ", None, "\u0667", "七", "1st"])
def test_other_texts_are_free(text):
    assert text_kind(text) == "free"


def test_a_kind_is_digits_where_normalisation_accepts_it():
    for text in ("oh seven", "Five!", "4 2", "o", "one two NINE", "zero,one"):
        assert text_kind(text) == "digits"
        normalise_digits(text)
    with pytest.raises(UserError, match="hundred"):
        normalise_digits("one hundred")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chapter 7.", "CHAPTER SEVEN"),
        ("chapter seven", "CHAPTER SEVEN"),
        ("42 of 1,250", "FORTY TWO OF ONE THOUSAND TWO HUNDRED FIFTY"),
        ("0 and 10 and 19 and 20", "ZERO AND TEN AND NINETEEN AND TWENTY"),
        ("3.5 miles", "THREE POINT FIVE MILES"),
        ("agent 007", "AGENT ZERO ZERO SEVEN"),
        ("1000000 or 12000003", "ONE MILLION OR TWELVE MILLION THREE"),
        ("1234567890", "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE ZERO"),
        ("Café, naïve", "CAFE NAIVE"),
        ("don\u2019t", "DON'T"),
        ("...", ""),
    ],
)
def test_the_rules_of_librispeech_lose_no_word(text, expected):
    assert normalise_librispeech(text) == expected


@given(st.integers(0, 999_999_999))
def test_every_number_has_words_and_none_is_another(value):
    words = normalise_librispeech(str(value))
    assert re.fullmatch("[A-Z]+( [A-Z]+)*", words)
    assert words != normalise_librispeech(str(value + 1))


@pytest.mark.parametrize("language", [None, "und", "en", "en-US", "EN_gb", "eng", "English", ""])
def test_english_is_scored(language):
    assert other_language(language, "hello there") is None
    assert other_language(language, "7") is None


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "hello", "Chinese (zh)"),
        ("zh-CN", "你好", "Chinese (zh)"),
        (None, "你好吗", "Chinese characters"),
        ("und", "我 love 你", "Chinese characters"),
        ("und", "こんにちは", "Japanese"),
        ("en", "привет", "Cyrillic script"),
        ("de", "guten Tag", "German (de)"),
        ("mul", "hello", "several languages (mul)"),
        ("xx", "hello", "language 'xx'"),
        (None, "مرحبا", "Arabic script"),
    ],
)
def test_what_english_rules_cannot_score_is_named(language, text, expected):
    assert other_language(language, text) == expected


def test_a_foreign_letter_in_english_is_english():
    assert other_language("en", "the angle \u03b1 is the one that he measured") is None
    assert other_language("zh", "你好", ("zh",), "CJK") is None


@given(digits)
def test_recognised_digits_are_those_of_the_reference(values):
    heard = ", ".join(map(str, values)) + "."
    assert digit_words(heard) == normalise_digits(heard)
    assert digit_words(f"well, {heard}") == f"well {normalise_digits(heard)}"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("今天天气", "Chinese characters"),
        ("スピーチ", "Katakana script"),
        ("สวัสดี", "Thai script"),
        ("한국어 문장", None),
        ("hello 今", None),
        ("123", None),
        ("", None),
    ],
)
def test_scripts_without_spaces_are_known(text, script):
    assert unspaced_script(text) == script


def test_codes_are_without_region():
    assert [language_code(code) for code in ("pt-BR", "EN_us", "und", "", None)] == [
        "pt", "en", None, None, None,
    ]  # fmt: skip


@given(digits, st.sampled_from(sorted(LANGUAGES)))
def test_digits_are_compared_whatever_language_they_are_in(values, language):
    """A recogniser may write words or numerals; a word of another language is no digit string."""
    spoken = " ".join(LANGUAGES[language].digits[value] for value in values)
    assert text_kind(spoken, language) == text_kind(spoken.upper(), f"{language}-XX") == "digits"
    assert (
        text_kind(spoken) == text_kind(spoken, "xx") == ("digits" if language == "en" else "free")
    )
    numerals = ", ".join(map(str, values))
    assert normalise_digits(spoken) == digit_words(numerals) == digit_words(f"{spoken}.")
