"""Conditions of sentences stand beside those of digit strings."""

from gpst_jax.evaluation.comparisons import compared_conditions, is_ceiling
from gpst_jax.evaluation.report.tables import condition_name, in_order

NAMES = [
    "codec_unseen",
    "semantic_to_acoustic_sentences",
    "tts_sentences",
    "codec_sentences",
    "recording",
    "codec",
    "semantic_to_acoustic",
]


def test_sentences_are_compared_with_sentences():
    assert compared_conditions(NAMES) == [
        ("codec", "recording"),
        ("semantic_to_acoustic", "codec"),
        ("semantic_to_acoustic_sentences", "codec_sentences"),
        ("tts_sentences", "codec_sentences"),
    ]


def test_ceilings_are_known_with_every_suffix():
    assert [name for name in NAMES if is_ceiling(name)] == [
        "codec_unseen",
        "codec_sentences",
        "recording",
        "codec",
    ]


def test_names_and_order():
    assert in_order(NAMES) == [
        "recording",
        "codec",
        "semantic_to_acoustic",
        "tts_sentences",
        "codec_sentences",
        "semantic_to_acoustic_sentences",
        "codec_unseen",
    ]
    assert condition_name("codec_sentences") == "recording through the codec, sentences"
    assert condition_name("tts_sentences") == "text to speech, sentences"
