"""Other bytes are another corpus, whatever their size and time; a touched file is the same one."""

import dataclasses
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_corpus import RATE, FakeSemantic, failures_of, files_of, signal

from data_pipeline import tokenize_corpus
from data_pipeline.audio.io import load_audio
from data_pipeline.runtime import contents
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization import inputs, shard
from data_pipeline.tokenization.provide_tokenizers import FITTED_CONTENTS

CHANGED = "the recordings changed: 1 of .* hold something else, the first is .*{}"


def rewrite(path: Path, change) -> None:
    """Changes a file's bytes, but neither its size nor its modification time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def reverse(data: bytearray) -> None:
    data[44:] = data[44:][::-1]


def recording(config, name: str = "anna/anna03") -> Path:
    return Path(config.audio_dir, f"{name}.wav")


@pytest.mark.parametrize("change", [flip, reverse])
def test_other_bytes_of_equal_size_and_time_are_another_corpus(config, change) -> None:
    tokenize_corpus.tokenize_corpus(config)
    before = files_of(config.output)
    rewrite(recording(config), change)
    for _ in range(2):
        with pytest.raises(UserError, match=CHANGED.format("anna03.wav")):
            tokenize_corpus.tokenize_corpus(config)
    assert files_of(config.output) == before


def test_a_recording_that_could_not_be_read_is_part_of_the_corpus(config) -> None:
    path, good = recording(config), recording(config).read_bytes()
    path.write_bytes(b"\0" * len(good))
    tokenize_corpus.tokenize_corpus(config)
    assert len(failures_of(config)) == 1
    path.write_bytes(good)
    with pytest.raises(UserError, match=CHANGED.format("anna03.wav")):
        tokenize_corpus.tokenize_corpus(config)


def test_touched_and_copied_files_are_the_same_corpus(config, calls, monkeypatch) -> None:
    tokenize_corpus.tokenize_corpus(config)
    shards = {name: data for name, data in files_of(config.output).items() if "npz" not in name}
    copied = Path(config.audio_dir).with_name("copied")
    shutil.copytree(config.audio_dir, copied)
    moved = dataclasses.replace(config, audio_dir=str(copied))
    os.utime(copied / "bert" / "bert00.wav", (1, 1))
    calls.clear()
    tokenize_corpus.tokenize_corpus(moved)
    assert not calls
    after = files_of(config.output)
    assert {name: data for name, data in after.items() if "npz" not in name} == shards
    assert inputs.audio_root(config.output) == copied

    def read(path, state):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("data_pipeline.sources.reading.file_digest", read)
    tokenize_corpus.tokenize_corpus(moved)  # its new times are known by now


def interrupt(config, monkeypatch, after: int) -> None:
    """Stops a run after `after` recordings."""
    encode, count = FakeSemantic.encode, iter(range(after))

    def interrupted(self, wav, sample_rate):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return encode(self, wav, sample_rate)

    with monkeypatch.context() as patch:
        patch.setattr(FakeSemantic, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus.tokenize_corpus(config)


def test_an_unfinished_run_never_mixes_two_corpora(config, calls, monkeypatch) -> None:
    config = dataclasses.replace(config, valid_fraction=0.0)
    interrupt(config, monkeypatch, after=7)  # one shard of five is finished
    rewrite(recording(config, "anna/anna02"), reverse)
    with pytest.raises(UserError, match=CHANGED.format("anna02.wav")):
        tokenize_corpus.tokenize_corpus(config)
    rewrite(recording(config, "anna/anna02"), reverse)  # as it was
    rewrite(recording(config, "bert/bert05"), reverse)  # of no shard yet
    assert tokenize_corpus.tokenize_corpus(config)["resumed_shards"] == 1
    whole = dataclasses.replace(config, output=config.output + "-whole")
    tokenize_corpus.tokenize_corpus(whole)
    assert files_of(config.output) == files_of(whole.output)


def test_recordings_that_tokenizers_were_fitted_on_are_compared_too(config, monkeypatch) -> None:
    interrupt(config, monkeypatch, after=1)
    for name, message in (("anna/anna01", CHANGED.format("anna01")), ("bert/bert09", "written ag")):
        path = recording(config, name)
        fitted = contents.Content(*contents.file_state(path), "0" * 32)
        if "written" in message:  # between the fit and the shard, with nothing to compare at first
            monkeypatch.setattr(inputs, "check_unfinished", lambda output, tasks: {})
        else:
            os.utime(path, (2, 2))
        text = {name: str(fitted)}
        Path(config.output, FITTED_CONTENTS).write_text(json.dumps(text), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            tokenize_corpus.tokenize_corpus(config)


def test_a_recording_that_is_written_while_it_is_read_fails(config, monkeypatch) -> None:
    def read(utterance, sample_rate, min_seconds):
        wav = load_audio(utterance.path, sample_rate, min_seconds)
        if utterance.id == "anna/anna03":
            os.utime(utterance.path)
        return wav

    monkeypatch.setattr(shard, "read_audio", read)
    tokenize_corpus.tokenize_corpus(config)
    (failure,) = failures_of(config)
    assert failure["reason"].startswith("changed while it was read")


def older(config) -> None:
    """Makes the run in the output one of version 1."""
    path = Path(config.output, "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    Path(config.output, inputs.INPUTS_FILE).unlink(missing_ok=True)


def test_a_dataset_of_the_older_version_is_kept_with_a_word(config, calls, capsys) -> None:
    tokenize_corpus.tokenize_corpus(config)
    older(config)
    before = files_of(config.output)
    calls.clear()
    tokenize_corpus.tokenize_corpus(config)
    assert not calls
    assert "only their names and sizes are compared" in capsys.readouterr().err
    assert files_of(config.output) == before
    with pytest.raises(UserError, match="seed was 0, is 1"):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, seed=1))


def test_an_unfinished_run_of_the_older_version_is_refused(config, monkeypatch) -> None:
    interrupt(config, monkeypatch, after=7)
    older(config)
    with pytest.raises(UserError, match="unfinished run of an older version"):
        tokenize_corpus.tokenize_corpus(config)


def test_a_member_of_a_container_and_a_segment_are_compared_alone(config, tmp_path) -> None:
    """A tar of two recordings, of which one changes; and two segments of one file."""
    sounds = [io.BytesIO(), io.BytesIO()]
    for number, sound in enumerate(sounds):
        soundfile.write(sound, signal(1.0, number), RATE, format="WAV")
    path = tmp_path / "tar" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as file:
        for number, sound in enumerate(sounds):
            entry = tarfile.TarInfo(f"{number}.wav")
            entry.size = len(sound.getvalue())
            file.addfile(entry, io.BytesIO(sound.getvalue()))
    tar = dataclasses.replace(config, audio_dir=None, source=f"webdataset:{path}")
    tokenize_corpus.tokenize_corpus(tar)
    os.utime(path)
    tokenize_corpus.tokenize_corpus(tar)
    rewrite(path, lambda data: data.__setitem__(data.index(b"data") + 5000, 99))
    with pytest.raises(UserError, match=CHANGED.format(r"a\.tar").replace("1 of .*", "1 of 2")):
        tokenize_corpus.tokenize_corpus(tar)

    soundfile.write(tmp_path / "tar" / "talk.wav", signal(2.0, 3), RATE)
    rows = ["path,id,start,end", "talk.wav,a,0,1", "talk.wav,b,1,2"]
    (tmp_path / "tar" / "rows.csv").write_text("\n".join(rows) + "\n")
    cut = dataclasses.replace(
        config,
        audio_dir=None,
        source=f"manifest:{tmp_path / 'tar' / 'rows.csv'}",
        output=config.output + "-cut",
    )
    tokenize_corpus.tokenize_corpus(cut)
    rewrite(tmp_path / "tar" / "talk.wav", flip)
    with pytest.raises(UserError, match=r"2 of 2 hold something else, the first is .*talk\.wav"):
        tokenize_corpus.tokenize_corpus(cut)


def test_what_a_corpus_held_is_stored_and_read_back(tmp_path) -> None:
    random = np.random.default_rng(0)
    held = [contents.Content(n, n + 1, n + 2, random.bytes(16).hex()) for n in range(5)]
    held.append(contents.Content(-1, 0, 0, ""))
    contents.save(tmp_path / "inputs.npz", held, "/a/b c")
    assert contents.load(tmp_path / "inputs.npz") == held
    assert contents.load_root(tmp_path / "inputs.npz") == "/a/b c"
    assert [contents.Content.parse(str(content)) for content in held] == held
    contents.save(tmp_path / "none.npz", [], "")
    assert contents.load(tmp_path / "none.npz") == []
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        contents.load(tmp_path / "bad.npz")
