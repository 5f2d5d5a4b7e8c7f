"""Is the semantic prior of flow matching better than conditioning, and with how few evaluations?

SpeechGPT-Gen's claim is efficiency: a prior centred at the semantics shortens the path. Each chain
is trained alike and applied to the same conversions at several numbers of function evaluations, and
at a lower temperature of the noise.
"""

from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import FOLDER, RESULTS, Figure, JsonFigure, RecipeFigure

CONFIG = "experiments/configs/coig_flow_demo.py"
CHAINS = {
    "implicit": ("model.chain=implicit", "model.prior_std=1.0"),
    "plain": ("model.chain=plain", "model.prior_std=1.0"),
    "explicit": ("model.chain=explicit", "model.prior_std=1.0"),
    "implicit-half": ("model.chain=implicit", "model.prior_std=0.5"),
}
EVALUATIONS = (1, 2, 4, 8, 16, 32)
_MODE = "voice_conversion"
_COOL = ("cool", 4, 0.4)  # part, evaluations and temperature of the noise


def get_study() -> Study:
    """The study; `--tokens` and `--audio_dir` are those of `make demo-coig`."""
    return make(tuple(CHAINS), EVALUATIONS, items=60)


def make(
    chains: tuple[str, ...], evaluations: tuple[int, ...], items: int, *overrides: str
) -> Study:
    """The study of some chains.

    Args:
        chains: of `CHAINS`; the first is the base.
        evaluations: numbers of function evaluations.
        items: recordings that are converted.
        *overrides: `section.field=value` of every chain.
    """
    parts = [(str(count), count, 1.0) for count in evaluations] + [_COOL]
    cells = tuple(
        Cell(
            name,
            CONFIG,
            (*CHAINS[name], *overrides),
            tuple(call for part in parts for call in _converted(*part, items)),
        )
        for name in chains
    )
    figures = [figure for part in parts for figure in _figures(*part)]
    codec = _words("codec", "word errors through the codec, %", parts[0][0], "codec")
    return Study(
        name="coig/flow",
        question="Does a prior at the semantics beat conditioning on them in flow matching?",
        cells=cells,
        figures=(codec, *figures),
        comparisons=(Comparison(chains[0], chains[1:]),),
        notes=(
            "`implicit` centres the prior at the semantics, `plain` is conditioned on them, "
            "`explicit` adds them to the result as well, `implicit-half` has noise of half the "
            "standard deviation.",
            "Voice conversion of held-out digit strings by Euler's method; closer to target: of "
            "the items whose two voices differ enough.",
        ),
    )


def _converted(part: str, evaluations: int, temperature: float, items: int) -> tuple[Call, Call]:
    generated = calls.generate(
        *(f"--mode={_MODE}", "--solver=euler", f"--flow_steps={evaluations}"),
        *(f"--flow_temperature={temperature:g}", f"--items={items}", "--unseen_items=0"),
        part=part,
    )
    return generated, calls.evaluate_samples(f"--wer={DIGITS_RECIPE}", part=part)


def _words(key: str, label: str, part: str, condition: str) -> Figure:
    folder = calls.named(FOLDER, part)
    return RecipeFigure(key, label, DIGITS_RECIPE, condition, 100.0, 1, "lower", folder)


def _figures(part: str, evaluations: int, temperature: float) -> tuple[Figure, ...]:
    at = f"{evaluations} evaluation{'s' if evaluations > 1 else ''}"
    at += f", noise times {temperature:g}" if temperature != 1.0 else ""
    folder = calls.named(FOLDER, part)
    closer = JsonFigure(
        f"closer_{part}",
        f"closer to target, %, {at}",
        f"{folder}/{RESULTS}",
        ("modes", _MODE, "closer_to_target"),
        scale=100.0,
        digits=0,
        better="higher",
    )
    similar = RecipeFigure(
        *(f"similarity_{part}", f"similarity, {at}", "sim-o/resemblyzer-smoke", _MODE),
        folder=folder,
    )
    opinion = RecipeFigure(
        *(f"dnsmos_{part}", f"DNSMOS P.808, {at}", "dnsmos-p808/speechmos", _MODE),
        digits=2,
        folder=folder,
    )
    return _words(f"words_{part}", f"word errors, %, {at}", part, _MODE), closer, similar, opinion
