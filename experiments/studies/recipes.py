"""Do the recipes measure what they say? Checks on recordings of real speech.

    python -m experiments.studies.recipes --recordings=DIR --json_out=FILE

`--recordings` is a source of one recording or more of each of many speakers, such as a folder of
LibriSpeech. Three checks:

* similarity: both halves of each speaker's first recording are embedded apart; the equal error rate
  of telling pairs of halves of one speaker from pairs of different speakers, over all pairs;
* opinion: scores of recordings as they are, and with white noise at each signal-to-noise ratio;
* word errors: against what the recogniser hears in the recording as it is, at the same ratios.

Intervals are over speakers. Differences are paired, each ratio against the quieter noise before.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.sources import open_source, read_audio
from gpst_jax.evaluation.measure import measure_files
from gpst_jax.evaluation.metrics import mos, registry, statistics
from gpst_jax.evaluation.metrics.recipe import Measurement
from gpst_jax.evaluation.transcripts.alignment import count_errors
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.evaluation.transcripts.recipes import default_recipes

_RATE = 16_000
_RESAMPLES = 500


def _define_flags() -> None:
    """Defined when run as a program only: other programs have flags of these names."""
    flags.DEFINE_string("recordings", None, "Source of recordings of many speakers.", required=True)
    flags.DEFINE_string("similarity", "sim-o/resemblyzer-smoke", "Recipe; empty: none.")
    flags.DEFINE_string("mos", "dnsmos-p835/speechmos", "Recipe; empty: none.")
    flags.DEFINE_string("wer", None, "Recipe; default: Whisper where it is here; empty: none.")
    flags.DEFINE_list("snr_db", ["20", "10", "0"], "Signal-to-noise ratios, the quietest first.")
    flags.DEFINE_integer("speakers", 0, "Speakers for the similarity; 0 is all.", 0)
    flags.DEFINE_integer("noisy", 16, "Recordings that noise is added to.", 2)
    flags.DEFINE_integer("seed", 0, "Of noise and intervals.", 0)
    flags.DEFINE_string("cache_dir", None, "Measured values; default: none are kept.")


def main(argv: list[str]) -> int:
    """Runs the checks and writes their figures."""
    del argv
    given = flags.FLAGS
    firsts = _first_recordings(given.recordings)
    wavs = {speaker: read_audio(item, _RATE, 0.0) for speaker, item in firsts.items()}
    chosen = list(wavs)[: given.speakers or None]
    noisy = {speaker: wavs[speaker] for speaker in list(wavs)[: given.noisy]}
    wer = given.wer if given.wer is not None else next(iter(default_recipes()[0][1:]), "")
    result: dict[str, Any] = {"recordings": given.recordings, "seed": given.seed}
    with tempfile.TemporaryDirectory() as folder:
        run = _Measure(Path(folder), Path(given.cache_dir or folder))
        if given.similarity:
            halves = _halves({speaker: wavs[speaker] for speaker in chosen})
            vectors = run(registry.get_recipe(given.similarity).measurement, halves)
            result["similarity"] = {given.similarity: error_rate_row(vectors, given.seed)}
        levels = with_noise(noisy, [float(text) for text in given.snr_db], given.seed)
        if given.mos:
            result["opinion"] = {given.mos: _opinion(run, levels, given.mos)}
        if wer:
            result["word_errors"] = {wer: _word_errors(run, levels, wer)}
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    print(_text(result))
    return 0


class _Measure:
    """Measures waveforms by name, through files, as the evaluation measures samples."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache

    def __call__(self, measurement: Measurement, wavs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        paths = {}
        for number, (name, wav) in enumerate(wavs.items()):
            paths[name] = self._folder / f"{measurement.id.replace('/', '-')}-{number}.wav"
            soundfile.write(paths[name], wav, _RATE, subtype="FLOAT")
        outcomes = measure_files(
            measurement, paths.values(), cache_dir=self._cache, processes=1, show_progress=True
        )
        failed = [name for name, path in paths.items() if not outcomes[path].ok]
        if failed:
            raise UserError(f"--recordings: {failed[0]}: {outcomes[paths[failed[0]]].failure}")
        return {name: outcomes[path].value for name, path in paths.items()}


def _first_recordings(source: str) -> dict[str, Any]:
    utterances, failures = open_source(source).list()
    if failures:
        raise UserError(
            f"{source}: {len(failures)} recordings cannot be used, the first is "
            f"{failures[0].path}: {failures[0].reason}"
        )
    firsts = {item.speaker: item for item in reversed(utterances)}
    if len(firsts) < 2:
        raise UserError("--recordings needs recordings of two speakers or more")
    return {speaker: firsts[speaker] for speaker in sorted(firsts)}


def _halves(wavs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    first = {f"{speaker}/0": wav[: len(wav) // 2] for speaker, wav in wavs.items()}
    return first | {f"{speaker}/1": wav[len(wav) // 2 :] for speaker, wav in wavs.items()}


def error_rate_row(vectors: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """The equal error rate of pairs of halves, with an interval over speakers.

    Args:
        vectors: embedding of each half, called `SPEAKER/0` and `SPEAKER/1`.
        seed: of the bootstrap.
    """
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in vectors))
    sides = [np.array([vectors[f"{name}/{side}"] for name in names]) for side in (0, 1)]
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    cosines = first @ second.T
    ones = np.ones(len(names))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    rates = [equal_error_rate(cosines, counts.astype(float)) for counts in drawn]
    low, high = np.percentile(rates, [2.5, 97.5])
    apart = ~np.eye(len(names), dtype=bool)
    return {
        "value": equal_error_rate(cosines, ones),
        "ci95": [float(low), float(high)],
        "n": len(names),
        "same_mean": float(np.diag(cosines).mean()),
        "different_mean": float(cosines[apart].mean()),
    }


def equal_error_rate(scores: np.ndarray, weights: np.ndarray) -> float:
    """The rate at which as many pairs of one speaker are rejected as pairs of two are accepted.

    Args:
        scores: (n, n) of first against second signals; speakers are the same on the diagonal.
        weights: (n,) of the speakers; a pair has the product of its two, one of a speaker his own.
    """
    same = np.eye(len(scores), dtype=bool).ravel()
    mass = np.where(same, np.repeat(weights, len(scores)), np.outer(weights, weights).ravel())
    order = np.argsort(scores.ravel(), kind="stable")
    same, mass = same[order], mass[order]
    rejected = np.cumsum(mass * same) / (mass * same).sum()
    accepted = 1 - np.cumsum(mass * ~same) / (mass * ~same).sum()
    place = int(np.argmax(rejected >= accepted))
    return float((rejected[place] + accepted[place]) / 2)


def with_noise(
    wavs: Mapping[str, np.ndarray], ratios_db: Sequence[float], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Recordings as they are, and with the same white noise at each signal-to-noise ratio in dB."""
    levels = {"clean": dict(wavs)}
    for ratio in ratios_db:
        rng = np.random.default_rng(seed)
        noisy = {}
        for speaker, wav in wavs.items():
            noise = rng.standard_normal(len(wav)).astype(np.float32)
            gain = np.sqrt(np.mean(wav**2) / np.mean(noise**2) / 10 ** (ratio / 10))
            mixed = wav + gain * noise
            noisy[speaker] = mixed / max(1.0, float(np.abs(mixed).max()))
        levels[f"{ratio:g} dB"] = noisy
    return levels


def _opinion(run: _Measure, levels: Mapping[str, Any], recipe_id: str) -> dict[str, Any]:
    recipe = registry.get_recipe(recipe_id)
    if not isinstance(recipe, mos.OpinionRecipe):
        raise UserError(f"--mos={recipe_id}: no recipe of opinion scores")
    scores = {
        level: [recipe.of(output) for output in run(recipe.measurement, wavs).values()]
        for level, wavs in levels.items()
    }
    rows = {
        level: statistics.row(statistics.mean(values), len(values))
        for level, values in scores.items()
    }
    for before, level in zip(list(scores), list(scores)[1:], strict=False):
        change = statistics.paired_mean_difference(scores[level], scores[before])
        rows[level]["change"] = statistics.row(change, len(scores[level]))
    return rows


def _word_errors(run: _Measure, levels: Mapping[str, Any], recipe_id: str) -> dict[str, Any]:
    recipe = registry.get_recipe(recipe_id)
    if not isinstance(recipe, TranscriptRecipe):
        raise UserError(f"--wer={recipe_id}: no recipe of word errors")
    heard = {
        level: [recipe.hypothesis(text, "free") for text in run(recipe.measurement, wavs).values()]
        for level, wavs in levels.items()
    }
    rows: dict[str, Any] = {"words": sum(len(text.split()) for text in heard["clean"])}
    before: list[Any] | None = None
    for level in list(heard)[1:]:
        pairs = zip(heard["clean"], heard[level], strict=True)
        counts = [count_errors(reference, text) for reference, text in pairs if reference]
        columns = [count.errors for count in counts], [count.words for count in counts]
        rows[level] = statistics.row(statistics.ratio(*columns), len(counts))
        if before:
            change = statistics.paired_ratio_difference(*columns, *before)
            rows[level]["change"] = statistics.row(change, len(counts))
        before = list(columns)
    return rows


def _text(result: Mapping[str, Any]) -> str:
    lines = []
    for what in ("similarity", "opinion", "word_errors"):
        for recipe_id, found in result.get(what, {}).items():
            rows = {"equal error rate": found} if what == "similarity" else found
            for level, row in rows.items():
                if isinstance(row, dict):
                    low, high = row["ci95"]
                    change = row.get("change")
                    more = (
                        f", change {change['value']:+.3f} (p = {change['p']:.4f})" if change else ""
                    )
                    lines.append(
                        f"{recipe_id}, {level}: {row['value']:.3f} [{low:.3f}, {high:.3f}], "
                        f"n = {row['n']}{more}"
                    )
    return "\n".join(lines)


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
