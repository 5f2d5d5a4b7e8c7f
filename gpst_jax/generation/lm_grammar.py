"""Grammars that constrain decoding of a language model over text and units.

A grammar is a finite automaton. Its states, the phases, allow some ids, and the sampled id selects
the next phase, so that a span of speech contains only units and ends with its marker, and an answer
has the parts of its task (`data_pipeline.sequences.templates`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.tokens.vocabulary import Vocabulary

END = ""  # name of the final state
TEXT, UNITS = "text", "units"
_ROWS = 16  # phases in tables are padded to multiples
PARTS = ("question_transcript", "text_answer", "speech_answer")


@dataclasses.dataclass(frozen=True)
class Phase:
    """One state of a grammar.

    Attributes:
        name: of the phase.
        kind: TEXT or UNITS, which selects the sampling settings.
        rules: (first id, last id + 1, name of the phase they lead to); other ids are not allowed.
    """

    name: str
    kind: str
    rules: tuple[tuple[int, int, str], ...]


@dataclasses.dataclass(frozen=True)
class Grammar:
    """Phases; the first one is the initial state.

    Raises:
        ValueError: two phases of one name, a rule to an unknown phase, or a phase without rules.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self):
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names) or END in names:
            raise ValueError(f"names of phases must be unique, got {names}")
        for phase in self.phases:
            leads = {rule[2] for rule in phase.rules}
            if not leads or not leads <= {*names, END}:
                raise ValueError(f"phase {phase.name!r} leads to {sorted(leads)}, of {names}")

    def tables(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Allowed ids (M, V) bool, and the number of the phase that each leads to, (M, V) int32.

        M is the number of phases rounded up, so that most grammars share a program, and stands for
        the end. Raises ValueError where a rule names ids beyond V.
        """
        count = -(-len(self.phases) // _ROWS) * _ROWS
        numbers = {phase.name: number for number, phase in enumerate(self.phases)} | {END: count}
        allowed = np.zeros((count, size), bool)
        following = np.full((count, size), count, np.int32)
        for number, phase in enumerate(self.phases):
            for first, stop, name in phase.rules:
                if not 0 <= first < stop <= size:
                    raise ValueError(f"phase {phase.name!r}: ids {first} to {stop} of {size}")
                allowed[number, first:stop] = True
                following[number, first:stop] = numbers[name]
        return allowed, following


def answer_grammar(vocabulary: Vocabulary, parts: Sequence[str]) -> Grammar:
    """The grammar of an answer with the given parts, none of them empty.

    Args:
        vocabulary: the ids.
        parts: of PARTS, in this order: the transcript for speech recognition, the spoken answer
            for text-to-speech, all of them for spoken dialogue.

    Raises:
        ValueError: no such parts, or another order.
    """
    if not parts or list(parts) != [part for part in PARTS if part in parts]:
        raise ValueError(f"parts {list(parts)} are not some of {', '.join(PARTS)}, in this order")

    def marker(name: str, leads: str) -> tuple[int, int, str]:
        return vocabulary.id(name), vocabulary.id(name) + 1, leads

    opened = {
        part: f"{part}/start" if part == "speech_answer" else f"{part}/first" for part in parts
    }
    phases = [Phase(f"{parts[0]}/marker", TEXT, (marker(parts[0], opened[parts[0]]),))]
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        closing = marker("end", END) if after is None else marker(after, opened[after])
        if part == "speech_answer":
            phases += [Phase(opened[part], UNITS, (marker("speech_start", f"{part}/first"),))]
            phases += _span(vocabulary, part, UNITS, marker("speech_end", f"{part}/closed"))
            phases += [Phase(f"{part}/closed", TEXT, (closing,))]
        else:
            phases += _span(vocabulary, part, TEXT, closing)
    return Grammar(tuple(phases))


def _span(
    vocabulary: Vocabulary, name: str, kind: str, closing: tuple[int, int, str]
) -> tuple[Phase, Phase]:
    """The phases of a span of text or units of at least one id, up to `closing`."""
    first, stop = 0, vocabulary.text_size
    if kind == UNITS:
        first, stop = vocabulary.unit_start, vocabulary.size
    content = (first, stop, f"{name}/rest")
    return (
        Phase(f"{name}/first", kind, (content,)),
        Phase(f"{name}/rest", kind, (content, closing)),
    )
