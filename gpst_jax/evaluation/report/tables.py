"""Results as rows of text, shared by the terminal and the report page."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gpst_jax.evaluation.comparisons import voice_key
from gpst_jax.samples.manifest import UNSEEN

Row = dict[str, Any]

# What the conditions are, in the order in which they are shown.
CONDITIONS = {
    "recording": "recording",
    "codec": "recording through the codec",
    "semantic_to_acoustic": "semantic to acoustic",
    "speaker_transfer": "speaker transfer",
    "continuation": "continuation",
    "unconditional": "unconditional (two renditions)",
    "tts": "text to speech",
    "tts_sentences": "text to speech, sentences",
    "voice_conversion": "voice conversion",
    "dialogue": "spoken dialogue",
}

FLOORS = {
    "shuffled_references": "shuffled transcripts",
    "another_speaker": "another speaker",
    "shuffled_pairs_unconditional": "unconditional, shuffled pairs",
}


def condition_name(condition: str) -> str:
    """A condition in words, for example `codec_unseen` -> "recording through the codec, unseen"."""
    base = condition.removesuffix(UNSEEN)
    words = CONDITIONS.get(base, base.replace("_", " "))
    return words + (", unseen voices" if condition.endswith(UNSEEN) else "")


def in_order(conditions: list[str]) -> list[str]:
    """Conditions as shown: ceilings first; each with its unseen voices after all seen ones."""
    order = list(CONDITIONS)

    def rank(name: str) -> tuple[bool, int, str]:
        base = name.removesuffix(UNSEEN)
        return name.endswith(UNSEEN), order.index(base) if base in order else len(order), base

    return sorted(conditions, key=rank)


def number(recipe_id: str, value: float | None, signed: bool = False) -> str:
    """A value in the unit of its recipe: error rates in per cent, their differences in points."""
    if value is None:
        return "–"  # noqa: RUF001  an en dash is meant
    sign = "+" if signed else ""
    if recipe_id.startswith("wer/"):
        return f"{100 * value:+.1f} pts" if signed else f"{100 * value:.1f} %"
    return f"{value:{sign}.2f}"


def interval(recipe_id: str, row: Row, signed: bool = False) -> str:
    """The 95 % interval of a row in the same unit, or an empty text."""
    if not row.get("ci95"):
        return ""
    low, high = (number(recipe_id, end, signed).split(" ")[0] for end in row["ci95"])
    return f"[{low}, {high}]"


def _floor_name(floor: str) -> str:
    base = floor.removesuffix(UNSEEN)
    words = FLOORS.get(base, base.replace("_", " "))
    return words + (", unseen voices" if base != floor else "")


def sections(results: Row) -> Iterator[tuple[str, list[tuple[str, Row]]]]:
    """The parts of the main table: title, then (name, recipe id -> row) of its lines."""
    yield (
        "Ceilings",
        [(condition_name(n), results["ceilings"][n]) for n in in_order(list(results["ceilings"]))],
    )
    yield (
        "Modes",
        [(condition_name(n), results["modes"][n]) for n in in_order(list(results["modes"]))],
    )
    yield "Floors", [(_floor_name(name), row) for name, row in results["floors"].items()]


def recipe_columns(results: Row) -> list[str]:
    """Recipe ids in the order of the columns."""
    return list(results["recipes"])


def voice_rows(results: Row) -> list[tuple[str, Row]]:
    """The conditions that ask whose voice it is, with their row."""
    return [
        (condition_name(name), results["modes"][name][voice_key(name)])
        for name in in_order(list(results["modes"]))
        if voice_key(name) in results["modes"][name]
    ]


def answer_rows(results: Row) -> list[tuple[str, Row]]:
    """The dialogues, with their row of right answers."""
    return [
        (condition_name(name), results["modes"][name]["answers_correct"])
        for name in in_order(list(results["modes"]))
        if "answers_correct" in results["modes"][name]
    ]


def print_results(results: Row) -> None:
    """Prints a table for each recipe, with ceilings, modes, floors and paired differences."""
    console = Console()
    parts = [(title, lines, False) for title, lines in sections(results)]
    for recipe_id in recipe_columns(results):
        table = Table(title=recipe_id, title_justify="left", title_style="bold", box=box.SIMPLE)
        for header in ("", "value", "95 % interval", "items"):
            table.add_column(header, justify="right" if header else "left")
        for _, lines, signed in [*parts, ("", list(results["differences"].items()), True)]:
            rows = [(name, rows[recipe_id]) for name, rows in lines if recipe_id in rows]
            for name, row in rows:
                if row["value"] is None:
                    table.add_row(name, "", row["reason"], "")
                    continue
                value = number(recipe_id, row["value"], signed)
                table.add_row(name, value, interval(recipe_id, row, signed), str(row["n"]))
            table.add_section()
        console.print(table)
    for name, row in voice_rows(results):
        if row["value"] is None:
            console.print(f"{name}, nearer to the prompt's voice: {row['reason']}")
            continue
        codec = row.get("prompt_reference_codec_audio")
        beside = f"; the codec's reconstruction of it {codec['value']:.0%}" if codec else ""
        console.print(
            f"{name}, nearer to the prompt's voice than to the source's: {row['value']:.0%} "
            f"of {row['n']} items{beside} ({row['recipe']})"
        )
    for name, row in answer_rows(results):
        console.print(
            f"{name}, right answers: {row['value']:.0%} of {row['n']} as heard, "
            f"{row['written']['value']:.0%} as written ({row['judge']})"
        )
