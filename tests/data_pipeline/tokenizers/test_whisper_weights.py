"""Where Whisper's weights are found: directory, environment, package, hub; made-up weights."""

import hashlib
import json
import struct
import sys

import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import pretrained, whisper_weights
from data_pipeline.tokenizers.whisper_weights import CTRANSLATE2, TRANSFORMERS, find

SPEC = b"WhisperSpec\0"
WEIGHTS = struct.pack("<IH", 6, len(SPEC)) + SPEC + bytes(range(200))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No weights but those of the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GPST_WHISPER", raising=False)
    monkeypatch.setattr(whisper_weights, "PACKAGES", {})
    whisper_weights._from_package.cache_clear()
    yield
    whisper_weights._from_package.cache_clear()


def write(directory, weights: bytes = WEIGHTS, name: str = "model.bin"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / name).write_bytes(weights)
    return directory


def test_a_directory_is_taken_as_it_is_and_its_format_known_by_its_files(tmp_path):
    model = write(tmp_path / "mine")
    assert find(str(model)) == model
    assert whisper_weights.formats(model) == (CTRANSLATE2,)
    with pytest.raises(UserError, match=r"format of ctranslate2.*safetensors"):
        find(str(model), format=TRANSFORMERS)
    write(model, b"", "model.safetensors")
    assert find(str(model), format=TRANSFORMERS) == model
    pickled = write(tmp_path / "pickled", b"\x80\x02}q\0.")
    assert whisper_weights.formats(pickled) == ()
    with pytest.raises(UserError, match="no Whisper model"):
        find(str(pickled))
    for content in (b"", WEIGHTS[:9], WEIGHTS.replace(b"Whisper", b"Sneaker")):
        assert whisper_weights.formats(write(tmp_path / "other", content)) == ()


def test_the_variable_names_a_folder_of_models_or_a_model_and_nothing_else_is_tried(
    tmp_path, monkeypatch
):
    folder = tmp_path / "models"
    base, tiny = write(folder / "whisper-base"), write(folder / "tiny.en")
    monkeypatch.setenv("GPST_WHISPER", str(folder))
    assert (find("base"), find("tiny.en")) == (base, tiny)
    monkeypatch.setenv("GPST_WHISPER", str(base))
    assert find("base") == base
    with pytest.raises(UserError) as caught:
        find("tiny.en")
    assert "GPST_WHISPER" in str(caught.value)
    assert "whisper-tiny.en" in str(caught.value)


def _install(tmp_path, monkeypatch, name: str, folder: str, files: dict[str, bytes]) -> None:
    """A package that would fail when imported."""
    package = tmp_path / "site" / name
    (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    for file, content in files.items():
        (package / folder / file).write_bytes(content)
    if str(tmp_path / "site") not in sys.path:
        monkeypatch.syspath_prepend(str(tmp_path / "site"))


def test_parts_of_installed_packages_are_joined_once_in_the_cache(tmp_path, monkeypatch):
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    package = whisper_weights._Package((("half_a", "data", "a"), ("half_b", "data", "b")), digest)
    monkeypatch.setattr(whisper_weights, "PACKAGES", {"base": package})
    first = {"a": WEIGHTS[:100], "config.json": b"{}", "vocabulary.txt": b"x"}
    _install(tmp_path, monkeypatch, "half_a", "data", first)
    with pytest.raises(UserError, match="GPST_WHISPER"):
        find("base")  # a half is no model
    whisper_weights._from_package.cache_clear()
    _install(tmp_path, monkeypatch, "half_b", "data", {"b": WEIGHTS[100:]})
    found = find("base")
    assert found.is_relative_to(tmp_path / "cache")
    assert (found / "model.bin").read_bytes() == WEIGHTS
    assert sorted(path.name for path in found.iterdir()) == [
        "config.json", "model.bin", "vocabulary.txt",
    ]  # fmt: skip
    assert [path.name for path in found.parent.iterdir()] == [found.name], "nothing is left over"
    assert whisper_weights.formats(found) == (CTRANSLATE2,)

    (found / "model.bin").write_bytes(WEIGHTS[:-1] + b"!")
    assert find("base") == found  # checked once in a process
    whisper_weights._from_package.cache_clear()
    with pytest.raises(UserError, match="sha256"):
        find("base")


def test_a_package_with_other_weights_is_refused(tmp_path, monkeypatch):
    package = whisper_weights._Package((("one", "model", "model.bin"),), "0" * 64)
    monkeypatch.setattr(whisper_weights, "PACKAGES", {"tiny.en": package})
    _install(tmp_path, monkeypatch, "one", "model", {"model.bin": WEIGHTS})
    with pytest.raises(UserError, match="sha256"):
        find("tiny.en")
    halves = whisper_weights._Package((("one", "model", "model.bin"),) * 2, "0" * 64)
    monkeypatch.setattr(whisper_weights, "PACKAGES", {"base": halves})
    with pytest.raises(UserError, match="do not make the published weights"):
        find("base")
    assert not any((tmp_path / "cache/gpst_jax/whisper").iterdir())


def test_the_hub_is_asked_last_and_says_one_line_when_it_cannot(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(repository, **settings):
        asked.append((repository, settings["local_files_only"]))
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    for name, settings in (
        ("small", {}),
        ("small", {"format": TRANSFORMERS}),
        ("someone/whisper-x", {"download": False}),
    ):
        with pytest.raises(UserError) as caught:
            find(name, **settings)
        assert "GPST_WHISPER" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert asked == [
        ("Systran/faster-whisper-small", False),
        ("openai/whisper-small", False),
        ("someone/whisper-x", True),
    ]
    for name in ("colossal", "./none", "a/b/c"):
        with pytest.raises(UserError):
            find(name)
    assert len(asked) == 3


def test_the_digest_of_a_model_covers_its_weights_and_settings(tmp_path):
    digests = {
        pretrained.model_sha256(write(tmp_path / "a")),
        pretrained.model_sha256(write(tmp_path / "b", WEIGHTS + b"!")),
        pretrained.model_sha256(write(tmp_path / "c", b"\x80pickle")),
    }
    assert len(digests) == 3
    (tmp_path / "a/tokenizer.json").write_text(json.dumps({}))
    pretrained.model_sha256.cache_clear()
    assert pretrained.model_sha256(tmp_path / "a") in digests
