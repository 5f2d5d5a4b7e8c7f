"""Lists of minimal pairs: tables, and the file layouts in which they are published.

    sWUGGY      ZeroSpeech 2021, lexical/dev: gold.csv beside the recordings, with columns id,
                filename (no suffix), voice, frequency, word, correct (1: the word)
    sBLIMP      the same, syntactic/dev: columns id, filename, voice, type, subtype, correct
    SALMon      one folder for each part, sample_<i>_0.wav to be preferred to sample_<i>_1.wav
    StoryCloze  <story>_correct.wav and <story>_incorrect.wav, of sSC or tSC, in folders or not

The rows of a word or sentence in one voice are paired in the order of gold.csv. Its voices are one
cluster, and sets are published with the same number of voices for each, so that the mean over pairs
is the published mean over words of the mean over voices.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.files import read_lines, read_rows
from gpst_jax.evaluation.likelihood.pairs import TABLES, Pair, read_table

GOLD = "gold.csv"
# sWUGGY's bands of how often a word occurs in LibriSpeech: lowest frequency and name.
_BANDS = ((100, ">100"), (20, "21-100"), (5, "6-20"), (1, "1-5"), (0, "oov"))
_CORRECT, _INCORRECT = "_correct", "_incorrect"
_SAMPLE = re.compile(r"sample_(\d+)_(\d+)")


def read_pairs(source: str | Path) -> list[Pair]:
    """Reads pairs of recordings.

    Args:
        source: FILE.csv or FILE.jsonl, see `pairs.read_table`; a directory in a published layout,
            which is recognised; or LAYOUT:DIRECTORY with one of `LAYOUTS`.

    Raises:
        UserError: it cannot be read, is none of these, or holds no pairs.
    """
    layout, colon, directory = str(source).partition(":")
    if colon and layout in LAYOUTS:
        if not Path(directory).is_dir():
            raise UserError(f"--pairs={source}: no such directory {directory}")
        return LAYOUTS[layout](Path(directory))
    path = Path(source)
    if path.is_dir():
        return LAYOUTS[find_layout(path)](path)
    if path.suffix not in TABLES:
        raise UserError(
            f"--pairs={source}: give FILE.csv or FILE.jsonl with positive and negative, or a "
            f"directory in the layout of {', '.join(LAYOUTS)}"
        )
    return read_table(path)


def swuggy(directory: Path) -> list[Pair]:
    """Words against non-words, grouped by the word's frequency."""
    return _gold(directory, ("id", "voice"), _band)


def sblimp(directory: Path) -> list[Pair]:
    """Grammatical against ungrammatical sentences, grouped by phenomenon (`type`)."""
    return _gold(directory, ("type", "subtype", "id", "voice"), lambda row, _: row["type"])


def salmon(directory: Path) -> list[Pair]:
    """Consistent against inconsistent recordings, grouped by part."""
    pairs = []
    for folder in _folders(directory):
        samples: dict[int, dict[int, Path]] = {}
        for path in sorted(folder.glob("sample_*.wav")):
            if match := _SAMPLE.fullmatch(path.stem):
                samples.setdefault(int(match[1]), {})[int(match[2])] = path
        for number, options in sorted(samples.items()):
            if set(options) != {0, 1}:
                raise UserError(
                    f"{folder}: sample {number} has the options {sorted(options)}, not 0 and 1"
                )
            name = f"{folder.name}/{number}"
            pairs.append(Pair(name, options[0], options[1], folder.name))
    return _some(pairs, directory, "sample_<i>_0.wav and sample_<i>_1.wav")


def storycloze(directory: Path) -> list[Pair]:
    """Stories with the right against a wrong ending, grouped by folder."""
    pairs, used = [], set()
    for positive in sorted(directory.rglob(f"*{_CORRECT}.wav")):
        story = positive.stem.removesuffix(_CORRECT)
        negative = positive.with_name(f"{story}{_INCORRECT}.wav")
        if not negative.is_file():
            raise UserError(f"{positive}: its wrong ending {negative.name} is missing")
        group = positive.parent.relative_to(directory).as_posix()
        pairs.append(Pair(f"{group}/{story}", positive, negative, "" if group == "." else group))
        used.add(negative)
    for negative in sorted(directory.rglob(f"*{_INCORRECT}.wav")):
        if negative not in used:
            raise UserError(f"{negative}: its right ending is missing")
    return _some(pairs, directory, "<story>_correct.wav and <story>_incorrect.wav")


LAYOUTS: Mapping[str, Callable[[Path], list[Pair]]] = {
    "swuggy": swuggy,
    "sblimp": sblimp,
    "salmon": salmon,
    "storycloze": storycloze,
}


def find_layout(directory: Path) -> str:
    """The name of the layout that a directory is in.

    Raises:
        UserError: it is in none.
    """
    if (directory / GOLD).is_file():
        header = next(csv.reader(read_lines(directory / GOLD)[:1]), [])
        return "sblimp" if "type" in header else "swuggy"
    if any(_SAMPLE.fullmatch(path.stem) for path in directory.glob("**/sample_*.wav")):
        return "salmon"
    if next(directory.rglob(f"*{_CORRECT}.wav"), None):
        return "storycloze"
    raise UserError(
        f"{directory}: in none of the layouts of {', '.join(LAYOUTS)}; list its pairs in a CSV "
        "file with positive and negative"
    )


def _gold(
    directory: Path,
    key: Sequence[str],
    group: Callable[[Mapping[str, str], str], str],
) -> list[Pair]:
    """Pairs of a gold.csv: within a key, the n-th correct row and the n-th incorrect one."""
    rows: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    places: dict[tuple[str, ...], str] = {}
    for where, row in read_rows(directory / GOLD):
        for name in (*key, "filename", "correct"):
            if not row.get(name):
                raise UserError(f"{where}: column {name!r} is missing or empty")
        if row["correct"] not in ("0", "1"):
            raise UserError(f"{where}: correct is {row['correct']!r}, not 0 or 1")
        own = tuple(row[name] for name in key)
        places.setdefault(own, where)
        rows.setdefault(own, {"1": [], "0": []})[row["correct"]].append(row)
    pairs = []
    for own, sides in rows.items():
        if len(sides["1"]) != len(sides["0"]):
            raise UserError(
                f"{places[own]}: {', '.join(own)} has {len(sides['1'])} correct and "
                f"{len(sides['0'])} incorrect rows, which are no pairs"
            )
        for number, (right, wrong) in enumerate(zip(sides["1"], sides["0"], strict=True)):
            positive, negative = (
                directory / f"{row['filename'].removesuffix('.wav')}.wav" for row in (right, wrong)
            )
            name = "/".join(own) + (f"/{number}" if number else "")
            cluster = "/".join(own[: key.index("voice")])
            pairs.append(Pair(name, positive, negative, group(right, places[own]), cluster))
    return _some(pairs, directory, f"rows in {GOLD}")


def _band(row: Mapping[str, str], where: str) -> str:
    """The frequency band of a word; empty where gold.csv does not say."""
    text = row.get("frequency")
    if not text:
        return ""
    try:
        frequency = float(text)
    except ValueError:
        raise UserError(f"{where}: frequency {text!r} is no number") from None
    return next(name for least, name in _BANDS if frequency >= least or not least)


def _folders(directory: Path) -> list[Path]:
    """The directory, where it holds recordings itself, or its folders."""
    if any(directory.glob("sample_*.wav")):
        return [directory]
    return sorted(path for path in directory.iterdir() if path.is_dir())


def _some(pairs: list[Pair], directory: Path, wanted: str) -> list[Pair]:
    if not pairs:
        raise UserError(f"{directory}: holds no {wanted}")
    return pairs
