"""Transcripts as text to compare: numerals, rules of normalisation, languages and scripts."""

import re
import unicodedata
from collections import Counter

from data_pipeline.runtime.errors import UserError
from data_pipeline.synthetic.languages import LANGUAGES
from data_pipeline.synthetic.questions import DIGITS

ENGLISH = ("en", "eng", "english")
LATIN = "LATIN"

# Languages whose writing puts no space between words, and the scripts that tell where a text's
# language is not known.
UNSPACED = ("bo", "ja", "km", "lo", "my", "th", "yue", "zh")
_UNSPACED_SCRIPTS = (
    "CJK", "HIRAGANA", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI", "TIBETAN",
)  # fmt: skip

_NUMERALS = {str(value): word for value, word in enumerate(DIGITS)} | {"oh": "zero", "o": "zero"}
# By the word for it in any of the languages; no word means two digits.
_DIGIT_OF = _NUMERALS | {
    word: DIGITS[value]
    for language in LANGUAGES.values()
    for value, word in enumerate(language.digits)
}
_TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**6, "million"), (1000, "thousand"), (100, "hundred"))
_LONGEST_NUMBER = 9  # digits; longer ones are read digit by digit
# More letters of other scripts than this share: the text is not of the language, it quotes nothing.
_FOREIGN_LETTERS = 0.1
_LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "de": "German", "en": "English", "es": "Spanish",
    "fr": "French", "hi": "Hindi", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "mul": "several languages", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "yue": "Cantonese",
    "zh": "Chinese",
}  # fmt: skip
_SCRIPTS = {"CJK": "Chinese characters", "HANGUL": "Korean", "HIRAGANA": "Japanese"}
_UNKNOWN = ("", "und", "unknown", "mis", "zxx")


def _words(text: str) -> list[str]:
    """Lower-case words without punctuation, numerals digit by digit."""
    return re.sub(r"[^\w\s]|_", " ", re.sub(r"(\d)", r" \1 ", text.lower())).split()


def digit_words(text: str) -> str:
    """What was recognised, by the rules of `normalise_digits`; other words stay as they are."""
    return " ".join(_DIGIT_OF.get(word, word) for word in _words(text))


def normalise_digits(text: str) -> str:
    """Lower case, punctuation dropped, numerals digit by digit, all digits in English words.

    "oh" is read as "zero". Digits may be in words of any language of the synthetic corpus.

    Raises:
        UserError: a word is no digit, so the digit grammar could never recognise it.
    """
    words = digit_words(text)
    foreign = sorted(set(words.split()) - set(DIGITS))
    if foreign:
        raise UserError(
            f"transcript {text!r} is marked as digits but holds {', '.join(foreign)}; "
            "give such samples text_kind 'free'"
        )
    return words


def normalise_librispeech(text: str) -> str:
    """Upper case; numbers spelled; letters without accents, and apostrophes; single spaces."""
    spelled = _spell_numbers(text.replace("\u2019", "'"))
    plain = "".join(c for c in unicodedata.normalize("NFKD", spelled) if not _is_accent(c))
    return " ".join(re.sub(r"[^A-Z' ]+", " ", plain.upper()).split())


def _is_accent(character: str) -> bool:
    return unicodedata.combining(character) > 0


def text_kind(text: str | None, language: str | None = None) -> str:
    """The kind "digits" where every word or numeral of the text names a digit, else "free".

    Args:
        text: the text.
        language: its code, where it is known: digits are in its words, or in English ones.
    """
    spoken = LANGUAGES.get(language_code(language) or "")
    digits = {*_NUMERALS, *DIGITS, *(spoken.digits if spoken else ())}
    words = _words(text or "")
    return "digits" if words and set(words) <= digits else "free"


def _spell_numbers(text: str) -> str:
    """Numbers as English words: "7" is "seven", "1,250" "one thousand two hundred fifty"."""
    joined = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    pointed = re.sub(r"(?<=[0-9])\.(?=[0-9])", " point ", joined)
    return re.sub(r"[0-9]+", lambda found: f" {_number(found[0])} ", pointed)


def _number(numeral: str) -> str:
    if len(numeral) > _LONGEST_NUMBER or (len(numeral) > 1 and numeral[0] == "0"):
        return " ".join(DIGITS[int(digit)] for digit in numeral)
    return _cardinal(int(numeral))


def _cardinal(value: int) -> str:
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return _TEENS[value - 10]
    for scale, name in _SCALES:
        if value >= scale:
            rest = f" {_cardinal(value % scale)}" if value % scale else ""
            return f"{_cardinal(value // scale)} {name}{rest}"
    return _TENS[value // 10 - 2] + (f" {DIGITS[value % 10]}" if value % 10 else "")


def other_language(
    language: str | None, text: str, languages: tuple[str, ...] = ENGLISH, script: str = LATIN
) -> str | None:
    """What a text is in, where rules for `languages` in `script` cannot score it; else None.

    Args:
        language: code of the text, such as `zh` or `en-US`; None or `und` where it is not known.
        text: the text, whose script tells where the language does not.
        languages: codes, in lower case and without region, that can be scored.
        script: first word of the names of its letters in Unicode.
    """
    code = language_code(language)
    if code is not None and code not in languages:
        return language_name(code)
    scripts = _scripts(text)
    total = sum(scripts.values())
    if not total or total - scripts[script] <= _FOREIGN_LETTERS * total:
        return None
    del scripts[script]
    return _script_name(scripts)


def language_code(language: str | None) -> str | None:
    """The code in lower case and without region, `pt` for `pt-BR`; None where it is not known."""
    code = re.split(r"[-_]", (language or "").strip().lower())[0]
    return None if code in _UNKNOWN else code


def language_name(code: str) -> str:
    """A language in words with its code, for messages."""
    return f"{_LANGUAGES[code]} ({code})" if code in _LANGUAGES else f"language {code!r}"


def unspaced_script(text: str) -> str | None:
    """The script of a text most of which is written without spaces between words; else None."""
    scripts = _scripts(text)
    unspaced = Counter({name: scripts[name] for name in _UNSPACED_SCRIPTS if scripts[name]})
    return _script_name(unspaced) if 2 * unspaced.total() > scripts.total() else None


def _scripts(text: str) -> Counter[str]:
    """Letters of a text by the first word of their names in Unicode."""
    letters = (c for c in text if unicodedata.category(c)[0] == "L")
    return Counter(unicodedata.name(letter, "UNKNOWN").split(" ")[0] for letter in letters)


def _script_name(scripts: Counter[str]) -> str:
    name = scripts.most_common(1)[0][0]
    return _SCRIPTS.get(name, f"{name.capitalize()} script")
