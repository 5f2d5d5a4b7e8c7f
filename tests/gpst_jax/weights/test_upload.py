"""Uploads use the hub's client, in one commit, and only when online."""

import types

import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.weights import upload

pytest.importorskip("huggingface_hub")


class FakeApi:
    def __init__(self, error: Exception | None = None):
        self.calls, self.error = [], error

    def create_repo(self, **arguments):
        self.calls.append(("create_repo", arguments))

    def upload_folder(self, **arguments):
        if self.error:
            raise self.error
        self.calls.append(("upload_folder", arguments))
        return types.SimpleNamespace(commit_url="https://hub/owner/name/commit/1")


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize("public", [False, True])
def test_one_private_repository_one_commit(tmp_path, public):
    api = FakeApi()
    url = upload.upload(tmp_path, "owner/name", public=public, api=api)
    assert url == "https://hub/owner/name/commit/1"
    (first, made), (second, sent) = api.calls
    assert (first, second) == ("create_repo", "upload_folder")
    assert made == {"repo_id": "owner/name", "private": not public, "exist_ok": True}
    assert (sent["repo_id"], sent["folder_path"]) == ("owner/name", str(tmp_path))


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_uploads_nothing(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    api = FakeApi()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        upload.upload(tmp_path, "owner/name", api=api)
    assert not api.calls


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/", "https://hub/x"])
def test_invalid_repository_names(name):
    with pytest.raises(UserError, match="OWNER/NAME"):
        upload.check(name)


def test_a_refusal_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no route to the hub; does HF_TOKEN"):
        upload.upload(tmp_path, "owner/name", api=FakeApi(OSError("no route to the hub\ndetails")))
