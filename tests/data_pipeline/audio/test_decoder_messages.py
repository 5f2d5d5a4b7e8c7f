"""What mpg123 prints does not reach the user; what others print does."""

import contextlib
import os
import threading

import numpy as np
import pytest
import soundfile

from data_pipeline.audio.decoder_messages import decoder_messages_hidden
from data_pipeline.audio.io import AudioError, load_audio


@pytest.fixture
def mp3(tmp_path):
    """Two seconds of a tone."""
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no mp3")
    wav = 0.3 * np.sin(np.arange(32000) / 20)
    soundfile.write(tmp_path / "tone.mp3", wav, 16000)
    return tmp_path / "tone.mp3"


def test_damaged_and_joined_mp3_are_read_without_a_word(mp3, capfd):
    data = mp3.read_bytes()
    noise = np.random.default_rng(0).bytes(700)
    variants = {
        "joined": 3 * data,
        "junk_inside": data[:2000] + noise + data[2000:],
        "junk_behind": data + b"\0\xff" * 500,
        "cut": data[: len(data) // 2],
    }
    for name, content in variants.items():
        path = mp3.with_stem(name)
        path.write_bytes(content)
        expected = pytest.raises(AudioError) if name == "cut" else contextlib.nullcontext()
        with expected:
            load_audio(path, 16000)
    assert capfd.readouterr().err == ""


def test_lines_of_others_are_kept_and_nesting_and_threads_end_well(capfd):
    def say(number):
        with decoder_messages_hidden(), decoder_messages_hidden():
            os.write(2, b"Warning: Xing stream size off by more than 1%, fuzzy seeking\n")
            os.write(2, b"line of thread %d\n" % number)

    threads = [threading.Thread(target=say, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines[:-1]) == [f"line of thread {number}" for number in range(8)]
    assert lines[-1] == "after"


def test_a_message_is_kept_when_decoding_fails(capfd):
    @decoder_messages_hidden()
    def fail():
        os.write(2, b"error: ours\nNote: Trying to resync...\n")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert capfd.readouterr().err == "error: ours\n"
