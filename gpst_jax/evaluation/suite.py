"""Evaluates every condition of a directory of samples and lays the numbers out for a report."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation import comparisons, recipes
from gpst_jax.evaluation.measure import Outcome, measure_files
from gpst_jax.evaluation.metrics import dialogue, mos, speaker, statistics, wer
from gpst_jax.samples.manifest import (
    UNSEEN,
    Sample,
    first_of_seeded_order,
    pairs,
    read_samples,
    similarity_reference,
    voice_files,
)

CEILINGS = ("recording", "codec")
CACHE_DIR = ".evaluation_cache"


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, on how many items."""

    wer: str = "wer/pocketsphinx-digits-smoke"
    similarity: str = "sim-o/resemblyzer-smoke"
    mos: tuple[str, ...] = ("dnsmos-p835/speechmos", "dnsmos-p808/speechmos")
    judge: str = "same-words"  # of answers in dialogues
    similarity_items: int = 100  # of each condition
    mos_items: int = 30  # of each condition
    voice_threshold: float = 0.75  # speakers below this cosine are clearly different
    resamples: int = statistics.RESAMPLES
    seed: int = 0  # of the choice of items, the shuffles and the bootstrap
    processes: int = 0  # 0: one for each core

    def __post_init__(self):
        kinds = {self.wer: "wer", self.similarity: "similarity"} | dict.fromkeys(self.mos, "mos")
        for recipe_id, kind in kinds.items():
            if recipes.get_recipe(recipe_id).kind != kind:
                raise UserError(f"recipe {recipe_id!r} measures no {kind}")
        dialogue.get_judge(self.judge)
        for name in ("similarity_items", "mos_items", "processes"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, is {getattr(self, name)}")
        if self.resamples < 1:
            raise UserError(f"resamples must be positive, is {self.resamples}")


@dataclass
class _Scores:
    """Scores of single items: condition -> sample id -> score."""

    errors: dict[str, dict[str, wer.ErrorCounts]] = field(default_factory=dict)
    cosines: dict[str, dict[str, float]] = field(default_factory=dict)
    opinions: dict[str, dict[str, dict[str, float] | None]] = field(default_factory=dict)
    transcripts: dict[str, dict[str, str | None]] = field(default_factory=dict)


class _Run:
    """One evaluation: the sections of the result, filled in by one method for each metric."""

    def __init__(
        self,
        conditions: dict[str, list[Sample]],
        config: EvaluationConfig,
        cache_dir: Path,
        show_progress: bool,
    ) -> None:
        self.conditions = conditions
        self.config = config
        self.scores = _Scores()
        self.rows: dict[str, dict[str, Any]] = {name: {} for name in conditions}
        self.floors: dict[str, dict[str, Any]] = {}
        self.differences: dict[str, dict[str, Any]] = {}
        self.timings: dict[str, float] = {}
        self._cache_dir = cache_dir
        self._show_progress = show_progress
        self._bootstrap = {"resamples": config.resamples, "seed": config.seed}

    def _measure(self, recipe: recipes.Recipe, paths: Sequence[Path]) -> dict[Path, Outcome]:
        start = time.monotonic()
        outcomes = measure_files(
            recipe.measurement,
            paths,
            cache_dir=self._cache_dir,
            processes=self.config.processes or os.cpu_count() or 1,
            show_progress=self._show_progress,
        )
        spent = self.timings.get(recipe.measurement.id, 0.0) + time.monotonic() - start
        self.timings[recipe.measurement.id] = round(spent, 2)
        return outcomes

    def _chosen(self, name: str, count: int) -> list[Sample]:
        return first_of_seeded_order(self.conditions[name], count, self.config.seed)

    # Word error rate.

    def word_error_rate(self) -> None:
        recipe = recipes.get_recipe(self.config.wer)
        scored = {
            name: [s for s in samples if s.text and s.text_kind in recipe.text_kinds]
            for name, samples in self.conditions.items()
        }
        paired = {
            name: [p for p in pairs(samples) if p[0].text_kind in recipe.text_kinds]
            for name, samples in self.conditions.items()
        }
        references = {
            name: {s.id: self._reference(recipe, name, s) for s in samples}
            for name, samples in scored.items()
        }
        wanted = [s.audio for samples in scored.values() for s in samples]
        wanted += [s.audio for group in paired.values() for pair in group for s in pair]
        outcomes = self._measure(recipe, wanted) if wanted else {}
        texts = {
            path: recipe.normalise(outcome.value) if outcome.ok else None
            for path, outcome in outcomes.items()
        }
        for name, samples in self.conditions.items():
            self.scores.transcripts[name] = {
                s.id: texts[s.audio] for s in samples if s.audio in texts
            }
            if paired[name]:
                self._pair_agreement(recipe, name, paired[name], texts)
                continue
            counts = {
                s.id: wer.count_errors(references[name][s.id], texts[s.audio]) for s in scored[name]
            }
            self.scores.errors[name] = counts
            if counts:
                voices = [s.speaker for s in scored[name]]
                row = wer.summarise(list(counts.values()), voices, **self._bootstrap)
            else:
                kinds = " or ".join(recipe.text_kinds)
                has_text = any(s.text for s in samples)
                row = statistics.not_available(
                    f"no transcripts of kind {kinds}" if has_text else "no transcripts"
                )
            self.rows[name][recipe.id] = row
            if any(s.question for s in samples):
                self.rows[name]["answers_correct"] = dialogue.answers(
                    scored[name],
                    [texts[s.audio] for s in scored[name]],
                    self.config.judge,
                    **self._bootstrap,
                )
        for suffix in ("", UNSEEN):
            self._shuffled_references(recipe, suffix, scored, references, texts)

    @staticmethod
    def _reference(recipe: recipes.Recipe, condition: str, sample: Sample) -> str:
        try:
            return recipe.normalise(sample.text or "")
        except UserError as error:
            raise UserError(f"condition {condition}, sample {sample.id}: {error}") from error

    def _pair_agreement(
        self,
        recipe: recipes.Recipe,
        name: str,
        paired: list[tuple[Sample, Sample]],
        texts: dict[Path, str | None],
    ) -> None:
        found = [(texts[a.audio], texts[b.audio]) for a, b in paired]
        row = wer.summarise(wer.count_pair_errors(found), None, **self._bootstrap)
        row["reference"] = "transcript of the first rendition of the same units"
        self.rows[name][recipe.id] = row
        floor = statistics.not_available("fewer than two pairs to shuffle")
        if len(found) > 1:
            moved = comparisons.derangement(len(found), self.config.seed)
            shuffled = [(found[j][0], found[i][1]) for i, j in enumerate(moved)]
            floor = wer.summarise(wer.count_pair_errors(shuffled), None, **self._bootstrap)
        self.floors[f"shuffled_pairs_{name}"] = {recipe.id: floor}

    def _shuffled_references(
        self,
        recipe: recipes.Recipe,
        suffix: str,
        scored: dict[str, list[Sample]],
        references: dict[str, dict[str, str]],
        texts: dict[Path, str | None],
    ) -> None:
        for base in (*CEILINGS, "semantic_to_acoustic", "speaker_transfer", "tts"):
            name = base + suffix
            if scored.get(name):
                samples = scored[name]
                row = comparisons.shuffled_wer(
                    [references[name][s.id] for s in samples],
                    [texts[s.audio] for s in samples],
                    [s.speaker for s in samples],
                    **self._bootstrap,
                )
                row["condition"] = name
                self.floors["shuffled_references" + suffix] = {recipe.id: row}
                return

    # Speaker similarity.

    def similarity(self) -> None:
        if not self.config.similarity_items:
            return
        recipe = recipes.get_recipe(self.config.similarity)
        chosen = {
            name: self._chosen(name, self.config.similarity_items) for name in self.conditions
        }
        wanted = [path for samples in chosen.values() for s in samples for path in voice_files(s)]
        outcomes = self._measure(recipe, wanted)

        def embed(path: Path | None) -> list[float] | None:
            return outcomes[path].value if path in outcomes else None

        originals = {
            (name, path)
            for samples in chosen.values()
            for s in samples
            for name, path in (
                (s.speaker, s.source_audio),
                (s.prompt_speaker, s.prompt_audio),
                (s.prompt_speaker, s.prompt_reference_audio),
            )
            if name not in (None, "unknown") and path is not None
        }
        labelled = ((name, embed(path)) for name, path in sorted(originals))
        means = speaker.mean_embeddings((n, vector) for n, vector in labelled if vector is not None)
        for name, samples in chosen.items():
            self.rows[name][recipe.id] = self._condition_similarity(name, samples, embed)
            if any(s.prompt_speaker not in (None, s.speaker) for s in samples):
                self.rows[name][comparisons.voice_key(name)] = {
                    "recipe": recipe.id
                } | comparisons.closer_to_prompt(
                    samples,
                    embed,
                    means,
                    threshold=self.config.voice_threshold,
                    **self._bootstrap,
                )
        for suffix in ("", UNSEEN):
            prompted = ("speaker_transfer", "voice_conversion", *CEILINGS)
            usable = [b + suffix for b in prompted if b + suffix in chosen]
            if usable:
                row = comparisons.another_speaker(chosen[usable[0]], embed, **self._bootstrap)
                self.floors["another_speaker" + suffix] = {recipe.id: row}

    def _condition_similarity(
        self, name: str, samples: list[Sample], embed: comparisons.Embed
    ) -> dict[str, Any]:
        values: dict[str, float] = {}
        labels, against, failed, unusable = [], set(), 0, 0
        for sample in samples:
            path, kind = similarity_reference(sample, samples)
            if path is None:
                continue
            reference, generated = embed(path), embed(sample.audio)
            if reference is None:
                unusable += 1  # without the original there is nothing to compare with
                continue
            failed += generated is None
            values[sample.id] = 0.0 if generated is None else speaker.cosine(generated, reference)
            labels.append(sample.prompt_speaker or sample.speaker)
            against.add(kind)
        self.scores.cosines[name] = values
        row = speaker.summarise(
            list(values.values()),
            labels,
            reference=" or ".join(sorted(against)) or "a prompt or source recording",
            failed=failed,
            **self._bootstrap,
        )
        return row | ({"unusable_references": unusable} if unusable else {})

    # Predicted opinion scores.

    def opinion_scores(self) -> None:
        if not self.config.mos_items or not self.config.mos:
            return
        chosen = {name: self._chosen(name, self.config.mos_items) for name in self.conditions}
        wanted = [s.audio for samples in chosen.values() for s in samples]
        for recipe_id in self.config.mos:
            recipe = recipes.get_recipe(recipe_id)
            outcomes = self._measure(recipe, wanted)
            for name, samples in chosen.items():
                scores = {s.id: outcomes[s.audio].value for s in samples}
                self.scores.opinions.setdefault(name, {}).update(scores)
                self.rows[name][recipe_id] = mos.summarise(
                    list(scores.values()), recipe.output, **self._bootstrap
                )

    # Differences between conditions.

    def paired_differences(self) -> None:
        for a, b in comparisons.compared_conditions(list(self.conditions)):
            scores = self.scores
            found = {
                self.config.wer: comparisons.wer_difference(
                    scores.errors.get(a, {}), scores.errors.get(b, {}), **self._bootstrap
                )
            }
            if self.config.similarity_items:
                found[self.config.similarity] = comparisons.mean_difference(
                    scores.cosines[a], scores.cosines[b], **self._bootstrap
                )
            if self.config.mos_items:
                for recipe_id in self.config.mos:
                    output = recipes.get_recipe(recipe_id).output
                    values, base = (
                        {
                            id_: mos.LOWEST if score is None else score[output]
                            for id_, score in scores.opinions[name].items()
                        }
                        for name in (a, b)
                    )
                    found[recipe_id] = comparisons.mean_difference(values, base, **self._bootstrap)
            self.differences[f"{a} - {b}"] = found

    def items(self) -> dict[str, list[dict[str, Any]]]:
        """Scores of the single items of each condition."""
        return {
            name: [
                {
                    "id": s.id,
                    "text": s.text,
                    "transcript": self.scores.transcripts.get(name, {}).get(s.id),
                    "errors": _as_dict(self.scores.errors.get(name, {}).get(s.id)),
                    "similarity": self.scores.cosines.get(name, {}).get(s.id),
                    "mos": self.scores.opinions.get(name, {}).get(s.id),
                }
                for s in samples
            ]
            for name, samples in self.conditions.items()
        }


def _as_dict(counts: wer.ErrorCounts | None) -> dict[str, Any] | None:
    return None if counts is None else asdict(counts)


def _floor_order(entry: tuple[str, Any]) -> tuple[bool, bool]:
    """Floors of seen voices first, those of pairs last."""
    return entry[0].endswith(UNSEEN), entry[0].startswith("shuffled_pairs")


def evaluate(
    samples_dir: str | Path,
    config: EvaluationConfig | None = None,
    *,
    cache_dir: str | Path | None = None,
    show_progress: bool = True,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Measures every condition below `samples_dir`.

    Interrupted runs go on where they stopped: values of single files are cached by content.

    Args:
        samples_dir: directory with one folder and manifest for each condition.
        config: what to measure; defaults to the recipes that run offline.
        cache_dir: where values of files are kept; defaults to a folder in `samples_dir`.
        show_progress: whether to draw progress bars.

    Returns:
        The results, and the scores of single items by condition. Results hold `modes` and
        `ceilings` (condition -> recipe id -> {value, ci95, n, ...}), `floors`, `differences`
        (paired by id), `recipes` (what each id stands for), `settings` and `timings_s`. A row
        without numbers has value None and a `reason`.

    Raises:
        UserError: bad samples, a package that is missing, or a cache that cannot be written.
    """
    config = config or EvaluationConfig()
    conditions = read_samples(samples_dir)
    used = [recipes.get_recipe(name) for name in (config.wer, config.similarity, *config.mos)]
    for recipe in used:
        recipe.measurement.check()  # before any work
    cache = Path(cache_dir) if cache_dir else Path(samples_dir) / CACHE_DIR
    run = _Run(conditions, config, cache, show_progress)
    run.word_error_rate()
    run.similarity()
    run.opinion_scores()
    run.paired_differences()
    ceilings = {n: row for n, row in run.rows.items() if n.removesuffix(UNSEEN) in CEILINGS}
    results = {
        "modes": {name: row for name, row in run.rows.items() if name not in ceilings},
        "ceilings": ceilings,
        "floors": dict(sorted(run.floors.items(), key=_floor_order)),
        "differences": run.differences,
        "recipes": {recipe.id: recipe.describe() for recipe in used},
        "settings": asdict(config) | {"samples": {n: len(s) for n, s in conditions.items()}},
        "timings_s": run.timings,
    }
    return results, run.items()
