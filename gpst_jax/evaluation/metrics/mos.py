"""Predicted mean opinion scores: DNSMOS P.835 (signal, background, overall) and P.808.

A sound that is missing or cannot be decoded scores 1, the lowest opinion; it is never left out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import statistics

LOWEST = 1.0
WINDOW_SAMPLES = 144160  # the networks take 9.01 s at 16 kHz
BESIDE = {"ovrl_mos": ("sig_mos", "bak_mos")}  # shown with the main output
OUTPUTS = ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")


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
        # Left alone the package doubles a short clip past the window and averages over several
        # windows of the same repeated clip: five times the work for the same mean score.
        if len(wav) < WINDOW_SAMPLES:
            wav = np.resize(wav, WINDOW_SAMPLES)
        scores = scorer(wav, dnsmos.SR, False)
        return {name: float(scores[name]) for name in OUTPUTS}

    return score


def summarise(
    scores: Sequence[dict[str, float] | None], output: str, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Mean of one output over a condition with its interval; None marks a failed file."""
    if not scores:
        return statistics.not_available("no samples")
    values = [LOWEST if score is None else score[output] for score in scores]
    estimate = statistics.mean(values, resamples=resamples, seed=seed)
    row = {
        "value": estimate.value,
        "ci95": estimate.ci95,
        "n": len(values),
        "failed": sum(score is None for score in scores),
    }
    for beside in BESIDE.get(output, ()):
        row[beside] = float(np.mean([LOWEST if s is None else s[beside] for s in scores]))
    return row
