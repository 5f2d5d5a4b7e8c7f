"""The usual programs of a cell, which leave their results where `figures` looks for them."""

from gpst_jax.studies.definition import Call
from gpst_jax.studies.figures import FOLDER, ITEMS, RESULTS

SCORES = f"{{cell}}/{FOLDER}"
TRAINED = "{cell}/train"  # the run that a cell has trained
# Measured values are kept by the content of files: what cells share is measured once.
_CACHE = "--cache_dir={shared}/measured"


def evaluate_run(
    *flags: str, run: str = TRAINED, tokens: str = "{tokens}", audio_dir: str = "{audio_dir}"
) -> Call:
    """Generates held-out recordings with a run and scores speech, likelihood and endings.

    Args:
        *flags: of `experiments.evaluate`, such as `--items=40`.
        run: what is evaluated.
        tokens: its dataset.
        audio_dir: root of its recordings.
    """
    where = (f"--workdir={run}", f"--dataset={tokens}", f"--audio_dir={audio_dir}")
    return Call("evaluate", "experiments.evaluate", (*where, f"--output={SCORES}", _CACHE, *flags))


def generate(*flags: str, run: str = TRAINED, tokens: str = "{tokens}", part: str = "") -> Call:
    """Generates held-out recordings with a run, under flags of `experiments.generate`.

    Args:
        *flags: such as `--mode=speaker_transfer`.
        run: what is sampled from.
        tokens: its dataset.
        part: tells several conditions of one cell apart.
    """
    where = (f"--workdir={run}", f"--dataset={tokens}", "--audio_dir={audio_dir}")
    output = (f"--output={{cell}}/{named('samples', part)}", "--seed={seed}")
    return Call(named("generate", part), "experiments.generate", (*where, *output, *flags))


def evaluate_samples(*flags: str, part: str = "") -> Call:
    """Scores samples that an earlier call of the cell made.

    Args:
        *flags: of `experiments.evaluate`.
        part: the same as that of `generate`.
    """
    where = f"{{cell}}/{named(FOLDER, part)}"
    results = (f"--json_out={where}/{RESULTS}", f"--items_out={where}/{ITEMS}", _CACHE)
    samples = f"--samples={{cell}}/{named('samples', part)}"
    return Call(named("evaluate", part), "experiments.evaluate", (samples, *results, *flags))


def named(what: str, part: str) -> str:
    """The name of a step or folder, with the part of the cell that it is of."""
    return f"{what}-{part}" if part else what
