"""Whisper's normalisation of text (arXiv 2212.04356, appendix C), from `whisper-normalizer` (MIT).

The package is chosen since the table of spellings lies in it: the class of the same name in
transformers has to be given that table, and no package of its own carries it. On the sentences that
were compared both return the same. Its basic normaliser drops combining marks, as published: the
vowel signs of Thai and of the Indic scripts are not compared.
"""

import functools
from collections.abc import Callable


def english(text: str) -> str:
    """Lower case, American spelling, numbers as numerals, contractions and titles written out."""
    return _normaliser("english")(text).strip()


def basic(text: str) -> str:
    """Lower case, no punctuation, no marks, nothing in brackets: for any language."""
    return " ".join(_normaliser("basic")(text).split())


def characters(text: str) -> str:
    """As `basic`, with every character a word of its own."""
    return " ".join(_normaliser("basic")(text).replace(" ", ""))


@functools.cache
def _normaliser(name: str) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return {"english": EnglishTextNormalizer, "basic": BasicTextNormalizer}[name]()
