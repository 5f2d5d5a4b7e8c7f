"""The study of unit models: information, its floor, the probe, and the program on tones."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from experiments.studies import units

RATE = 16_000


def test_information_is_one_of_equal_labels_none_of_independent_ones_and_blind_to_names():
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=4000)
    assert units.information(labels, labels) == pytest.approx(1)
    assert units.information((7 * labels) % 11, labels) == pytest.approx(1)
    assert units.information(rng.integers(5, size=4000), labels) < 0.01
    assert units.information(np.zeros(9, int), np.zeros(9, int)) == 0
    # Units that merge two pairs of four equally frequent labels: I = H(U) = 1 bit, H(L) = 2 bits.
    four = np.arange(400) % 4
    assert units.information(four // 2, four) == pytest.approx(2 / 3)


def _corpus(word: float, speaker: float) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Features that depend on the word and on the speaker, each as strongly as it is told."""
    rng = np.random.default_rng(0)
    features, speakers, words = [], [], []
    for who in range(4):
        for what in range(3):
            for _ in range(5):
                centre = np.zeros(8)
                centre[what], centre[4 + who] = word, speaker
                features.append((centre + rng.standard_normal((12, 8))).astype(np.float32))
                speakers.append(f"speaker {who}")
                words.append(f"word {what}")
    return features, np.array(speakers), np.array(words)


def test_units_of_words_and_units_of_speakers_are_told_apart():
    tables = {}
    for name, strengths in {"of speakers": (0.0, 8.0), "of words": (8.0, 0.0)}.items():
        features, speakers, words = _corpus(*strengths)
        rng = np.random.default_rng(0)
        fit = units._fit_states(units.StudyConfig())
        tables[name] = units.crossed_information(features, fit, 6, speakers, words, rng)
    assert len(tables["of words"]["pairs"]) == 6
    rows = units._rows(tables, 4, seed=0)
    right = rows["of words"]
    assert right["word"]["value"] > 0.7 > 0.1 > rows["of speakers"]["word"]["value"]
    assert right["speaker"]["value"] < 0.05
    assert right["word_floor"] < 0.2
    assert right["word_difference"]["ci95"][0] > 0.4
    low, high = right["word"]["ci95"]
    assert low <= right["word"]["value"] <= high
    assert "word_difference" not in rows["of speakers"]


def test_the_probe_knows_voices_by_their_units_and_nothing_of_shuffled_ones():
    rng = np.random.default_rng(0)
    voices = rng.dirichlet(np.full(40, 0.3), size=30)
    train, test = ([rng.choice(40, 300, p=voice) for voice in voices] for _ in range(2))
    assert units.probe(train, test).mean() > 0.9
    assert units.probe(train, test[1:] + test[:1]).mean() < 0.1


def test_the_program_measures_a_folder_of_words_and_one_of_readers(tmp_path):
    rows = []
    for speaker, pitch in {"ann": 100, "bob": 130, "eve": 160}.items():
        for text, formant in {"low": 500, "high": 2500}.items():
            for number in range(2):
                time = np.arange(RATE // 2) / RATE
                wav = np.sin(2 * np.pi * pitch * time) + np.sin(2 * np.pi * formant * time)
                noise = np.random.default_rng(len(rows)).standard_normal(len(time))
                path = tmp_path / f"{speaker}-{text}-{number}.wav"
                soundfile.write(path, 0.2 * wav + 0.01 * noise, RATE)
                rows.append({"path": path.name, "speaker": speaker, "text": text})
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "speaker", "text"])
        writer.writeheader()
        writer.writerows(rows)
    source, output = f"manifest:{tmp_path / 'list.csv'}", tmp_path / "result.json"
    call = [sys.executable, "-m", "experiments.studies.units", "--models=mfcc", "--clusters=4"]
    call += [f"--words={source}", f"--readers={source}", f"--json_out={output}"]
    subprocess.run(call, check=True, capture_output=True)
    result = json.loads(output.read_text())
    assert result["words"]["recordings"] == 12
    assert result["words"]["4"]["mfcc"]["word"]["n"] == 3
    assert result["readers"]["speakers"] == 3
    assert 0 <= result["readers"]["4"]["mfcc"]["accuracy"]["value"] <= 1
    call = [*call[:4], f"--words={tmp_path}"]
    failed = subprocess.run(call, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "--words needs recordings with texts" in failed.stderr
    assert "Traceback" not in failed.stderr
