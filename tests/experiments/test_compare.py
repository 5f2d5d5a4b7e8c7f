"""The program that compares systems, on toy sounds."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
WER = "wer/whisper-base-english"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.compare", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.loaded += [value for key, value in attrs if key in ("src", "srcset", "href")]


@pytest.fixture
def two(tmp_path):
    """Two systems of eight items of four words: the second makes one error more in each."""
    rng = np.random.default_rng(0)
    paths = {}
    for name, extra in (("old", 0), ("new", 1)):
        folder = tmp_path / name
        (folder / "samples" / "tts").mkdir(parents=True)
        row = {"value": 0.1, "ci95": [0, 0.2], "n": 8}
        recipe = {"version": 1, "model": "m", "normalisation": "n", "aggregation": "corpus"}
        results = {"modes": {"tts": {WER: row}}, "ceilings": {}, "recipes": {WER: recipe}}
        results["settings"] = {"wer": [WER]}
        items, lines = [], []
        for number in range(8):
            errors = {"words": 4, "substitutions": number % 2 + extra, "deletions": 0}
            errors |= {"insertions": 0, "empty": False, "failed": False}
            about = {"id": f"u{number}", "text": "a b c d"}
            items.append(about | {"condition": "tts", "errors": errors, "transcript": "a <b> c"})
            lines.append(about | {"speaker": f"s{number}", "audio": f"{number}.wav"})
            sound = 0.1 * rng.standard_normal(4000)
            if (name, number) != ("new", 7):  # one is missing
                soundfile.write(folder / "samples" / "tts" / f"{number}.wav", sound, 16000)
        manifest = folder / "samples" / "tts" / "manifest.jsonl"
        manifest.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(results), encoding="utf-8")
        (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
        paths[name] = folder
    return paths


def arguments(two, output):
    joined = {
        "results": "report.json",
        "items": "items.jsonl",
        "samples": "samples",
    }
    given = [f"--{flag}={two['old'] / name},{two['new'] / name}" for flag, name in joined.items()]
    return [*given, f"--output={output}", "--listen=5", "--resamples=100"]


def test_two_systems_become_differences_a_page_and_lists(two, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("librosa")
    output = tmp_path / "out"
    done = run(*arguments(two, output))
    assert done.returncode == 3, done.stderr  # one sound is missing
    assert "1 samples have no sound" in done.stdout
    result = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    row = result["differences"]["new - old"]["tts"][WER]
    assert row["value"] == pytest.approx(8 / 32)
    assert row["interval"]["over"] == "speakers"  # from the manifest: these items name none
    assert row["p"] == pytest.approx(2 / 2**8) or row["p"] == pytest.approx(1 / 101)
    source = (output / "comparison.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(source)
    assert all(link.startswith("data:") for link in page.loaded)
    sections = [attrs for tag, attrs in page.tags if "trial" in (attrs.get("class") or "")]
    assert len(sections) == 5
    sides = [attrs for tag, attrs in page.tags if attrs.get("class") == "side"]
    assert [side["data-system"] for side in sides] == ["0", "1"] * 5
    assert sum(tag == "audio" for tag, _ in page.tags) >= 9
    markdown = (output / "comparison.md").read_text(encoding="utf-8")
    assert "+25.0 pts" in markdown
    assert "## new against old" in markdown
    lists = output / "versa" / "new" / "tts"
    assert len((lists / "pred.scp").read_text(encoding="utf-8").splitlines()) == 7
    assert (lists / "missing.txt").read_text(encoding="utf-8") == "u7\n"
    assert (lists / "text").read_text(encoding="utf-8").startswith("u0 a b c d\n")
    # Names are nowhere beside the players: the script fills them in after a vote.
    listening = source[source.index('<div class="comparison">') : source.index("<details")]
    for name in ("old", "new"):
        assert f">{name}<" not in listening

    trials = result["trials"]["new - old"]
    votes = {
        "key": trials["key"],
        "systems": ["old", "new"],
        "listener": "me",
        "votes": [
            {"condition": condition, "id": id_, "first": "new", "choice": "old", "blind": True}
            for condition, id_ in trials["items"]
        ],
    }
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(votes), encoding="utf-8")
    done = run(*arguments(two, output), f"--votes={path}")
    assert done.returncode == 3, done.stderr
    result = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    voted = result["votes"]["new - old"]
    assert (voted["value"], voted["wins"], voted["losses"]) == (0, 0, 5)
    assert voted["p"] == pytest.approx(2 / 2**5)
    assert "sign test" in (output / "comparison.html").read_text(encoding="utf-8")


def test_bad_input_is_one_line(two, tmp_path):
    done = run(f"--results={two['old'] / 'report.json'}", f"--output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --items has 0 entries")
    assert done.stderr.count("\n") == 1
