"""The models of the published protocol, from a local directory or the Hugging Face hub.

`GPST_HUBERT_CTC` and `GPST_WAVLM_SV` name local directories; without them the models come from the
hub, or from its local cache alone when `HF_HUB_OFFLINE=1`. Weights are read from safetensors where
the repository has them, otherwise as tensors only; no code is loaded from the hub.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.contents import file_digest, file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256
from gpst_jax.evaluation.metrics.optional_packages import versions
from gpst_jax.evaluation.metrics.recipe import Measurement

HUBERT_CTC = "facebook/hubert-large-ls960-ft"
WAVLM_SV = "microsoft/wavlm-base-plus-sv"
HUBERT_CTC_VARIABLE = "GPST_HUBERT_CTC"
WAVLM_SV_VARIABLE = "GPST_WAVLM_SV"
MODULES = (("torch", "torch"), ("transformers", "transformers"))
# What the hub is asked for; never the copies of other frameworks.
_FILES = ("*.json", "*.txt", "*.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class HubMeasurement(Measurement):
    """A model of transformers: a local directory that is named, or a repository of the hub."""

    repository: str = ""

    def check(self) -> None:
        """Raises UserError when a package is missing, or the model where the hub is not asked."""
        super().check()
        if not self.weights() and _offline():
            _from_hub(self.repository, self.directory_variable, download=False)

    def key(self) -> str:
        """As for local directories; those of the hub count by their revision. May fetch it."""
        if self.weights():
            return super().key()
        snapshot = _from_hub(self.repository, self.directory_variable, download=True)
        return f"{super().key()}{snapshot.name}"

    def describe_weights(self) -> dict[str, Any]:
        """Where the model is from: a directory, or a repository with its revision."""
        if named := self.weights():
            return {"weights": f"directory {named}"}
        try:
            snapshot = _from_hub(self.repository, self.directory_variable, download=False)
        except UserError:
            return {"weights": None}
        return {"weights": f"hub {self.repository}, revision {snapshot.name}"}


@dataclass(frozen=True)
class FileMeasurement(Measurement):
    """A model whose weights are one file, found by `locate(download)`."""

    locate: Callable[[bool], Path] | None = None

    def check(self) -> None:
        """Raises UserError when a package is missing, or the file where the hub is not asked."""
        super().check()
        self.file(download=not _offline())

    def file(self, download: bool) -> Path:
        """The weights; raises UserError where they are not."""
        assert self.locate is not None
        return self.locate(download)

    def key(self) -> str:
        """Values of equal id, version, packages and weights are interchangeable."""
        path = str(self.file(download=True))
        return f"{self.id};v{self.version};{self._packages()};{file_digest(path, file_state(path))}"

    def _packages(self) -> str:
        installed = versions(dict(self.modules))
        return ",".join(f"{name}={version}" for name, version in sorted(installed.items()))

    def describe_weights(self) -> dict[str, Any]:
        """Where the weights are, and the SHA-256 of their file."""
        try:
            path = self.file(download=False)
        except UserError:
            return {"weights": None}
        return {"weights": f"file {path}", "weights_sha256": file_sha256(path)}


def local_file(variable: str, file: str, remedy: str, repository: str, download: bool) -> Path:
    """A file of weights: the one that is named, or else that of a repository of the hub.

    Args:
        variable: of the environment, which names the file or its directory.
        file: its name.
        remedy: where it is to be had, for the message.
        repository: of the hub; empty where none has it.
        download: whether the hub may be asked; without, its local cache is still searched.

    Raises:
        UserError: it is nowhere.
    """
    named = os.environ.get(variable, "")
    path = Path(named, file) if named and Path(named).is_dir() else Path(named)
    if named and path.is_file():
        return path
    if not named and repository:
        with contextlib.suppress(ImportError, OSError, ValueError):  # all failures of the hub
            import huggingface_hub

            return Path(
                huggingface_hub.hf_hub_download(repository, file, local_files_only=not download)
            )
    raise UserError(
        f"{named or file}: no such file; download {remedy} and name it, or its directory, with "
        f"{variable}"
    )


def _offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_hub(repository: str, variable: str, download: bool) -> Path:
    """The local snapshot of a repository; asks the hub unless `HF_HUB_OFFLINE=1`."""
    try:
        import huggingface_hub

        return Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=list(_FILES), local_files_only=not download
            )
        )
    except (ImportError, OSError, ValueError) as error:  # all failures of the hub
        raise _cannot_load(repository, variable, error) from error


def _cannot_load(source: str, variable: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"cannot load {source} ({reason}); download it first and set {variable} to its "
        "directory, or allow access to the hub"
    )


def _pretrained(name: str, variable: str, *loaders: Callable[[str], Any]) -> list[Any]:
    """Loads the parts of a model; raises UserError where it cannot be found."""
    import torch

    torch.set_num_threads(1)
    source = os.environ.get(variable, name)
    try:
        return [load(source) for load in loaders]
    except OSError as error:
        raise _cannot_load(source, variable, error) from error


def load_hubert_ctc() -> Callable[[np.ndarray], str]:
    """Greedy CTC recogniser: wav (N,) float32 at 16 kHz -> upper-case text."""
    import torch
    from transformers import HubertForCTC, Wav2Vec2Processor

    processor, model = _pretrained(
        HUBERT_CTC,
        HUBERT_CTC_VARIABLE,
        Wav2Vec2Processor.from_pretrained,
        HubertForCTC.from_pretrained,
    )
    model.eval()

    def transcribe(wav: np.ndarray) -> str:
        # One utterance at a time: no padding, so the result does not depend on a batch.
        inputs = processor(wav, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            ids = model(inputs.input_values).logits.argmax(-1)
        return processor.batch_decode(ids, skip_special_tokens=True)[0]

    return transcribe


def load_wavlm_xvector() -> Callable[[np.ndarray], list[float]]:
    """Speaker verification encoder: wav (N,) float32 at 16 kHz -> unit-norm x-vector."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

    extractor, model = _pretrained(
        WAVLM_SV,
        WAVLM_SV_VARIABLE,
        Wav2Vec2FeatureExtractor.from_pretrained,
        WavLMForXVector.from_pretrained,
    )
    model.eval()

    def embed(wav: np.ndarray) -> list[float]:
        inputs = extractor(wav, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            vector = model(inputs.input_values).embeddings[0]
        return torch.nn.functional.normalize(vector, dim=0).tolist()

    return embed
