"""The recipes of speaker similarity: an encoder, and what a voice is compared with.

`sim-o/ENCODER` compares with the original recording of the prompt. `sim-r/ENCODER`, scored beside
it, compares with a recording that has been through the codec, as VALL-E (arXiv 2301.02111) reports
both: what a model loses before its codec. Similarities by different encoders are not comparable.
"""

from dataclasses import dataclass, replace
from typing import Any

from gpst_jax.evaluation.metrics import hf_models
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.evaluation.speakers import resemblyzer, wavlm_ecapa

ORIGINAL, RESYNTHESISED = "sim-o/", "sim-r/"
_COSINE = "mean cosine over items; a failed file scores 0"


@dataclass(frozen=True)
class SimilarityRecipe(Recipe):
    """A speaker encoder with one kind of reference."""

    reference: str = "the original recording of the prompt, or else of the source"

    def describe(self) -> dict[str, Any]:
        """The recipe as a JSON value, with what it compares with."""
        return super().describe() | {"reference": self.reference}


def _recipe(name: str, model: str, normalisation: str, measurement: Measurement) -> list[Recipe]:
    """The recipe of an encoder with originals, and with what came through the codec."""
    original = SimilarityRecipe(
        id=ORIGINAL + name,
        kind="similarity",
        model=model,
        normalisation=normalisation,
        aggregation=_COSINE,
        measurement=measurement,
    )
    through_codec = replace(
        original,
        id=RESYNTHESISED + name,
        reference="through the codec: the source itself, or another recording of the prompt's "
        "speaker",
    )
    return [original, through_codec]


RECIPES: dict[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        *_recipe(
            "resemblyzer-smoke",
            "Resemblyzer GE2E encoder, 256 numbers",
            "level raised to -30 dBFS, long silences cut by WebRTC VAD (unless all is)",
            Measurement(
                id="embedding/resemblyzer",
                version=1,
                sample_rate=16000,
                modules=(
                    ("resemblyzer", "Resemblyzer"),
                    ("webrtcvad", "webrtcvad-wheels"),
                    ("librosa", "librosa"),
                    ("torch", "torch"),
                ),
                load=resemblyzer.load,
            ),
        ),
        *_recipe(
            "wavlm-base-plus-sv",
            "microsoft/wavlm-base-plus-sv x-vector, float32, one utterance at a time",
            "zero mean and unit variance where the model's own configuration says so",
            hf_models.HubMeasurement(
                id="embedding/wavlm-base-plus-sv",
                version=1,
                sample_rate=16000,
                modules=hf_models.MODULES,
                load=hf_models.load_wavlm_xvector,
                extra="codecs,eval",
                directory_variable=hf_models.WAVLM_SV_VARIABLE,
                repository=hf_models.WAVLM_SV,
            ),
        ),
        *_recipe(
            "wavlm-large-ecapa",
            "WavLM large with the ECAPA-TDNN head of UniSpeech, fine-tuned on VoxCeleb 2 "
            "(wavlm_large_finetune.pth), as in seed-tts-eval; float32, one utterance at a time",
            "each clip to zero mean and unit variance",
            hf_models.FileMeasurement(
                id="embedding/wavlm-large-ecapa",
                version=1,
                sample_rate=16000,
                modules=hf_models.MODULES,
                load=wavlm_ecapa.load,
                extra="codecs,eval",
                directory_variable=wavlm_ecapa.VARIABLE,
                locate=wavlm_ecapa.weights_file,
            ),
        ),
    )
}
