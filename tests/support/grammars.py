"""Grammars that no program needs, for tests of decoding."""

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.generation.lm_grammar import END, TEXT, Grammar, Phase


def free_grammar(vocabulary: Vocabulary) -> Grammar:
    """Any id; generation stops at the end id."""
    end = vocabulary.end
    rules = ((0, end, "any"), (end + 1, vocabulary.size, "any"), (end, end + 1, END))
    return Grammar((Phase("any", TEXT, tuple(rule for rule in rules if rule[0] < rule[1])),))
