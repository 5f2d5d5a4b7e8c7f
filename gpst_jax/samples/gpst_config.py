"""What is generated of GPST: the modes, their lengths, and how they are sampled."""

import dataclasses
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.config import DataConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import MODES_WITHOUT_UNITS
from gpst_jax.generation.guards import Guards

DEFAULT_MODES = ("unconditional", "semantic_to_acoustic", "speaker_transfer", "continuation")
# GPST-TTS: a language model turns texts into units, GPST speaks them in the voice of a prompt.
TTS = "tts"
MODES = (*DEFAULT_MODES, "speech_continuation", TTS)


def default_modes(data: DataConfig, with_language: bool) -> tuple[str, ...]:
    """The modes of a model that are generated where none are named."""
    if data.units == "none":
        return tuple(mode for mode in DEFAULT_MODES if mode in MODES_WITHOUT_UNITS)
    return (*DEFAULT_MODES, *((TTS,) if with_language else ()))


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """What is generated. Durations are in seconds."""

    modes: tuple[str, ...] = DEFAULT_MODES
    items: int = 200
    unseen_items: int = 60
    sentences: int | None = None  # beside digit strings; None: a fifth of `items`
    prompt_seconds: float = 3.0
    unconditional_seconds: float = 4.0
    continuation_seconds: float = 4.0  # of speech_continuation, what is added at most
    semantic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.55)
    )
    acoustic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.4)
    )
    guards: Guards | None = None  # that end items which went astray
    best_of: int = 1  # samples of each request, of which the most likely is kept
    weights: str | None = None  # of both models, see `gpst_sampler.Decoder`
    languages: tuple[str | None, str | None] = (None, None)  # of items and prompts; None: any
    # Of the language model, in tts.
    language_text: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(top_k=1)
    )
    language_units: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.7)
    )
    batch_size: int = 100
    seed: int = 0
    workers: int = 2

    def __post_init__(self):
        unknown = sorted(set(self.modes) - set(MODES))
        if unknown:
            raise UserError(f"--mode: unknown {unknown[0]!r}; choose from {', '.join(MODES)}")

    def provenance(self) -> dict[str, Any]:
        """The fields for settings.json, those of modes that are not generated left out."""
        values = dataclasses.asdict(self)
        unused = set() if TTS in self.modes else {"language_text", "language_units"}
        if "speech_continuation" not in self.modes:
            unused.add("continuation_seconds")
        # Directories of versions that had none of these do not name them.
        unused |= {name for name in ("guards", "weights", "sentences") if values[name] is None}
        unused |= {"best_of"} if self.best_of == 1 else set()
        unused |= set() if any(self.languages) else {"languages"}
        return {name: value for name, value in values.items() if name not in unused}
