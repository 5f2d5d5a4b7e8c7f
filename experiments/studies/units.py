"""Do semantic units hold what is said, and not who says it? Unit models side by side.

    python -m experiments.studies.units --models=mfcc,whisper:base --clusters=100,500 \
        --words='manifest:FILE' --readers=DIR --json_out=FILE

A unit model is `mfcc` or an encoder `KIND:MODEL?layer=N`, whose clusters are fitted here, the same
number for each; or a tokenizer as everywhere: a directory, or a specification with `kmeans=`. The
first model is the one that the others are compared with.

`--words` is a source of labelled recordings, each of one word (as the Free Spoken Digit Dataset),
of at least three speakers. For each pair of speakers clusters are fitted on all the others, and the
normalised mutual information (2 I / (H + H)) of the units of the pair's frames with the word, and
with the speaker, is measured. Reported are means over the pairs, with 95 % intervals from resampled
speakers, and a floor: the same with the labels shuffled over recordings, since many units and few
frames have information by chance.

`--readers` is a source of one recording or more of each of many speakers. Both halves of each
speaker's first recording are encoded apart; a linear probe (ridge regression to the speaker) on the
histogram of units in the first half is tested on the second. Its accuracy is reported with 95 %
intervals from resampled speakers. Clusters are fitted on the first halves.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from threadpoolctl import threadpool_limits

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import Utterance, open_source, read_audio
from data_pipeline.tokenizers import load_semantic
from data_pipeline.tokenizers.batching import encode_many
from data_pipeline.tokenizers.pretrained import ModelSpec
from data_pipeline.tokenizers.semantic import encoders, kmeans, mfcc_kmeans
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans, MFCCKMeansConfig
from gpst_jax.evaluation.metrics import statistics

_RATE = 16_000
_BATCH = 16
_RIDGE = 1e-3  # of the mean eigenvalue
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What is compared.

    Attributes:
        models: see the module; the first is compared with the others.
        clusters: numbers of clusters of the models that are fitted here.
        per_cell: recordings of each word and speaker; 0 is all.
        iterations: of k-means.
        seed: of clusters, floors and intervals.
    """

    models: tuple[str, ...] = ("mfcc", "whisper:base")
    clusters: tuple[int, ...] = (100,)
    per_cell: int = 0
    iterations: int = 10
    seed: int = 0


Features = list[np.ndarray]  # of each recording: (T, D) to be clustered, or units (T,)
Fit = Callable[[Sequence[np.ndarray], int], Callable[[Sequence[np.ndarray]], list[np.ndarray]]]


def _define_flags() -> None:
    """Defined when run as a program only: other programs have flags of these names."""
    default = StudyConfig()
    flags.DEFINE_list("models", list(default.models), "Unit models; see the module.")
    flags.DEFINE_list("clusters", ["100"], "Numbers of clusters, for models fitted here.")
    flags.DEFINE_string("words", None, "Source of single words, with speakers and texts.")
    flags.DEFINE_string("readers", None, "Source of many speakers.")
    flags.DEFINE_integer("per_cell", 0, "Recordings of a word and speaker; 0 is all.", 0)
    flags.DEFINE_integer("iterations", default.iterations, "Of k-means.", 1)
    flags.DEFINE_integer("seed", default.seed, "Of clusters, floors and intervals.", 0)


def main(argv: list[str]) -> int:
    """Measures all models on the sources given, and writes the table."""
    del argv
    given = flags.FLAGS
    if not (given.words or given.readers):
        raise UserError("nothing to measure: give --words, --readers or both")
    if not given.models or not all(text.isdecimal() and int(text) > 1 for text in given.clusters):
        raise UserError("--models and --clusters are lists; clusters are integers above 1")
    config = StudyConfig(
        tuple(given.models),
        tuple(map(int, given.clusters)),
        given.per_cell,
        given.iterations,
        given.seed,
    )
    result: dict[str, Any] = dataclasses.asdict(config)
    with threadpool_limits(1):  # results depend on the order of summation
        if given.words:
            result["words"] = _study_words(given.words, config)
        if given.readers:
            result["readers"] = _study_readers(given.readers, config)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    print(json.dumps(result, indent=2))
    return 0


def _study_words(source: str, config: StudyConfig) -> dict[str, Any]:
    items = _words(_listed(source), config.per_cell)
    wavs = [read_audio(item, _RATE, 0.0) for item in items]
    speakers = np.array([item.speaker for item in items])
    words = np.array([item.text for item in items])
    result: dict[str, Any] = {
        "recordings": len(items),
        "speakers": len(set(speakers)),
        "words": len(set(words)),
        "seconds": round(sum(map(len, wavs)) / _RATE, 1),
    }
    models = {model: _features(model, wavs, config) for model in config.models}
    for size in config.clusters:
        tables = {
            model: crossed_information(
                features, fit, size, speakers, words, np.random.default_rng(config.seed)
            )
            for model, (features, fit) in models.items()
        }
        result[str(size)] = _rows(tables, len(set(speakers)), config.seed)
    return result


def _words(items: Sequence[Utterance], per_cell: int) -> list[Utterance]:
    """The recordings with a text, `per_cell` of each speaker and text."""
    counts: dict[tuple[str, str | None], int] = {}
    chosen = []
    for item in items:
        cell = (item.speaker, item.text)
        counts[cell] = counts.get(cell, 0) + 1
        if item.text and (not per_cell or counts[cell] <= per_cell):
            chosen.append(item)
    if len({item.speaker for item in chosen}) < 3 or len({item.text for item in chosen}) < 2:
        raise UserError("--words needs recordings with texts, of three speakers and two words")
    return chosen


def crossed_information(
    features: Features,
    fit: Fit,
    clusters: int,
    speakers: np.ndarray,
    words: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Information of units on words and speakers, for each pair of speakers left out of the fit.

    Args:
        features: of each recording, (T, D).
        fit: see `_features`.
        clusters: to fit.
        speakers: of each recording (n,).
        words: likewise.
        rng: shuffles labels for the floors.

    Returns:
        `pairs` (P, 2), and for each pair `word`, `speaker`, their floors `word_floor` and
        `speaker_floor`, and `used`, the number of units that occur; all (P,).
    """
    names = sorted(set(speakers))
    rows: list[list[float]] = []
    pairs = list(itertools.combinations(range(len(names)), 2))
    with progress("pairs of speakers", len(pairs)) as advance:
        for pair in pairs:
            test = np.flatnonzero(np.isin(speakers, [names[index] for index in pair]))
            rest = np.setdiff1d(np.arange(len(features)), test)
            units = fit([features[index] for index in rest], clusters)(
                [features[index] for index in test]
            )
            lengths, joined = [len(part) for part in units], np.concatenate(units)
            labels = [words[test], speakers[test]]
            labels += [rng.permutation(label) for label in labels]
            found = [information(joined, np.repeat(label, lengths)) for label in labels]
            rows.append([*found, float(len(np.unique(joined)))])
            advance(1)
    columns = dict(zip(("word", "speaker", "word_floor", "speaker_floor", "used"),
                       np.array(rows).T, strict=True))  # fmt: skip
    return {"pairs": np.array(pairs), **columns}


def information(units: np.ndarray, labels: np.ndarray) -> float:
    """Normalised mutual information, 2 I(U; L) / (H(U) + H(L)), of two sequences (n,)."""
    _, units = np.unique(units, return_inverse=True)
    _, labels = np.unique(labels, return_inverse=True)
    counts = np.zeros((units.max() + 1, labels.max() + 1))
    np.add.at(counts, (units, labels), 1)
    joint = counts / counts.sum()
    first, second = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    total = first + second
    return float(2 * (total - _entropy(joint.ravel())) / total) if total > 0 else 0.0


def _entropy(probabilities: np.ndarray) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())


def _rows(tables: dict[str, dict[str, np.ndarray]], speakers: int, seed: int) -> dict[str, Any]:
    """Means over pairs and their intervals, and the differences from the first model."""
    base = next(iter(tables.values()))
    result: dict[str, Any] = {}
    for model, table in tables.items():
        row: dict[str, Any] = {
            key: _over_pairs(table[key], table["pairs"], speakers, seed)
            for key in ("word", "speaker")
        }
        row |= {key: float(table[key].mean()) for key in ("word_floor", "speaker_floor", "used")}
        if table is not base:
            for key in ("word", "speaker"):
                difference = table[key] - base[key]
                row[f"{key}_difference"] = _over_pairs(difference, table["pairs"], speakers, seed)
        result[model] = row
    return result


def _over_pairs(values: np.ndarray, pairs: np.ndarray, speakers: int, seed: int) -> dict[str, Any]:
    """The mean over pairs, and its interval: speakers are resampled, and count in their pairs."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=_RESAMPLES)
    weights = counts[:, pairs[:, 0]] * counts[:, pairs[:, 1]]
    weights = weights[weights.sum(axis=1) > 0]
    low, high = np.percentile(weights @ values / weights.sum(axis=1), [2.5, 97.5])
    return {"value": float(values.mean()), "ci95": [float(low), float(high)], "n": speakers}


def _study_readers(source: str, config: StudyConfig) -> dict[str, Any]:
    firsts = {item.speaker: item for item in reversed(_listed(source))}
    items = [firsts[speaker] for speaker in sorted(firsts)]
    if len(items) < 2:
        raise UserError("--readers needs recordings of two speakers or more")
    wavs = [read_audio(item, _RATE, 0.0) for item in items]
    halves = [wav[: len(wav) // 2] for wav in wavs] + [wav[len(wav) // 2 :] for wav in wavs]
    result: dict[str, Any] = {"speakers": len(items), "chance": 1 / len(items)}
    models = {model: _features(model, halves, config) for model in config.models}
    for size in config.clusters:
        right: dict[str, np.ndarray] = {}
        for model, (features, fit) in models.items():
            units = fit(features[: len(items)], size)(features)
            right[model] = probe(units[: len(items)], units[len(items) :])
        base = next(iter(right.values()))
        rows: dict[str, Any] = {}
        for model, values in right.items():
            rows[model] = {
                "accuracy": statistics.row(statistics.mean(values, seed=config.seed), len(items))
            }
            if values is not base:
                difference = statistics.paired_mean_difference(values, base, seed=config.seed)
                rows[model]["accuracy_difference"] = statistics.row(difference, len(items))
        result[str(size)] = rows
    return result


def probe(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> np.ndarray:
    """Whether a linear probe of histograms recognises each speaker: float64 (n,) of 0 and 1.

    Args:
        train: units (T,) of one signal of each speaker.
        test: of another one, in the same order.
    """
    size = 1 + max(int(units.max(initial=0)) for units in [*train, *test])

    def histograms(signals: Sequence[np.ndarray]) -> np.ndarray:
        counts = np.array([np.bincount(units, minlength=size) for units in signals], np.float64)
        return np.sqrt(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))

    known, heard = histograms(train), histograms(test)
    mean = known.mean(axis=0)
    known, heard = known - mean, heard - mean
    # Ridge regression to one column per speaker, in its dual form: as many equations as speakers.
    kernel = known @ known.T
    ridge = _RIDGE * np.trace(kernel) / len(kernel) + 1e-12
    scores = heard @ known.T @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    return (scores.argmax(axis=1) == np.arange(len(kernel))).astype(np.float64)


def _features(model: str, wavs: Sequence[np.ndarray], config: StudyConfig) -> tuple[Features, Fit]:
    """What is clustered of each recording, and how.

    Returns:
        The features, and a function of features to fit on and a number of clusters; it returns the
        function from features to units.
    """
    if model == "mfcc":
        return [mfcc_kmeans.raw_features(MFCCKMeansConfig(), wav) for wav in wavs], _fit_mfcc(
            config
        )
    spec = ModelSpec.parse(model, encoders.KINDS)
    if spec is None or "kmeans" in spec.options:
        tokenizer = load_semantic(model)
        units = _in_batches(model, wavs, lambda batch: encode_many(tokenizer, batch, _RATE))
        return units, lambda features, size: list
    family = encoders.FAMILIES[spec.kind]
    spec.checked_options(family.options)
    directory = family.locate(spec)
    encoder = family.load(family.describe(spec, directory), directory)
    states = _in_batches(model, wavs, encoder)
    arrays = [state if isinstance(state, np.ndarray) else state.cpu().numpy() for state in states]
    return arrays, _fit_states(config)


def _fit_mfcc(config: StudyConfig) -> Fit:
    def fit(
        features: Sequence[np.ndarray], clusters: int
    ) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        units = MFCCKMeansConfig(vocab_size=clusters)
        weights = mfcc_kmeans.fit(units, features, config.seed, iterations=config.iterations)
        tokenizer = MFCCKMeans(units, weights, sha256="")
        return lambda signals: [tokenizer.quantise(raw) for raw in signals]

    return fit


def _fit_states(config: StudyConfig) -> Fit:
    def fit(
        features: Sequence[np.ndarray], clusters: int
    ) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        points = np.concatenate(features)
        centroids = kmeans.fit_kmeans(points, clusters, config.seed, config.iterations)
        return lambda signals: [kmeans.nearest(states, centroids) for states in signals]

    return fit


def _in_batches(
    model: str, wavs: Sequence[np.ndarray], encode: Callable[[list[np.ndarray]], list[Any]]
) -> list[Any]:
    """Encodes recordings of similar length together, in the order of the recordings."""
    order = sorted(range(len(wavs)), key=lambda index: len(wavs[index]))
    results: list[Any] = [None] * len(wavs)
    with progress(f"encode with {model}", len(wavs)) as advance:
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for index, found in zip(batch, encode([wavs[i] for i in batch]), strict=True):
                results[index] = found
            advance(len(batch))
    return results


def _listed(source: str) -> list[Utterance]:
    utterances, failures = open_source(source).list()
    if failures:
        raise UserError(
            f"{source}: {len(failures)} recordings cannot be used, the first is "
            f"{failures[0].path}: {failures[0].reason}"
        )
    return utterances


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
