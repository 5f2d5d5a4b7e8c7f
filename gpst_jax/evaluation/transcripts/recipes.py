"""The registered recipes of word and character errors, and which are scored by default."""

from gpst_jax.evaluation.metrics import hf_models, pocketsphinx_digits
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.evaluation.transcripts import paraformer, seed_tts, whisper_recipes
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.samples.texts import normalise_digits, normalise_librispeech

DIGITS_RECIPE = "wer/pocketsphinx-digits-smoke"
_JIWER = ("jiwer", "jiwer")
_CORPUS = "corpus: sum of S+D+I over sum of reference words; a failed file is all deletions"
RECIPES: dict[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        TranscriptRecipe(
            id=DIGITS_RECIPE,
            kind="wer",
            model="pocketsphinx with its bundled en-us acoustic model and a grammar of digit "
            f"strings (silprob {pocketsphinx_digits.SILENCE_PROBABILITY}, "
            f"wip {pocketsphinx_digits.WORD_INSERTION_PENALTY}, "
            f"{pocketsphinx_digits.PADDING_SECONDS} s padding, "
            f"{pocketsphinx_digits.NOISE_AMPLITUDE:g} fixed noise)",
            normalisation="lower case, no punctuation, numerals spelled, oh = zero",
            aggregation=_CORPUS,
            measurement=Measurement(
                id="transcript/pocketsphinx-digits",
                version=1,
                sample_rate=16000,
                modules=(("pocketsphinx", "pocketsphinx"), _JIWER),
                load=pocketsphinx_digits.load,
            ),
            text_kinds=("digits",),
            normalise=normalise_digits,
        ),
        TranscriptRecipe(
            id="wer/hubert-large-ls960-ctc",
            kind="wer",
            model="facebook/hubert-large-ls960-ft, greedy CTC, float32, one utterance at a time",
            normalisation="upper case, letters and apostrophes, numbers spelled",
            aggregation=_CORPUS,
            measurement=hf_models.HubMeasurement(
                id="transcript/hubert-large-ls960-ctc",
                version=1,
                sample_rate=16000,
                modules=(*hf_models.MODULES, _JIWER),
                load=hf_models.load_hubert_ctc,
                extra="codecs,eval",
                directory_variable=hf_models.HUBERT_CTC_VARIABLE,
                repository=hf_models.HUBERT_CTC,
            ),
            text_kinds=("digits", "free"),
            normalise=normalise_librispeech,
        ),
        *whisper_recipes.recipes(),
        seed_tts.recipe(),
        paraformer.recipe(),
    )
}


def default_recipes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The digits recipe, then Whisper where it is at hand; and lines on what is left out."""
    whisper, left_out = whisper_recipes.at_hand()
    return (DIGITS_RECIPE, *([whisper] if whisper else ())), (left_out,) if left_out else ()
