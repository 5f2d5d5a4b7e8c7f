import json
import math

import numpy as np
import pytest
import soundfile

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.report.tables import print_results
from gpst_jax.evaluation.suite import EvaluationConfig, evaluate

WER, SIM, MOS = "wer/toy", "sim-o/toy", "mos/toy"


@pytest.fixture
def config(toy_settings):
    return EvaluationConfig(registry.configure(**toy_settings), processes=1, resamples=300)


@pytest.fixture
def results(config, toy_samples):
    return evaluate(toy_samples, config, show_progress=False)[0]


def test_error_rates_are_those_counted_by_hand(results):
    assert results["ceilings"]["recording"][WER]["value"] == 0
    assert results["ceilings"]["codec"][WER]["value"] == pytest.approx(2 / 48)
    transfer = results["modes"]["speaker_transfer"][WER]
    assert transfer["value"] == pytest.approx(6 / 48)  # two words wrong, four of a missing file
    assert (transfer["n"], transfer["failed"], transfer["deletions"]) == (12, 1, 4)
    assert results["modes"]["unconditional"][WER]["value"] == pytest.approx(1 / 24)
    assert results["modes"]["unconditional"][WER]["n"] == 6


def test_floors_are_far_from_the_ceilings(results):
    assert results["floors"]["shuffled_references"][WER]["value"] > 0.5
    assert results["floors"]["shuffled_pairs_unconditional"][WER]["value"] > 0.5
    floor = results["floors"]["another_speaker"][SIM]["value"]
    assert floor == pytest.approx(math.cos(0.45 * math.pi), abs=1e-3)
    assert results["ceilings"]["recording"][SIM]["value"] == pytest.approx(1, abs=1e-3)


def test_transferred_voices_are_counted(results):
    row = results["modes"]["speaker_transfer"]["closer_to_prompt"]
    assert row["n"] == 12
    assert row["value"] == pytest.approx(8 / 12)  # three kept the source's voice, one is missing
    assert row["prompt_reference_codec_audio"]["value"] == 1
    assert row["difference_to_codec"]["value"] == pytest.approx(-4 / 12)
    assert row["recipe"] == SIM
    # A missing file has no similarity to the prompt at all: (8 + 3 cos) / 12.
    expected = (8 + 3 * math.cos(0.45 * math.pi)) / 12
    assert results["modes"]["speaker_transfer"][SIM]["value"] == pytest.approx(expected, abs=1e-3)


def test_differences_are_paired_by_id(results):
    differences = results["differences"]
    assert set(differences) == {"codec - recording", "speaker_transfer - codec"}
    assert differences["codec - recording"][WER]["value"] == pytest.approx(2 / 48)
    assert differences["speaker_transfer - codec"][WER]["value"] == pytest.approx(4 / 48)
    assert differences["speaker_transfer - codec"][MOS]["value"] == pytest.approx((1 - 3) / 12)


def test_result_is_json_with_a_recipe_for_every_number(results):
    json.dumps(results, allow_nan=False)
    for section in ("modes", "ceilings", "floors"):
        for rows in results[section].values():
            for key, row in rows.items():
                assert key in results["recipes"] or row["recipe"] in results["recipes"]
                assert {"value", "ci95", "n"} <= set(row)


def test_speech_without_transcripts_says_so(config, toy_samples):
    for path in toy_samples.glob("*/manifest.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row | {"text": None, "pair": None} for row in rows]
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    results, _ = evaluate(toy_samples, config, show_progress=False)
    row = results["modes"]["speaker_transfer"][WER]
    assert row["value"] is None
    assert row["n"] == 0
    assert row["reason"] == "not available: no transcripts"
    assert results["modes"]["speaker_transfer"][SIM]["n"] == 12


def test_fewer_items_are_the_same_in_every_condition(toy_settings, toy_samples):
    settings = toy_settings | {"similarity_items": 5, "mos_items": 4}
    few = EvaluationConfig(registry.configure(**settings), processes=1)
    results, items = evaluate(toy_samples, few, show_progress=False)
    assert results["ceilings"]["codec"][SIM]["n"] == 5
    assert results["ceilings"]["codec"][MOS]["n"] == 4
    assert results["ceilings"]["codec"][WER]["n"] == 12
    assert results["differences"]["speaker_transfer - codec"][SIM]["n"] == 5
    scored = [item["id"] for item in items["codec"] if item["similarity"] is not None]
    assert scored == [i["id"] for i in items["recording"] if i["similarity"] is not None]


def test_invalid_settings_are_refused(toy_recipes):
    with pytest.raises(UserError, match=r"no recipe 'sim-o/toy' of kind wer; .*wer/toy"):
        registry.configure(wer=(SIM,))
    with pytest.raises(UserError, match="similarity_items must not be negative"):
        registry.configure(similarity_items=-1)
    with pytest.raises(UserError, match="oracle"):
        registry.configure(judge="oracle")
    with pytest.raises(TypeError, match="unheard_of"):
        registry.configure(unheard_of=1)
    with pytest.raises(UserError, match="processes"):
        EvaluationConfig(processes=-1)


def test_a_transcript_outside_the_grammar_names_its_sample(config, toy_samples):
    path = toy_samples / "codec" / "manifest.jsonl"
    text = path.read_text(encoding="utf-8").replace("zero one two three", "zero one two hundred")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"condition codec, sample u0.*hundred"):
        evaluate(toy_samples, config, show_progress=False)


def test_metrics_of_zero_items_leave_no_rows(toy_settings, toy_samples):
    settings = toy_settings | {"similarity_items": 0, "mos_items": 0}
    config = EvaluationConfig(registry.configure(**settings), processes=1, resamples=50)
    results, items = evaluate(toy_samples, config, show_progress=False)
    assert set(results["modes"]["speaker_transfer"]) == {WER}
    assert set(results["differences"]["codec - recording"]) == {WER}
    assert set(results["recipes"]) == {WER, SIM, MOS}
    assert set(results["timings_s"]) == {"toy/wer"}
    assert items["codec"][0]["similarity"] is None


def test_failed_samples_are_named_with_their_reasons(config, toy_samples):
    path = toy_samples / "codec" / "manifest.jsonl"
    third = json.loads(path.read_text(encoding="utf-8").splitlines()[3])
    (path.parent / third["audio"]).write_bytes(b"RIFF")
    results, _ = evaluate(toy_samples, config, show_progress=False)
    (missing,) = results["failed"]["speaker_transfer"].values()
    assert missing == "no such file"
    assert list(results["failed"]) == ["codec", "speaker_transfer"]
    assert list(results["failed"]["codec"]) == [third["id"]]
    assert results["modes"]["speaker_transfer"]["closer_to_prompt"]["failed"] == 1


def test_failed_samples_are_named_even_if_no_metric_reads_them(toy_settings, toy_samples, capsys):
    for path in toy_samples.glob("*/manifest.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row | {"text": None, "pair": None} for row in rows]
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    settings = toy_settings | {"similarity_items": 0, "mos_items": 0}
    config = EvaluationConfig(registry.configure(**settings), processes=1, resamples=50)
    results, _ = evaluate(toy_samples, config, show_progress=False)
    assert list(results["failed"]) == ["speaker_transfer"]
    print_results(results)
    printed = " ".join(capsys.readouterr().out.split())
    assert "speaker transfer: 1 of 12 failed (1 no such file)" in printed
    assert "wer/toy: not available: no transcripts (recording," in printed
    assert "interval" not in printed  # no table without a number
    assert "sim-o" not in printed
    assert "mos/toy" not in printed


def test_the_table_counts_what_failed(results, capsys):
    print_results(results)
    printed = capsys.readouterr().out
    assert "12, 1 failed" in printed
    assert "1 of 12 failed" in printed


def test_settings_are_one_flat_object(config):
    assert config.settings() == {
        "wer": (WER,),
        "similarity": SIM,
        "mos": (MOS,),
        "judge": "same-words",
        "wer_items": 100,
        "similarity_items": 100,
        "mos_items": 30,
        "voice_threshold": 0.75,
        "resamples": 300,
        "seed": 0,
        "processes": 1,
    }


def test_missing_silent_unreadable_and_short_sounds_count_at_the_worst_score(config, toy_samples):
    folder = toy_samples / "codec"
    (folder / "1.wav").unlink()
    soundfile.write(folder / "2.wav", np.zeros(8000), 16000)
    (folder / "3.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "4.wav", np.full(800, 0.5), 16000)
    results, items = evaluate(toy_samples, config, show_progress=False)
    failed = results["failed"]["codec"]
    assert set(failed) == {"u1", "u2", "u3", "u4"}
    assert "no such file" in failed["u1"]
    assert "silent" in failed["u2"]
    rows = results["ceilings"]["codec"]
    assert (rows[WER]["n"], rows[WER]["failed"], rows[WER]["deletions"]) == (12, 4, 16)
    assert rows[WER]["value"] == pytest.approx((16 + 2) / 48)
    assert (rows[SIM]["n"], rows[SIM]["failed"]) == (12, 4)
    assert rows[SIM]["value"] == pytest.approx(8 / 12, abs=1e-3)
    assert rows[MOS]["value"] == pytest.approx((8 * 3 + 4 * 1) / 12)
    scored = {item["id"]: item for item in items["codec"]}
    assert scored["u2"]["mos"] == {"ovrl_mos": 1.0}
    assert scored["u2"]["similarity"] == 0
    assert scored["u2"]["errors"]["deletions"] == 4
    # And in the paired differences, whose other side has the recording.
    assert results["differences"]["codec - recording"][WER]["n"] == 12
    assert results["differences"]["codec - recording"][MOS]["value"] == pytest.approx(-8 / 12)


def test_differences_have_p_values_and_items_their_speakers(config, toy_samples):
    results, items = evaluate(toy_samples, config, show_progress=False)
    row = results["differences"]["speaker_transfer - codec"][WER]
    assert 0 < row["p"] <= 1
    assert row["interval"]["over"] == "items"  # of two speakers
    assert {item["speaker"] for item in items["codec"]} == {"anna", "bert"}
    assert {item["speaker"] for item in items["unconditional"]} == {None}


def test_intervals_are_over_speakers_where_there_are_five(config, toy_samples):
    for path in toy_samples.glob("*/manifest.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row | {"speaker": f"s{n % 6}"} for n, row in enumerate(rows)]
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    results, _ = evaluate(toy_samples, config, show_progress=False)
    row = results["ceilings"]["codec"][WER]
    assert (row["interval"]["over"], row["interval"]["units"]) == ("speakers", 6)
    assert row["ci95"] == row["ci95_speakers"]
    assert results["ceilings"]["codec"][MOS]["interval"]["over"] == "speakers"
    difference = results["differences"]["codec - recording"][WER]
    assert difference["interval"]["over"] == "speakers"
    assert difference["p_method"] == "exact permutation"
