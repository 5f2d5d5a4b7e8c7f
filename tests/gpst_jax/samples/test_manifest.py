"""Manifests: what is written is read back, and bad lines are named."""

import dataclasses
import json
from pathlib import Path

import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.samples import manifest
from gpst_jax.samples.manifest import Sample


def _manifest(tmp_path, *lines):
    path = tmp_path / "codec" / "manifest.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


PROMPTED = Sample(
    id="a",
    audio=Path("a.wav"),
    speaker="s",
    text="one",
    text_kind="digits",
    source_audio=Path("../recording/a.wav"),
    prompt_speaker="p",
    prompt_audio=Path("a-prompt.wav"),
    prompt_reference_audio=Path("a-reference.wav"),
    prompt_reference_codec_audio=Path("a-reference-codec.wav"),
)
PAIRED = Sample(id="u", audio=Path("u.wav"), speaker="", pair="0000")
DIALOGUE = Sample(
    id="d", audio=Path("d.wav"), speaker="p", question_audio=Path("d-question.wav"), answer_text=""
)


def test_bytes_of_a_manifest_stay_as_they_were(tmp_path):
    manifest.write_manifest(tmp_path / "some", [PROMPTED, PAIRED, DIALOGUE])
    assert (tmp_path / "some" / "manifest.jsonl").read_text().splitlines() == [
        '{"id": "a", "text": "one", "speaker": "s", "source_audio": "../recording/a.wav", '
        '"prompt_speaker": "p", "prompt_audio": "a-prompt.wav", '
        '"prompt_reference_audio": "a-reference.wav", '
        '"prompt_reference_codec_audio": "a-reference-codec.wav", "pair": null, '
        '"text_kind": "digits", "audio": "a.wav"}',
        '{"id": "u", "text": null, "speaker": null, "source_audio": null, '
        '"prompt_speaker": null, "prompt_audio": null, "prompt_reference_audio": null, '
        '"prompt_reference_codec_audio": null, "pair": "0000", "text_kind": "free", '
        '"audio": "u.wav"}',
        '{"id": "d", "text": null, "speaker": "p", "source_audio": null, "prompt_speaker": null, '
        '"prompt_audio": null, "prompt_reference_audio": null, '
        '"prompt_reference_codec_audio": null, "pair": null, "text_kind": "free", '
        '"audio": "d.wav", "question": null, "question_audio": "d-question.wav", '
        '"question_transcript": null, "answer_text": ""}',
    ]


def test_what_is_written_is_read_with_absolute_paths(tmp_path):
    manifest.write_manifest(tmp_path / "some", [PROMPTED, PAIRED, DIALOGUE])
    prompted, paired, dialogue = manifest.read_samples(tmp_path)["some"]
    for written, read in ((PROMPTED, prompted), (PAIRED, paired), (DIALOGUE, dialogue)):
        for field in dataclasses.fields(Sample):
            value = getattr(written, field.name)
            if isinstance(value, Path):
                value = tmp_path / "some" / value
            if (written, field.name) == (PAIRED, "speaker"):
                value = "unknown"
            assert getattr(read, field.name) == value


def test_paths_are_relative_to_the_manifest(tmp_path):
    row = {"id": "a", "audio": "a.wav", "source_audio": "../o.wav", "speaker": "s", "text": None}
    _manifest(tmp_path, json.dumps(row))
    (sample,) = manifest.read_samples(tmp_path)["codec"]
    assert sample.audio == tmp_path / "codec" / "a.wav"
    assert sample.source_audio.resolve() == (tmp_path / "o.wav").resolve()
    assert sample.prompt_audio is None
    assert sample.text_kind == "free"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a JSON object"),
        ('{"id": "b"}', "'audio'"),
        ('{"id": 3, "audio": "b.wav"}', "'id'"),
        ('{"id": "a", "audio": "b.wav"}', "occurs twice"),
        ('{"id": "b", "audio": "b.wav", "text_kind": "song"}', "'text_kind'"),
        ('{"id": "b", "audio": "b.wav", "prompt_audio": 1}', "'prompt_audio'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = _manifest(tmp_path, '{"id": "a", "audio": "a.wav"}', line)
    with pytest.raises(UserError, match=message) as error:
        manifest.read_manifest(path)
    assert str(path) in str(error.value)


def test_missing_directories_and_empty_manifests_are_named(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        manifest.read_samples(tmp_path / "none")
    with pytest.raises(UserError, match="run generate first"):
        manifest.read_samples(tmp_path)
    with pytest.raises(UserError, match="holds no samples"):
        manifest.read_manifest(_manifest(tmp_path, ""))


def _sample(tmp_path, id_, pair=None):
    return Sample(id=id_, audio=tmp_path / id_, speaker="s", pair=pair)


def test_chosen_items_agree_between_conditions(tmp_path):
    everything = [_sample(tmp_path, str(i)) for i in range(50)]
    fewer = everything[::2][::-1]
    chosen = {s.id for s in manifest.first_of_seeded_order(everything, 20, 0)}
    among_fewer = [s.id for s in manifest.first_of_seeded_order(fewer, 10, 0)]
    # Whatever both conditions hold and the larger choice kept comes first in the smaller one.
    common = [id_ for id_ in among_fewer if id_ in chosen]
    assert common == among_fewer[: len(common)]
    assert {s.id for s in manifest.first_of_seeded_order(everything, 20, 1)} != chosen


def test_a_pair_has_two_renderings(tmp_path):
    two = [_sample(tmp_path, "a", "p"), _sample(tmp_path, "b", "p"), _sample(tmp_path, "c")]
    assert [(a.id, b.id) for a, b in manifest.pairs(two)] == [("a", "b")]
    with pytest.raises(UserError, match="'q' has 1"):
        manifest.pairs([*two, _sample(tmp_path, "d", "q")])
