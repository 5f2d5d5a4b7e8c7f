"""The usual programs of a cell, which leave their results where `figures` looks for them."""

from gpst_jax.studies.definition import Call
from gpst_jax.studies.figures import FOLDER, ITEMS, RESULTS

SCORES = f"{{cell}}/{FOLDER}"
TRAINED = "{cell}/train"  # the run that a cell has trained
# Measured values are kept by the content of files: what cells share is measured once.
_CACHE = "--cache_dir={shared}/measured"


def evaluate_run(*flags: str, run: str = TRAINED, tokens: str = "{tokens}") -> Call:
    """Generates held-out recordings with a run and scores speech, likelihood and endings.

    Args:
        *flags: of `experiments.evaluate`, such as `--items=40`.
        run: what is evaluated.
        tokens: its dataset.
    """
    where = (f"--workdir={run}", f"--dataset={tokens}", "--audio_dir={audio_dir}")
    return Call("evaluate", "experiments.evaluate", (*where, f"--output={SCORES}", _CACHE, *flags))


def generate(*flags: str, run: str = TRAINED, tokens: str = "{tokens}") -> Call:
    """Generates held-out recordings with a run, under flags of `experiments.generate`."""
    where = (f"--workdir={run}", f"--dataset={tokens}", "--audio_dir={audio_dir}")
    output = ("--output={cell}/samples", "--seed={seed}")
    return Call("generate", "experiments.generate", (*where, *output, *flags))


def evaluate_samples(*flags: str, samples: str = "{cell}/samples") -> Call:
    """Scores samples that an earlier call of the cell made."""
    results = (f"--json_out={SCORES}/{RESULTS}", f"--items_out={SCORES}/{ITEMS}")
    return Call(
        "evaluate", "experiments.evaluate", (f"--samples={samples}", *results, _CACHE, *flags)
    )
