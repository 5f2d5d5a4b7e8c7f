"""UTMOS (strong learner, arXiv 2204.02152), by the package utmos-pytorch (MIT).

It is UTMOS without fairseq; its converted weights, `utmos_state_dict.pt` of Blinorot/UTMOS-PyTorch,
are read as tensors only. `GPST_UTMOS` names the file or its directory; else the hub is asked.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpst_jax.evaluation.metrics import hf_models

VARIABLE = "GPST_UTMOS"
REPOSITORY = "Blinorot/UTMOS-PyTorch"
FILE = "utmos_state_dict.pt"
OUTPUT = "utmos"


def weights_file(download: bool) -> Path:
    """The weights; raises UserError where they are not."""
    return hf_models.local_file(VARIABLE, FILE, f"{FILE} of {REPOSITORY}", REPOSITORY, download)


def load() -> Callable[[np.ndarray], dict[str, float]]:
    """UTMOS: wav (N,) float32 at 16 kHz -> its score, 1 to 5."""
    import torch
    from utmos_pytorch import UTMOSScoreTorch

    torch.set_num_threads(1)  # processes share the cores
    with contextlib.redirect_stdout(None), _tensors_only():  # it prints names of weights
        model = UTMOSScoreTorch(ckpt_path=str(weights_file(download=True)), device="cpu")

    def score(wav: np.ndarray) -> dict[str, float]:
        signal = torch.from_numpy(np.clip(wav, -1, 1).astype(np.float32))
        with torch.inference_mode():
            return {OUTPUT: float(model.score(signal))}

    return score


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """The package calls torch.load without saying so."""
    import torch

    plain = torch.load
    torch.load = functools.partial(plain, weights_only=True)
    try:
        yield
    finally:
        torch.load = plain
