"""Predicted mean opinion scores: DNSMOS P.835 (signal, background, overall) and P.808, DistillMOS.

A file that is missing or cannot be decoded scores 1, the lowest opinion; it is never left out.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpst_jax.evaluation.metrics import hf_models, statistics, utmos
from gpst_jax.evaluation.metrics.base import Inputs, Metric, Row, Scores, setting
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe

LOWEST = 1.0
WINDOW_SAMPLES = 144160  # the networks take 9.01 s at 16 kHz
BESIDE = {"ovrl_mos": ("sig_mos", "bak_mos")}  # stored with the main output
OUTPUTS = ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")
DISTILLED = "distillmos"


def load_speechmos() -> Callable[[np.ndarray], dict[str, float]]:
    """The four scores of DNSMOS: wav (N,) float32 at 16 kHz -> score by name, 1 to 5."""
    import onnxruntime
    from speechmos import dnsmos

    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    primary, p808 = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # processes share the cores
    scorer = dnsmos.DNSMOS(primary, p808)
    scorer.onnx_sess = onnxruntime.InferenceSession(primary, options)
    scorer.p808_onnx_sess = onnxruntime.InferenceSession(p808, options)

    def score(wav: np.ndarray) -> dict[str, float]:
        wav = np.clip(wav, -1, 1)
        # The package itself doubles a short clip past the window and averages over several
        # windows of the same repeated clip: five times the work for the same mean score.
        if len(wav) < WINDOW_SAMPLES:
            wav = np.resize(wav, WINDOW_SAMPLES)
        scores = scorer(wav, dnsmos.SR, False)
        return {name: float(scores[name]) for name in OUTPUTS}

    return score


def load_distillmos() -> Callable[[np.ndarray], dict[str, float]]:
    """DistillMOS (arXiv 2502.05356; MIT): wav (N,) float32 at 16 kHz -> its score, 1 to 5."""
    import torch

    # The package imports torchaudio for its command line alone; where torch has no fitting build of
    # it, an empty module stands in for it during the import.
    absent = "torchaudio" not in sys.modules
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    try:
        import distillmos
    finally:
        if absent:
            del sys.modules["torchaudio"]
    torch.set_num_threads(1)  # processes share the cores
    with contextlib.redirect_stdout(None):  # it prints where its weights are
        model = distillmos.ConvTransformerSQAModel().eval()

    def score(wav: np.ndarray) -> dict[str, float]:
        wav = np.clip(wav, -1, 1).astype(np.float32)
        with torch.inference_mode():
            return {DISTILLED: float(model(torch.from_numpy(wav)[None]).item())}

    return score


@dataclass(frozen=True)
class OpinionRecipe(Recipe):
    """A predictor of opinion scores, of which one output is reported."""

    output: str

    def of(self, scores: dict[str, float] | None) -> float:
        """The reported output; None marks a failed file."""
        return LOWEST if scores is None else scores[self.output]


_MEAN = "mean over items; a failed file scores 1"
_INPUT = "windows of 9.01 s every second; a shorter clip is repeated to one window; no level change"
_DNSMOS = Measurement(
    id="dnsmos/speechmos",
    version=1,
    sample_rate=16000,
    modules=(
        ("speechmos", "speechmos"),
        ("librosa", "librosa"),
        ("onnxruntime", "onnxruntime"),
        ("requests", "requests"),
        ("tqdm", "tqdm"),
    ),
    load=load_speechmos,
)
RECIPES: dict[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        OpinionRecipe(
            id="dnsmos-p835/speechmos",
            kind="mos",
            model="DNSMOS P.835 (sig_bak_ovr), overall quality; signal and background beside it",
            normalisation=_INPUT,
            aggregation=_MEAN,
            measurement=_DNSMOS,
            output="ovrl_mos",
        ),
        OpinionRecipe(
            id="dnsmos-p808/speechmos",
            kind="mos",
            model="DNSMOS P.808 (model_v8)",
            normalisation=_INPUT,
            aggregation=_MEAN,
            measurement=_DNSMOS,
            output="p808_mos",
        ),
        OpinionRecipe(
            id="mos/utmos",
            kind="mos",
            model="UTMOS, strong learner of the VoiceMOS challenge 2022 (arXiv 2204.02152), "
            "converted weights of Blinorot/UTMOS-PyTorch",
            normalisation="the clip as a whole, no level change",
            aggregation=_MEAN,
            measurement=hf_models.FileMeasurement(
                id="mos/utmos",
                version=1,
                sample_rate=16000,
                modules=(("utmos_pytorch", "utmos-pytorch"), ("torch", "torch")),
                load=utmos.load,
                extra="",
                directory_variable=utmos.VARIABLE,
                locate=utmos.weights_file,
            ),
            output=utmos.OUTPUT,
        ),
        OpinionRecipe(
            id="mos/distillmos",
            kind="mos",
            model="DistillMOS, variant 7 (MIT): distilled from a quality predictor on features of "
            "XLS-R",
            normalisation="windows of 7.68 s at most every second, each scaled to full level; a "
            "shorter clip is padded with zeros",
            aggregation=_MEAN,
            measurement=Measurement(
                id="mos/distillmos",
                version=1,
                sample_rate=16000,
                modules=(
                    ("distillmos", "distillmos"),
                    ("xls_r_sqa", "xls-r-sqa"),
                    ("torch", "torch"),
                ),
                load=load_distillmos,
                extra="mos",
            ),
            output=DISTILLED,
        ),
    )
}


# Scored by default where they are at hand.
_OPTIONAL = ("mos/utmos", "mos/distillmos")


def default_recipes() -> tuple[str, ...]:
    """DNSMOS, and those of UTMOS and DistillMOS that are installed, with weights at hand."""
    return tuple(id_ for id_, r in RECIPES.items() if id_ not in _OPTIONAL or _at_hand(r))


def _at_hand(recipe: Recipe) -> bool:
    """Whether a recipe's packages and weights are here; nothing is downloaded."""
    measurement = recipe.measurement
    if not all(find_spec(module) for module, _ in measurement.modules):
        return False
    return measurement.describe_weights()["weights"] is not None or not isinstance(
        measurement, hf_models.FileMeasurement
    )


def summarise(
    scores: Sequence[dict[str, float] | None],
    output: str,
    speakers: Sequence[str] | None = None,
    *,
    resamples: int,
    seed: int,
) -> Row:
    """Mean of one output over a condition with its interval; None marks a failed file."""
    if not scores:
        return statistics.not_available("no samples")
    values = [LOWEST if score is None else score[output] for score in scores]
    clusters = statistics.usable(speakers)
    estimate = statistics.mean(values, clusters=clusters, resamples=resamples, seed=seed)
    row = statistics.row(estimate, len(values)) | {"failed": sum(score is None for score in scores)}
    for beside in BESIDE.get(output, ()):
        row[beside] = float(np.mean([LOWEST if s is None else s[beside] for s in scores]))
    return row


@dataclass(frozen=True)
class OpinionScores(Metric):
    """Predicted opinion scores, one column for each recipe."""

    kind: ClassVar[str] = "mos"
    prefix: ClassVar[tuple[str, ...]] = ("dnsmos-", "mos/")
    recipes: ClassVar[dict[str, Recipe]] = RECIPES
    item_fields: ClassVar[tuple[str, ...]] = ("mos",)

    mos: tuple[str, ...] = setting(default_recipes())
    mos_items: int = setting(30, "Items for opinion scores per condition; 0: none.")

    def selected(self) -> list[Recipe]:
        """The predictors."""
        return [self.recipe(recipe_id) for recipe_id in self.mos]

    def score(self, inputs: Inputs) -> Scores:
        """Mean scores of all conditions."""
        scores = Scores()
        if not self.mos_items:
            return scores
        chosen = inputs.first(self.mos_items)
        files = [s.audio for samples in chosen.values() for s in samples]
        for recipe_id in self.mos:
            recipe: OpinionRecipe = self.recipe(recipe_id)
            outcomes = inputs.measure(recipe.measurement, files)
            for name, samples in chosen.items():
                outputs = {s.id: outcomes[s.audio].value for s in samples}
                for id_, output in outputs.items():
                    item = scores.items.setdefault((name, id_), {"mos": {}})
                    item["mos"] |= output or {recipe.output: LOWEST}
                scores.values[recipe_id, name] = {
                    id_: recipe.of(output) for id_, output in outputs.items()
                }
                scores.rows[name, recipe_id] = summarise(
                    list(outputs.values()),
                    recipe.output,
                    [s.speaker for s in samples],
                    **inputs.bootstrap,
                )
        return scores

    @classmethod
    def stored(
        cls, recipe_id: str, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """The reported output of each item that has one."""
        del settings
        recipe = cls.recipes.get(recipe_id)
        output = recipe.output if isinstance(recipe, OpinionRecipe) else ""
        scored = [item for item in items if output in (item.get("mos") or {})]
        return {item["id"]: item["mos"][output] for item in scored}
