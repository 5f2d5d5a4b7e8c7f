"""Hidden states of Whisper's encoder (arXiv 2212.04356), by CTranslate2 or by transformers.

Two engines. CTranslate2, which faster-whisper is built on, gives the encoder's output (after its
final layer norm) on a CPU. transformers gives the output as well, or that of a layer inside: layer
k is the output of the k-th transformer layer, counted from 1, before the final layer norm.

**Context.** Whisper's encoder has absolute positions and attends to its whole window; it was
trained on windows of 30 s. A signal is cut into pieces of 30 s at fixed bounds, each encoded by
itself: a unit depends on its own piece and on nothing else, so the units of a signal are those of
its 30 s pieces joined. A window is a piece with `silence_seconds` of zeros in front and at least as
many behind, rounded up to whole seconds; where that is more than 30 s there is less silence, first
behind, then in front. Both engines accept windows shorter than 30 s, which cost in proportion; see
docs/tokenizers.md for what that does to the units.

Log-mel spectra come from the engine's own feature extractor. Each window's spectrum is floored at 8
(in log10) below its maximum, as the model was trained: this too looks at its own window only.

**Batches.** CTranslate2 encodes every window by itself, one thread for each, several at a time;
transformers batches windows of equal length. Frames that begin behind the signal are dropped, so
that T = ceil(N / 320) at 50 Hz; at 25 Hz pairs of them are averaged, T = ceil(N / 640).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import torch_runtime, whisper_weights
from data_pipeline.tokenizers.base import num_frames
from data_pipeline.tokenizers.pretrained import Location, ModelSpec, read_settings
from data_pipeline.tokenizers.whisper_weights import CTRANSLATE2, TRANSFORMERS

KIND = "whisper"
OPTIONS = ("layer", "rate", "engine", "dtype")
WINDOW_SECONDS = 30
SILENCE_SECONDS = 1

_SAMPLE_RATE = 16_000
_HOP = 320  # samples per frame of the encoder
_MEL_HOP = 160
_ENGINES = (CTRANSLATE2, TRANSFORMERS)
# The arithmetic that CTranslate2 is asked for by each dtype: weights of int8 are computed with
# activations quantised row by row, so that frames do not see each other.
_COMPUTE_TYPES = {"float32": "float32", "int8": "int8_float32"}
_DTYPES = {CTRANSLATE2: tuple(_COMPUTE_TYPES), TRANSFORMERS: torch_runtime.DTYPES}


@dataclasses.dataclass(frozen=True)
class WhisperEncoderConfig:
    """Which hidden states to use, how they are computed, and properties of the model.

    Attributes:
        kind: `whisper`.
        engine: `ctranslate2` or `transformers`.
        layer: counted from 1; None is the encoder's output.
        dtype: of the computation: float32, bfloat16 (transformers) or int8 (CTranslate2).
        sample_rate: in Hz.
        hop: samples per frame that is returned: 320 or 640.
        window_seconds: longest window; longer signals are cut at its multiples.
        silence_seconds: least silence in front of a piece and behind it, where there is room.
        num_mels: M, of the spectrum.
        width: D, of the hidden states.
    """

    kind: str
    engine: str
    layer: int | None
    dtype: str
    sample_rate: int
    hop: int
    window_seconds: int
    silence_seconds: int
    num_mels: int
    width: int

    @property
    def equal_lengths(self) -> bool:
        """See `base.BatchTokenizer`: windows of unequal lengths are never padded to another's."""
        return False

    @property
    def states(self) -> str:
        """Which states, by what: for ids."""
        layer = "output" if self.layer is None else f"layer{self.layer}"
        rate = self.sample_rate // self.hop
        return f"{layer}-{rate}hz-{self.engine}-{self.dtype}"


def find(location: Location, engine: str) -> Path:
    """The local directory of a model for an engine; see `whisper_weights.find`."""
    return whisper_weights.find(location.model, format=engine, revision=location.revision)


def choose_engine(spec: ModelSpec) -> str:
    """The engine of a specification.

    The option `engine` decides; else transformers where a layer inside is asked for, or where the
    model is a directory or repository in that format only; else CTranslate2.

    Raises:
        UserError: the engine cannot give a layer inside.
    """
    model = spec.location.model
    if "layer" in spec.options:
        default = TRANSFORMERS
    elif os.path.isdir(model):
        default = next(iter(whisper_weights.formats(Path(model))), CTRANSLATE2)
    elif "/" in model and "faster-whisper" not in model:
        default = TRANSFORMERS
    else:
        default = CTRANSLATE2
    engine = spec.choice("engine", _ENGINES, default)
    if engine == CTRANSLATE2 and "layer" in spec.options:
        raise UserError(
            f"whisper:{model}: {CTRANSLATE2} gives the encoder's output only: leave out layer= or "
            f"use engine={TRANSFORMERS}"
        )
    return engine


def describe(spec: ModelSpec, directory: Path) -> WhisperEncoderConfig:
    """The configuration that follows from a specification and the model in a directory.

    Raises:
        UserError: the model has no such layer, an option is invalid, a package is missing, or the
            directory holds another kind of model.
    """
    engine = choose_engine(spec)
    dtype = spec.choice("dtype", _DTYPES[engine], "float32")
    rate = spec.choice("rate", ("50", "25"), "50")
    layer = spec.positive_int("layer")
    if engine == CTRANSLATE2:
        model = _load_ctranslate2(directory, dtype)
        num_mels = int(model.n_mels)
        width = _run_ctranslate2(model, np.zeros((num_mels, 2), np.float32)).shape[-1]
    else:
        settings = read_settings(directory)
        if settings.get("model_type") != "whisper":
            raise UserError(
                f"{spec.location.model} holds a model of type {settings.get('model_type')!r}, "
                "whisper needs 'whisper'"
            )
        transformers = torch_runtime.import_transformers()
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        num_mels, width = int(config.num_mel_bins), int(config.d_model)
        if layer is not None and layer > config.encoder_layers:
            raise UserError(
                f"whisper:{spec.location.model}: layer={layer} is not from 1 to "
                f"{config.encoder_layers}; without layer= it is the encoder's output"
            )
    return WhisperEncoderConfig(
        kind=KIND,
        engine=engine,
        layer=layer,
        dtype=dtype,
        sample_rate=_SAMPLE_RATE,
        hop=_SAMPLE_RATE // int(rate),
        window_seconds=WINDOW_SECONDS,
        silence_seconds=SILENCE_SECONDS,
        num_mels=num_mels,
        width=width,
    )


class WhisperEncoder:
    """A loaded encoder."""

    def __init__(self, config: WhisperEncoderConfig, directory: Path):
        """Loads the model of a local directory.

        Raises:
            UserError: a package is missing, or the directory holds another kind of model.
        """
        self.config = config
        self._engine: _CTranslate2 | _Transformers
        if config.engine == CTRANSLATE2:
            self._engine = _CTranslate2(config, directory)
        else:
            self._engine = _Transformers(config, directory)

    def __call__(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Hidden states of signals; each is encoded as if it were alone.

        Args:
            wavs: float32 (N,) each, N > 0, at 16 kHz, of any length.

        Returns:
            float32 (T, D) each, T = ceil(N / hop).
        """
        longest = self.config.window_seconds * self.config.sample_rate
        pieces = [
            (row, wav[start : start + longest])
            for row, wav in enumerate(wavs)
            for start in range(0, len(wav), longest)
        ]
        windows, leads = zip(*(self._padded(piece) for _, piece in pieces), strict=True)
        encoded = self._engine(windows)
        parts: list[list[np.ndarray]] = [[] for _ in wavs]
        for (row, piece), lead, states in zip(pieces, leads, encoded, strict=True):
            end = lead + num_frames(len(piece), _HOP)
            parts[row].append(self._pooled(states[lead:end]))
        return [np.concatenate(part) for part in parts]

    def _padded(self, piece: np.ndarray) -> tuple[np.ndarray, int]:
        """The window of a piece of a signal, and the number of frames of silence in front."""
        config = self.config
        silence = config.silence_seconds * config.sample_rate
        seconds = num_frames(len(piece) + 2 * silence, config.sample_rate)
        window = np.zeros(min(config.window_seconds, seconds) * config.sample_rate, np.float32)
        lead = min(silence, len(window) - len(piece)) // _HOP
        window[lead * _HOP : lead * _HOP + len(piece)] = piece
        return window, lead

    def _pooled(self, states: np.ndarray) -> np.ndarray:
        """Means of consecutive frames (T, D); the last one may be that of fewer."""
        count = self.config.hop // _HOP
        if count == 1:
            return states
        starts = np.arange(0, len(states), count)
        sizes = np.minimum(count, len(states) - starts).astype(np.float32)
        return np.add.reduceat(states, starts, axis=0) / sizes[:, None]


class _CTranslate2:
    """Windows (N,) to states (T, D) by CTranslate2, one window at a time in each thread."""

    def __init__(self, config: WhisperEncoderConfig, directory: Path):
        self._model = _load_ctranslate2(directory, config.dtype)
        self._extract = _import_faster_whisper().FeatureExtractor(feature_size=config.num_mels)

    def __call__(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        with ThreadPoolExecutor(_threads()) as pool:
            return list(pool.map(self._encode, windows))

    def _encode(self, window: np.ndarray) -> np.ndarray:
        spectrum = self._extract(window, padding=0)[:, : len(window) // _MEL_HOP]
        return _run_ctranslate2(self._model, spectrum)


class _Transformers:
    """Windows (N,) to states (T, D) by transformers, windows of equal length in one batch."""

    def __init__(self, config: WhisperEncoderConfig, directory: Path):
        self._config = config
        self._torch = torch_runtime.import_torch()
        self._encoder = torch_runtime.load_model("WhisperModel", directory, config.dtype).encoder
        self._positions = self._encoder.embed_positions.weight
        extractor = torch_runtime.import_transformers().WhisperFeatureExtractor
        self._extract: Callable[..., Any] = extractor(feature_size=config.num_mels)
        last = self._encoder.layer_norm
        if config.layer is not None:
            self._encoder.layers = self._encoder.layers[: config.layer]
            last = self._encoder.layers[-1]
        last.register_forward_hook(self._keep)
        self._kept: Any = None

    def __call__(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        results: list[Any] = [None] * len(windows)
        for size in sorted({len(window) for window in windows}):
            rows = [row for row, window in enumerate(windows) if len(window) == size]
            states = self._encode([windows[row] for row in rows])
            for row, state in zip(rows, states, strict=True):
                results[row] = state
        return results

    def _encode(self, windows: list[np.ndarray]) -> np.ndarray:
        spectra = self._extract(
            windows, sampling_rate=_SAMPLE_RATE, padding="longest", return_tensors="np"
        )["input_features"]
        # The encoder insists on as many frames as it has positions: leave it those of this window.
        frames, encoder = spectra.shape[-1] // 2, self._encoder
        encoder.embed_positions.weight = self._torch.nn.Parameter(
            self._positions[:frames], requires_grad=False
        )
        encoder.embed_positions.num_embeddings = frames
        encoder.config.max_source_positions = frames
        target = torch_runtime.device()
        dtype = getattr(self._torch, self._config.dtype)
        with torch_runtime.exact():
            encoder(self._torch.from_numpy(spectra).to(target, dtype))
            states, self._kept = self._kept.float().cpu().numpy(), None
        return states

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._kept = output[0] if isinstance(output, tuple) else output


@functools.lru_cache(maxsize=2)
def _load_ctranslate2(directory: Path, dtype: str) -> Any:
    """The model on the CPU: one thread per window, because sums depend on the number of threads."""
    _import_faster_whisper()
    import ctranslate2

    try:
        return ctranslate2.models.Whisper(
            str(directory),
            device="cpu",
            compute_type=_COMPUTE_TYPES[dtype],
            inter_threads=_threads(),
            intra_threads=1,
        )
    except (RuntimeError, ValueError) as error:
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{directory} cannot be loaded by CTranslate2: {message}") from error


def _run_ctranslate2(model: Any, spectrum: np.ndarray) -> np.ndarray:
    """The encoder's output (L / 2, D), float32, of a spectrum (M, L)."""
    import ctranslate2

    features = np.ascontiguousarray(spectrum[None], np.float32)
    encoded = model.encode(ctranslate2.StorageView.from_array(features), to_cpu=True)
    return np.array(encoded)[0].astype(np.float32, copy=False)


def _threads() -> int:
    """Windows encoded at a time: the number of cores, or the limit that worker processes have."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdecimal() and int(limit):
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _import_faster_whisper() -> Any:
    """Imports `faster_whisper.feature_extractor`; CTranslate2 comes with it.

    Raises:
        UserError: it is not installed.
    """
    try:
        from faster_whisper import feature_extractor
    except ImportError as error:
        raise UserError(
            f"Whisper units by CTranslate2 need faster-whisper ({error}): pip install "
            "'gpst_jax[whisper]'; or name a model of transformers (engine=transformers)"
        ) from error
    return feature_extractor
