"""Fits k-means to the hidden states of a speech encoder; resumable."""

import dataclasses
import hashlib
import importlib.util
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from data_pipeline.audio.io import AudioError
from data_pipeline.runtime.contents import Content
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256
from data_pipeline.runtime.progress import progress
from data_pipeline.sources import Utterance, read_audio
from data_pipeline.sources.reading import content_of, require_same_contents
from data_pipeline.tokenizers import batching, torch_runtime
from data_pipeline.tokenizers.base import num_frames
from data_pipeline.tokenizers.pretrained import ModelSpec, model_sha256
from data_pipeline.tokenizers.semantic import encoders, kmeans
from data_pipeline.tokenizers.semantic.centroids import MAX_CLUSTERS, write_centroids
from data_pipeline.tokenizers.semantic.streaming_kmeans import StreamingKMeans

_FRAMES_PER_CLUSTER = 4  # with fewer, clusters are single frames
_GROUP = 32  # recordings that are encoded between updates of the clusters
_LONGEST_SECONDS = 30.0  # longer recordings are cut: the cost of attention is quadratic
_SECONDS_BETWEEN_SAVES = 60.0


@dataclasses.dataclass(frozen=True)
class KMeansConfig:
    """Model, data and number of clusters.

    Attributes:
        model: specification of the model and layer, without kmeans (see `tokenizers.pretrained`).
        clusters: K.
        output: .npz or .safetensors file.
        passes: epochs over the recordings.
        max_hours: of audio per epoch.
        batch_frames: hidden states per update of the clusters.
        min_seconds: shorter recordings are skipped.
        seed: of the order of recordings and of k-means.
    """

    model: str
    clusters: int
    output: str
    passes: int = 1
    max_hours: float = 100.0
    batch_frames: int = 10_000
    min_seconds: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for settings that no recordings could make valid."""
        if not 2 <= self.clusters <= MAX_CLUSTERS:
            raise UserError(f"clusters {self.clusters} is not from 2 to {MAX_CLUSTERS}")
        if self.passes < 1 or self.batch_frames < 1 or self.max_hours <= 0:
            raise UserError("passes, batch_frames and max_hours must be positive")
        if Path(self.output).suffix not in (".npz", ".safetensors"):
            raise UserError(f"output {self.output}: its suffix must be .npz or .safetensors")


def fit_kmeans(config: KMeansConfig, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Fits the clusters, resuming an unfinished fit, and writes them to the output.

    Args:
        config: model, data and number of clusters.
        utterances: of any split; only `train` (or no split) is used.

    Returns:
        `output`, its `sha256`, `clusters`, `frames` (hidden states of all epochs), `audio_seconds`
        and `unreadable` (recordings skipped) per epoch, `error` (mean squared distance in the last
        batch), `resumed`, `seconds` (wall time of this run).

    Raises:
        UserError: the model cannot be loaded, there is too little audio, or the output cannot be
            written.
    """
    started = time.monotonic()
    spec = ModelSpec.parse(config.model, encoders.KINDS)
    if spec is None:
        kinds = ", ".join(encoders.KINDS)
        raise UserError(f"model {config.model!r}: write KIND:MODEL?layer=N, KIND one of {kinds}")
    family = encoders.FAMILIES[spec.kind]
    spec.checked_options(family.options)
    directory = family.locate(spec)
    described = family.describe(spec, directory)
    order = _order([u for u in utterances if u.split in ("train", "")], config.seed)
    if not order:
        raise UserError("no training recordings to fit clusters on")
    run = _Run(config, described, family.load(described, directory))
    identity = _identity(config, model_sha256(directory), described, order)
    with threadpool_limits(1):  # results depend on the order of summation
        resumed = run.load(identity, order)
        run.work(order, identity)
        frames = run.clusters.points
        if frames < _FRAMES_PER_CLUSTER * config.clusters:
            raise UserError(
                f"{run.seconds:.0f} s of training audio ({frames} frames) are too little for "
                f"{config.clusters} clusters: add recordings, or use at most "
                f"{max(2, frames // _FRAMES_PER_CLUSTER)}"
            )
        centroids = run.clusters.finish()
    write_centroids(config.output, centroids)
    run.state_file.unlink(missing_ok=True)
    return {
        "output": config.output,
        "sha256": file_sha256(config.output),
        "clusters": config.clusters,
        "frames": frames,
        "audio_seconds": round(run.seconds / config.passes, 1),
        "unreadable": run.unreadable // config.passes,
        "error": run.clusters.error,
        "resumed": resumed,
        "seconds": round(time.monotonic() - started, 2),
    }


class _Run:
    """A fit in progress, and its checkpoint file."""

    def __init__(
        self,
        config: KMeansConfig,
        described: encoders.EncoderConfig,
        encoder: Callable[[list[np.ndarray]], list[Any]],
    ):
        self.config = config
        self.clusters = StreamingKMeans(config.clusters, config.seed, config.batch_frames, _nearest)
        self.seconds = 0.0
        self.unreadable = 0
        self.state_file = Path(f"{config.output}.unfinished.npz")
        self._described = described
        self._encoder = encoder
        self._next = 0  # next recording, counted over all epochs
        self._contents: list[Content] = []  # of the recordings read so far, in their order
        self._epoch_seconds = 0.0  # of audio

    def work(self, order: Sequence[Utterance], identity: str) -> None:
        """Processes the remaining recordings of all epochs."""
        total = self.config.passes * len(order)
        saved = time.monotonic()
        with progress("fit clusters, recordings", total) as advance:
            advance(self._next)
            while self._next < total:
                position = self._next % len(order)
                if position == 0:
                    self._epoch_seconds = 0.0
                if self._epoch_seconds >= 3600 * self.config.max_hours:
                    stop = self._next + len(order) - position
                else:
                    group = order[position : position + _GROUP]
                    self._compare(group, position)
                    self._process(group)
                    stop = self._next + len(group)
                advance(stop - self._next)
                self._next = stop
                if time.monotonic() - saved >= _SECONDS_BETWEEN_SAVES:
                    self._save(identity)
                    saved = time.monotonic()

    def _compare(self, group: Sequence[Utterance], position: int) -> None:
        """Notes what recordings hold before they are read, and that it stays in later epochs."""
        known = self._contents[position : position + len(group)]
        if known:
            self._require_same(group[: len(known)], known)
        self._contents += map(content_of, group[len(known) :])

    def _require_same(self, utterances: Sequence[Utterance], stored: Sequence[Content]) -> None:
        remedy = f"Delete {self.state_file}, or choose another output"
        require_same_contents(utterances, stored, f"unfinished fit of {self.config.output}", remedy)

    def _process(self, utterances: Sequence[Utterance]) -> None:
        config = self._described
        longest = round(_LONGEST_SECONDS * config.sample_rate)
        wavs: list[np.ndarray] = []
        for utterance in utterances:
            try:
                wav = read_audio(utterance, config.sample_rate, self.config.min_seconds)
            except AudioError:
                self.unreadable += 1  # `tokenize_corpus` lists it with the reason
                continue
            self._epoch_seconds += len(wav) / config.sample_rate
            self.seconds += len(wav) / config.sample_rate
            wavs.extend(wav[start : start + longest] for start in range(0, len(wav), longest))
        lengths = [num_frames(len(wav), config.hop) for wav in wavs]
        max_size = int(batching.MAX_BATCH_SECONDS * config.sample_rate / config.hop)
        states: dict[int, np.ndarray] = {}
        for batch in batching.plan_batches(lengths, config.equal_lengths, max_size):
            encoded = self._encoder([wavs[index] for index in batch])
            states.update(
                (index, state if isinstance(state, np.ndarray) else state.cpu().numpy())
                for index, state in zip(batch, encoded, strict=True)
            )
        for index in range(len(wavs)):
            self.clusters.add(states[index])

    def _save(self, identity: str) -> None:
        temporary = self.state_file.with_suffix(".part.npz")
        arrays: dict[str, Any] = {f"clusters_{k}": v for k, v in self.clusters.state().items()}
        position = np.array(
            [self.seconds, self.unreadable, self._next, self._epoch_seconds], np.float64
        )
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                arrays["contents"] = np.array([str(content) for content in self._contents], np.str_)
                np.savez(file, identity=np.array(identity), position=position, **arrays)
            temporary.replace(self.state_file)
        except OSError as error:
            raise UserError(f"cannot write {self.state_file}: {error.strerror}") from error

    def load(self, identity: str, order: Sequence[Utterance]) -> bool:
        """Restores the state of an unfinished fit, if there is one; returns whether there was.

        Args:
            identity: of the fit.
            order: its recordings, in the order in which they are read.

        Raises:
            UserError: the state belongs to another fit, or recordings that it has seen have
                changed.
        """
        if not self.state_file.exists():
            return False
        try:
            with np.load(self.state_file, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            return False  # corrupt: start again
        if str(state["identity"]) != identity:
            raise UserError(
                f"{self.state_file} belongs to a fit with other settings or recordings: delete it, "
                "or choose another output"
            )
        if "contents" not in state:
            raise UserError(
                f"{self.state_file} is of an older version of this program, which did not store "
                "what its recordings held: delete it, or choose another output"
            )
        self._contents = [Content.parse(text) for text in state["contents"].tolist()]
        self._require_same(order[: len(self._contents)], self._contents)
        self.seconds, unreadable, following, self._epoch_seconds = state["position"].tolist()
        self.unreadable, self._next = int(unreadable), int(following)
        prefix = "clusters_"
        self.clusters.restore(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        return True


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """As `kmeans.nearest`, on the GPU if there is one (and torch, which not all encoders need)."""
    if importlib.util.find_spec("torch") is None or torch_runtime.device() == "cpu":
        return kmeans.nearest(points, centroids)
    torch = torch_runtime.import_torch()
    with torch_runtime.exact():
        table = torch.from_numpy(centroids).to(torch_runtime.device())
        half_norms = 0.5 * (table * table).sum(dim=1)
        return np.concatenate(
            [
                (half_norms - part.to(table.device) @ table.T).argmin(dim=1).cpu().numpy()
                for part in torch.from_numpy(points).split(4096)
            ]
        )


def _order(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Shuffles, depending on ids and seed only."""

    def rank(utterance: Utterance) -> bytes:
        return hashlib.blake2b(f"{seed}\0{utterance.id}".encode(), digest_size=8).digest()

    return sorted(utterances, key=rank)


def _identity(
    config: KMeansConfig,
    model: str,
    described: encoders.EncoderConfig,
    order: Sequence[Utterance],
) -> str:
    """Digest of everything that determines the clusters."""
    settings = dataclasses.asdict(config) | dataclasses.asdict(described) | {"model": model}
    del settings["output"]
    names = "\n".join(f"{utterance.id} {utterance.member}" for utterance in order)
    text = json.dumps(settings, sort_keys=True) + "\n" + names
    return hashlib.sha256(text.encode()).hexdigest()
