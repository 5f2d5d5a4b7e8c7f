"""Manifests of lhotse: every item is an utterance or a failure, read as lhotse itself reads it."""

import dataclasses
import gzip
import json
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from fake_corpus import files_of

from data_pipeline import tokenize_corpus
from data_pipeline.audio.io import AudioError
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import LhotseSource, open_source, read_audio
from data_pipeline.sources.reading import split_source, stored_source, stored_utterance
from data_pipeline.sources.splits import assign_splits
from data_pipeline.tokenization import shard as shards

lhotse = pytest.importorskip("lhotse", reason="the extra lhotse is not installed")

RATE = 16_000


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (0.2 * random.standard_normal((round(seconds * RATE), channels))).clip(-1, 1)


def said(name: str, recording: str, start: float, seconds: float, **more):
    values = {"text": f"words of {name}", "speaker": "anna", "language": "English"} | more
    return lhotse.SupervisionSegment(name, recording, start, seconds, **values)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings a and b of one channel, c of two; eight supervisions, on both channels of c."""
    root = tmp_path_factory.mktemp("lhotse")
    (root / "audio").mkdir()
    for seed, (name, channels) in enumerate({"a": 1, "b": 1, "c": 2}.items()):
        soundfile.write(root / f"audio/{name}.flac", noise(4.0, channels, seed), RATE)
    recordings = [lhotse.Recording.from_file(root / f"audio/{name}.flac") for name in "abc"]
    spoken = [
        said("a1", "a", 0.0, 1.0, custom={"split": "dev"}),
        said("a2", "a", 1.2, 0.7500625, speaker="84"),
        said("a3", "a", 2.5, 1.5),
        said("b1", "b", 0.0, 4.0),
        said("c1", "c", 0.5, 1.0, channel=0, speaker="ben"),
        said("c2", "c", 0.5, 1.0, channel=1, speaker="cleo"),
        said("c3", "c", 1.75, 2.0, channel=1, speaker="cleo"),
        said("c4", "c", 1.5, 2.5, channel=[0, 1], speaker="cleo"),
    ]
    recordings = lhotse.RecordingSet.from_recordings(
        lhotse.utils.fastcopy(
            recording,
            sources=[
                lhotse.AudioSource("file", recording.channel_ids, f"audio/{recording.id}.flac")
            ],
        )
        for recording in recordings
    )
    supervisions = lhotse.SupervisionSet.from_segments(spoken)
    recordings.to_file(root / "recordings.jsonl.gz")
    supervisions.to_file(root / "supervisions.jsonl.gz")
    lhotse.CutSet.from_manifests(recordings, supervisions).to_file(root / "cuts.jsonl.gz")
    return root


def expected(corpus, name: str, start: float, end: float, channel: int | None = None):
    """The samples as soundfile reads them."""
    wav, _ = soundfile.read(corpus / f"audio/{name}.flac", dtype="float32", always_2d=True)
    wav = wav.mean(axis=1) if channel is None else wav[:, channel]
    return wav[round(start * RATE) : round(end * RATE)]


PIECES = {
    "a1": ("a", 0.0, 1.0, None),
    "a2": ("a", 1.2, 1.9500625, None),
    "a3": ("a", 2.5, 4.0, None),
    "b1": ("b", 0.0, 4.0, None),
    "c1": ("c", 0.5, 1.5, 0),
    "c2": ("c", 0.5, 1.5, 1),
    "c3": ("c", 1.75, 3.75, 1),
    "c4": ("c", 1.5, 4.0, None),
}


@pytest.mark.parametrize(
    "name", ["cuts.jsonl.gz", "recordings.jsonl.gz?supervisions={}/supervisions.jsonl.gz"]
)
def test_supervisions_are_read_as_soundfile_reads_them(corpus, name):
    source = open_source(f"lhotse:{corpus}/{name.format(corpus)}")
    utterances, failures = source.list()
    assert failures == []
    assert [utterance.id for utterance in utterances] == list(PIECES)
    for utterance in utterances:
        wav = read_audio(utterance, RATE)
        np.testing.assert_array_equal(wav, expected(corpus, *PIECES[utterance.id]))
        assert utterance.text == f"words of {utterance.id}"
        assert utterance.language == "English"
        stored = stored_source(utterance, corpus)
        assert split_source(stored)[1] == utterance.member
        np.testing.assert_array_equal(read_audio(stored_utterance(stored, corpus), RATE), wav)
    by_id = {utterance.id: utterance for utterance in utterances}
    assert by_id["b1"].member == ""  # a complete file
    assert (by_id["a1"].split, by_id["a3"].split, by_id["a2"].speaker) == ("valid", "", "84")


def test_cuts_hold_what_lhotse_loads(corpus):
    utterances, failures = LhotseSource(corpus / "cuts.jsonl.gz", per="cut").list()
    assert failures == []
    loaded = {
        cut.id: cut.with_recording_path_prefix(corpus).load_audio()
        for cut in lhotse.CutSet.from_file(corpus / "cuts.jsonl.gz")
    }
    assert len(utterances) == len(loaded) == 3
    for utterance in utterances:
        np.testing.assert_allclose(
            read_audio(utterance, RATE), loaded[utterance.id].mean(axis=0), atol=1e-7
        )
    first = utterances[0]
    assert first.text == "words of a1 words of a2 words of a3"
    assert first.speaker == "unknown"  # several
    assert utterances[1].speaker == "anna"


def test_a_cut_in_a_recording_has_its_own_seconds(corpus, tmp_path):
    cuts = lhotse.CutSet.from_file(corpus / "cuts.jsonl.gz").with_recording_path_prefix(corpus)
    cuts = lhotse.CutSet.from_cuts(cut for cut in cuts if isinstance(cut, lhotse.MonoCut))
    parts = lhotse.CutSet.from_cuts(
        [*cuts.trim_to_supervisions(), *(cut.truncate(offset=0.3, duration=3.1) for cut in cuts)]
    )
    parts.to_file(tmp_path / "parts.jsonl")
    utterances, failures = LhotseSource(tmp_path / "parts.jsonl", per="cut").list()
    found = {utterance.id: utterance for utterance in utterances}
    assert len(found) + len(failures) == len(list(parts))
    for cut in parts:
        np.testing.assert_array_equal(read_audio(found[cut.id], RATE), cut.load_audio()[0])


def test_channels_of_a_recording_stay_in_one_split(corpus):
    utterances, _ = LhotseSource(corpus / "cuts.jsonl.gz").list()
    for seed in range(5):
        split = assign_splits(utterances, 0.5, ["ben"], seed)
        # c1 (ben) overlaps c2, which says cleo's words of the same seconds.
        assert {item.split for item in split if item.id in ("c1", "c2")} == {"unseen"}


def reasons(failures) -> dict[str, str]:
    assert all(failure.stage == "list" for failure in failures)
    return {failure.id: failure.reason for failure in failures}


def edited(corpus, path, **changes):
    """A manifest of the first cut, once for each change."""
    with gzip.open(corpus / "cuts.jsonl.gz", "rt") as file:
        line = json.loads(next(file))
    line["recording"]["sources"][0]["source"] = str(corpus / "audio/a.flac")
    lines = [json.dumps(line)]
    for name, change in changes.items():
        item = json.loads(lines[0])
        item["id"] = name
        item["supervisions"] = item["supervisions"][:1]
        item["supervisions"][0]["id"] = name
        change(item)
        lines.append(json.dumps(item))
    path.write_text("\n".join([*lines, '{"id": "broken', "[]", '{"id": "x"}']) + "\n")
    return path


def test_what_cannot_be_used_is_a_failure_that_says_why(corpus, tmp_path):
    def source(**values):
        return lambda item: item["recording"]["sources"][0].update(values)

    def transform(name):
        return lambda item: item["recording"].update(
            transforms=[{"name": name, "kwargs": {"factor": 1.1}}]
        )

    manifest = edited(
        corpus,
        tmp_path / "cuts.jsonl",
        command=source(type="command", source="rm -rf /"),
        url=source(type="url", source="https://example.org/a.flac"),
        gone=source(source="gone.flac"),
        text=source(source=str(corpus / "cuts.jsonl.gz")),
        mixed=lambda item: item.update(type="MixedCut", tracks=[]),
        speed=transform("Speed"),
        features=lambda item: item.pop("recording"),
        late=lambda item: item["supervisions"][0].update(start=3.5),
        far=lambda item: item.update(start=3.5),
        other=lambda item: (item.update(channel=1), item["supervisions"][0].update(channel=1)),
        number=lambda item: item["supervisions"][0].update(start="soon"),
        later=lambda item: item["supervisions"].insert(
            0, {**item["supervisions"][0], "id": "bad", "start": "soon"}
        ),
        cut=lambda item: (item.update(start="soon"), item["supervisions"].clear()),
    )
    utterances, failures = LhotseSource(manifest).list()
    assert [utterance.id for utterance in utterances] == ["a1", "a2", "a3"]
    found = reasons(failures)
    for name, message in {
        "command": "is a command: run it",
        "url": "is a url: download it",
        "gone": "gone.flac does not exist",
        "text": "not one of .wav",
        "line 6 of cuts.jsonl": "a MixedCut (mixed)",
        "speed": "changed by Speed",
        "features": "no recording",
        "late": "trim_to_supervisions",
        "far": "which holds 4 s",
        "other": "channels 1 of recording a are in 0 files",
        "number": "a malformed supervision",
        "bad": "a malformed supervision",
        "later": "the same recording as 'a1'",
        "cut": "a malformed cut",
        "line 15 of cuts.jsonl": "not a JSON object",
        "line 16 of cuts.jsonl": "not a JSON object",
        "line 17 of cuts.jsonl": "not an item of lhotse's",
    }.items():
        assert message in found.pop(name), name
    assert found == {}


def test_resampling_by_lhotse_is_ours(corpus, tmp_path):
    cuts = lhotse.CutSet.from_file(corpus / "cuts.jsonl.gz").resample(8000)
    cuts.with_recording_path_prefix(corpus).to_file(tmp_path / "slow.jsonl.gz")
    utterances, failures = LhotseSource(tmp_path / "slow.jsonl.gz").list()
    assert failures == []
    for item in utterances:
        np.testing.assert_array_equal(read_audio(item, RATE), expected(corpus, *PIECES[item.id]))


def test_manifests_that_end_early_and_do_not_fit(corpus, tmp_path):
    data = (corpus / "cuts.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(data[:-12])
    source = LhotseSource(tmp_path / "cut.jsonl.gz", audio_dir=str(corpus))
    utterances, failures = source.list()
    assert len(utterances) == 8
    assert "truncated or damaged behind line 3" in failures[0].reason
    (tmp_path / "cuts.yaml").write_text("[]")
    for source, message in {
        LhotseSource(corpus / "cuts.jsonl.gz", per="word"): "per=word is not one of",
        LhotseSource(tmp_path / "none.jsonl"): "no manifest of lhotse",
        LhotseSource(tmp_path / "cuts.yaml"): "lhotse copy cuts.yaml",
        LhotseSource(tmp_path): "holds no cuts",
        LhotseSource(corpus / "supervisions.jsonl.gz"): "give the recordings",
    }.items():
        with pytest.raises(UserError, match=message):
            source.list()


def test_supervisions_and_recordings_that_miss_each_other(corpus, tmp_path):
    spoken = list(lhotse.SupervisionSet.from_file(corpus / "supervisions.jsonl.gz"))
    spoken = [item for item in spoken if item.recording_id != "b"] + [said("z1", "z", 0, 1)]
    lhotse.SupervisionSet.from_segments(spoken).to_file(tmp_path / "s.jsonl")
    source = LhotseSource(corpus / "recordings.jsonl.gz", supervisions=tmp_path / "s.jsonl")
    utterances, failures = source.list()
    assert reasons(failures) == {"z1": "its recording z is not listed"}
    silent = next(utterance for utterance in utterances if utterance.id == "b")
    assert (silent.text, silent.member) == (None, "")


@pytest.fixture(scope="module")
def shar(corpus, tmp_path_factory):
    """Six cuts in three shards, the fourth with two supervisions."""
    root = tmp_path_factory.mktemp("shar")
    cuts = lhotse.CutSet.from_file(corpus / "cuts.jsonl.gz").with_recording_path_prefix(corpus)
    cuts = [cut for cut in cuts if isinstance(cut, lhotse.MonoCut)]
    pieces = lhotse.CutSet.from_cuts(cuts).trim_to_supervisions()
    windows = [cuts[0].truncate(offset=1.0, duration=3.0), cuts[1].truncate(duration=1.5)]
    windows[1] = windows[1].drop_supervisions().with_id("quiet")
    cuts = lhotse.CutSet.from_cuts([*pieces, windows[0].with_id("window"), windows[1]])
    cuts.to_shar(root, fields={"recording": "flac"}, shard_size=2)
    return root


def test_shar_is_read_by_offset_as_lhotse_reads_it(shar):
    utterances, failures = LhotseSource(shar, per="cut").list()
    assert failures == []
    loaded = {cut.id: cut.load_audio()[0] for cut in lhotse.CutSet.from_shar(in_dir=shar)}
    assert {utterance.id for utterance in utterances} == loaded.keys()
    assert len(loaded) == 6
    for utterance in utterances:
        np.testing.assert_array_equal(read_audio(utterance, RATE), loaded[utterance.id])
        assert split_source(stored_source(utterance, shar))[1] == utterance.member


def test_supervisions_within_a_cut_of_shar(shar):
    # a2 and a3 are in cuts of their own too: which of them is read is the order of the files.
    utterances, failures = LhotseSource(shar).list()
    assert {item.id: item.reason.split(":")[0] for item in failures} == {
        "a2": "duplicate id 'a2'",
        "a3": "duplicate id 'a3'",
    }
    for item in utterances:
        if item.id in ("a2", "a3"):
            wav = expected_of(shar, item.id)
            np.testing.assert_allclose(read_audio(item, RATE), wav, atol=1e-4)
    quiet = next(utterance for utterance in utterances if utterance.id == "quiet")
    assert (quiet.text, len(read_audio(quiet, RATE))) == (None, 1.5 * RATE)


def expected_of(shar, name: str):
    cuts = {cut.id: cut for cut in lhotse.CutSet.from_shar(in_dir=shar)}
    return cuts[name].load_audio()[0]


def test_damaged_shards_lose_only_what_is_damaged(shar, tmp_path):
    for path in shar.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second, third = (tmp_path / f"recording.00000{number}.tar" for number in range(3))
    first.write_bytes(first.read_bytes()[:20_000])  # within the first recording
    with tarfile.open(second) as file:
        held = [(entry, file.extractfile(entry)) for entry in file]
        with tarfile.open(tmp_path / "new.tar", "w") as new:
            for entry, content in held[2:]:
                new.addfile(entry, content)
            held[0][0].name = "nobody.flac"
            held[0][1].seek(0)
            new.addfile(*held[0])
    (tmp_path / "new.tar").replace(second)
    third.unlink()
    utterances, failures = LhotseSource(tmp_path, per="cut").list()
    found = reasons(failures)
    assert {utterance.id for utterance in utterances} == {"a1", "b1"}
    with pytest.raises(AudioError, match=r"truncated within a1\.flac"):
        read_audio(utterances[0], RATE)
    for name in ("a2", "a3", "window", "quiet"):
        assert "no audio for it" in found[name]
    assert found["nobody"] == "no cut of the shard has this recording"
    assert "truncated" in found["recording.000000.tar"]
    second.rename(tmp_path / "recording.000009.tar")
    with pytest.raises(UserError, match=r"restore cuts\.000009"):
        LhotseSource(tmp_path).list()


def test_an_interrupted_run_goes_on_to_the_same_bytes(corpus, config, calls, monkeypatch):
    config = dataclasses.replace(
        config,
        audio_dir=None,
        source=f"lhotse:{corpus}/cuts.jsonl.gz",
        utterances_per_shard=2,
    )
    whole = dataclasses.replace(config, output=config.output + "-whole")
    result = tokenize_corpus.tokenize_corpus(whole)
    assert result["statistics"]["inputs"] == 8
    assert result["statistics"]["failed"] == 0
    seen = []

    def stop(*arguments):
        seen.append(arguments)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read_audio(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_audio", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus.tokenize_corpus(config)
    assert tokenize_corpus.tokenize_corpus(config)["resumed_shards"] > 0
    assert files_of(config.output) == files_of(whole.output)


def test_without_the_package_one_line_names_the_extra(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(UserError, match=r"pip install 'gpst_jax\[lhotse\]'"):
        LhotseSource(corpus / "cuts.jsonl.gz").list()
