"""Languages of the synthetic corpus: their digits, and the words of simple sentences.

The vocabularies are small and alike, so that the languages differ in sound, not in content.
"""

import dataclasses
from typing import Any

import numpy as np

from data_pipeline.synthetic.questions import DIGITS


@dataclasses.dataclass(frozen=True)
class SpokenLanguage:
    """What is said in a language, and who says it.

    Attributes:
        voice: its name in eSpeak NG.
        digits: words of zero to nine.
        nouns: (article, noun), alike as subject and object.
        adjectives: alike with every noun.
        verbs: in the third person.
        places: that end a sentence.
        adjective_first: whether it stands before its noun.
        longest: most digits of a string.
        rate: words per minute.
        pauses: whether digits are spoken with a pause after each.
    """

    voice: str
    digits: tuple[str, ...]
    nouns: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]
    adjective_first: bool = True
    longest: int = 7
    rate: int = 175
    pauses: bool = False

    def digit_string(self, rng: np.random.Generator, shortest: int) -> str:
        """Some digits in words."""
        count = rng.integers(shortest, self.longest + 1)
        return " ".join(self.digits[digit] for digit in rng.integers(0, 10, count))

    def spoken(self, text: str) -> str:
        """A string of digits as it is given to the synthesiser."""
        return text.replace(" ", ", ") if self.pauses else text

    def sentence(self, rng: np.random.Generator) -> str:
        """A sentence without digits."""

        def pick(words):
            return words[rng.integers(len(words))]

        adjective, (article, noun) = pick(self.adjectives), pick(self.nouns)
        described = f"{adjective} {noun}" if self.adjective_first else f"{noun} {adjective}"
        verb, thing = pick(self.verbs), " ".join(pick(self.nouns))
        return f"{article} {described} {verb} {thing} {pick(self.places)}"


# Of German digits at the usual rate Whisper base gets 91 % wrong with these voices (70 digits), of
# slow ones with pauses 40 % (170); of Spanish ones 67 % (63) and 60 % (163).
_CLEARLY: dict[str, Any] = {"longest": 5, "rate": 110, "pauses": True}
# By code. Their order is part of what a corpus depends on: add new ones at the end.
LANGUAGES = {
    "en": SpokenLanguage(
        voice="en-us",
        digits=DIGITS,
        nouns=tuple(
            ("the", noun)
            for noun in (
                "river", "teacher", "window", "garden", "captain", "letter", "engine", "sister",
                "market", "doctor",
            )
        ),
        adjectives=(
            "small", "quiet", "yellow", "heavy", "early", "distant", "careful", "broken", "silver",
            "gentle",
        ),
        verbs=(
            "follows", "answers", "watches", "carries", "remembers", "leaves", "paints", "finds",
            "crosses", "helps",
        ),
        places=(
            "near the harbour", "after lunch", "in the morning", "under the bridge",
            "without a word", "at the station", "before the rain", "every summer",
            "behind the house", "on a cold day",
        ),
    ),
    "de": SpokenLanguage(
        voice="de",
        digits=(
            "null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun",
        ),
        # Feminine and neuter nouns are the same in the nominative and the accusative.
        nouns=(
            ("die", "Lehrerin"), ("das", "Fenster"), ("die", "Stadt"), ("das", "Pferd"),
            ("die", "Schwester"), ("das", "Kind"), ("die", "Katze"), ("das", "Schiff"),
            ("die", "Frau"), ("das", "Mädchen"),
        ),
        adjectives=(
            "kleine", "stille", "gelbe", "schwere", "frühe", "ferne", "vorsichtige", "müde",
            "schöne", "sanfte",
        ),
        verbs=(
            "findet", "sucht", "sieht", "trägt", "malt", "verlässt", "hört", "kennt", "ruft",
            "liebt",
        ),
        places=(
            "am Hafen", "nach dem Essen", "am Morgen", "unter der Brücke", "ohne ein Wort",
            "am Bahnhof", "vor dem Regen", "jeden Sommer", "hinter dem Haus", "im Garten",
        ),
        **_CLEARLY,
    ),
    "es": SpokenLanguage(
        voice="es",
        digits=(
            "cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve",
        ),
        nouns=(
            ("la", "ventana"), ("el", "libro"), ("la", "ciudad"), ("el", "barco"),
            ("la", "puerta"), ("el", "tren"), ("la", "carta"), ("el", "camino"), ("la", "luna"),
            ("el", "puente"),
        ),
        adjectives=(
            "grande", "alegre", "triste", "verde", "amable", "fuerte", "breve", "azul", "joven",
            "suave",
        ),
        verbs=(
            "mira", "sigue", "busca", "encuentra", "deja", "recuerda", "cruza", "pinta", "lleva",
            "espera",
        ),
        places=(
            "en el puerto", "por la tarde", "por la noche", "bajo el cielo", "sin palabras",
            "en silencio", "antes de llover", "cada verano", "detrás de la casa", "en el jardín",
        ),
        adjective_first=False,
        **_CLEARLY,
    ),
}  # fmt: skip
