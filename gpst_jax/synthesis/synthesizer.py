"""A loaded model that makes speech from recordings and texts: `load` once, `generate` often."""

import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from gpst_jax.config import FlowConfig, GPSTConfig, SoundStormConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.gpst_modes import MODES_WITHOUT_UNITS, Part, RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.samples.perceptual import PerceptualSettings, make_stage
from gpst_jax.synthesis.coig import PerceptualSpeech, Rendering
from gpst_jax.synthesis.gpst import GPSTSettings, GPSTSpeech, Utterance
from gpst_jax.synthesis.inputs import PromptTokens, SpeechEncoder
from gpst_jax.synthesis.long_form import window_seconds
from gpst_jax.synthesis.models import Model, open_model
from gpst_jax.synthesis.requests import MODES, SpeechRequest, check_all
from gpst_jax.synthesis.streaming import Clock, audio_stream, samples_of
from gpst_jax.synthesis.writing import Said, Writer


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """How speech is sampled. Durations are in seconds.

    Attributes:
        gpst: of models of that family.
        perceptual: of models of the other families; None: the family's default.
        text: how the language model samples text.
        units: how the language model samples units.
        prompt_seconds: how much of a prompt is used.
        batch_size: requests decoded at once.
        weights: of GPST and of the language model, see `gpst_sampler.Decoder`.
    """

    gpst: GPSTSettings = dataclasses.field(default_factory=GPSTSettings)
    perceptual: PerceptualSettings | None = None
    text: SamplingConfig = dataclasses.field(default_factory=lambda: SamplingConfig(top_k=1))
    units: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.7)
    )
    prompt_seconds: float = 3.0
    batch_size: int = 32
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class Speech:
    """What was made of a request.

    Attributes:
        request: what was wanted.
        wav: (N,) float32; N = 0 where nothing was said.
        sample_rate: in Hz.
        units: (S,) int32 of what is said, a given beginning included.
        frames: codes (Q, T) int32, or latents (T, D) float32 of flow matching.
        info: JSON values: recipe, seed, seconds, why it ended, what was understood.
    """

    request: SpeechRequest
    wav: np.ndarray
    sample_rate: int
    units: np.ndarray
    frames: np.ndarray
    info: dict[str, Any]


class Prepared(NamedTuple):
    """A request with its encoded recordings."""

    request: SpeechRequest
    source: Part | None
    prompt: PromptTokens | None


def load(
    workdir: str | Path,
    lm_workdir: str | Path | None = None,
    *,
    step: int | None = None,
    dataset: str | Path | None = None,
    settings: SynthesisSettings = SynthesisSettings(),
    report: Callable[[str], None] = print,
) -> "Synthesizer":
    """Loads a model with its tokenizers.

    Args:
        workdir: of a run or an export: GPST, flow matching or SoundStorm.
        lm_workdir: of the language model, which tts and dialogue need.
        step: checkpoint of `workdir`; None: the newest.
        dataset: directory of dataset.json and tokenizers; None: the run's, or the export's own.
        settings: how speech is sampled.
        report: called with lines about what is done to inputs.

    Raises:
        UserError: a model or its tokenizers are not there, or do not fit together.
        CheckpointError: a checkpoint is missing or damaged.
        ConfigError: a model does not support the settings.
    """
    model = open_model(workdir, step, dataset)
    language = open_model(lm_workdir, None, None, flag="lm_workdir") if lm_workdir else None
    return Synthesizer(model, language, settings, report)


class Synthesizer:
    """See `load`.

    Attributes:
        modes: what it can make, by name.
        sample_rate: of its speech, in Hz.
    """

    def __init__(
        self,
        model: Model,
        language: Model | None,
        settings: SynthesisSettings,
        report: Callable[[str], None] = print,
    ):
        loaded, config = model.loaded, model.loaded.config
        self._loaded, self._settings = loaded, settings
        self.family, self._with_units = config.model.family, config.data.units == "front"
        if not isinstance(config.model, GPSTConfig | FlowConfig | SoundStormConfig):
            raise UserError(
                f"--workdir={model.path}: a model of family {self.family!r} generates no audio: "
                "give a run of GPST, flow matching or SoundStorm (and the language model's with "
                "--lm_workdir)"
            )
        self.spec = DatasetSpec.parse(loaded.dataset, "the checkpoint")
        self._encoder = SpeechEncoder(model.directory, self.spec, report)
        self._codec: Any = self._encoder.codec
        self.sample_rate = self._encoder.codec.sample_rate
        self._writer: Writer | None = None
        if language is not None:
            options = {
                "text": settings.text,
                "units": settings.units,
                "weights": settings.weights,
            }
            self._writer = Writer(language, self.spec, model, settings.batch_size, options, report)
        self.modes = {
            name: mode
            for name, mode in MODES[self.family].items()
            if (self._writer is not None or not mode.language_model)
            and (self._with_units or name in MODES_WITHOUT_UNITS)
        }
        layout = self.spec.layout()
        window = window_seconds(loaded, layout, settings.prompt_seconds)
        self._gpst: GPSTSpeech | None = None
        self._perceptual: Any = None  # a PerceptualSpeech, with other families
        if isinstance(config.model, GPSTConfig):
            silence = (np.array(self.spec.silence.units), np.array(self.spec.silence.codes))
            decoder = Decoder(
                config.model,
                layout,
                loaded.params,
                config.data.positions,
                silence,
                settings.weights,
            )
            builder = RequestBuilder(layout, silence, config.data.deduplicate, self._with_units)
            trained = config.data.crop_seconds
            self._gpst = GPSTSpeech(
                decoder, builder, settings.gpst, trained, window, settings.prompt_seconds
            )
        else:
            default = FlowSettings() if self.family == "flow" else SoundStormSettings()
            stage = make_stage(loaded, layout, settings.perceptual or default)
            self._perceptual = PerceptualSpeech(stage, self._encoder.codec, layout, window)

    def generate(
        self,
        requests: Sequence[SpeechRequest],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Speech]:
        """Makes the speech of all requests, in batches.

        Args:
            requests: what is wanted.
            on_progress: called with the number of requests that are finished.

        Returns:
            One speech per request, in order; the same as each would get alone.

        Raises:
            UserError: an input cannot be used; nothing has been made then.
        """
        started = time.monotonic()
        prepared = self.prepare(requests)
        said = self.say(prepared)
        made = (
            self._by_gpst(self._gpst, prepared, said, on_progress)
            if self._gpst is not None
            else self._by_stage(self._perceptual, prepared, said, on_progress)
        )
        wall = time.monotonic() - started
        total = sum(len(speech.wav) for speech in made) / self.sample_rate
        timing = {
            "wall_seconds": round(wall, 3),
            "real_time_factor": round(wall / total, 3) if total else None,
            "batch": len(made),
        }
        return [dataclasses.replace(speech, info=speech.info | timing) for speech in made]

    def check(self, requests: Sequence[SpeechRequest]) -> None:
        """Raises UserError for the first request that these models cannot make."""
        check_all(requests, self.family, self._writer is not None, self._with_units)

    def prepare(self, requests: Sequence[SpeechRequest]) -> list[Prepared]:
        """Checks all requests and encodes their recordings; raises UserError for the first."""
        self.check(requests)
        prepared = []
        for request in requests:
            if request.text is not None and self._writer is not None:
                self._writer.check(request)
            source = prompt = None
            if request.source is not None:
                source = self._encoder.source(request.source, request.name("source"))
                self._check_beginning(request, source)
            if request.prompt is not None:
                prompt = self._encoder.prompt(
                    request.prompt, self._settings.prompt_seconds, request.name("prompt")
                )
            prepared.append(Prepared(request, source, prompt))
        return prepared

    def _check_beginning(self, request: SpeechRequest, source: Part) -> None:
        seconds = len(source[0]) / self.spec.semantic.frame_rate
        if request.mode == "continuation" and (request.seconds or 0) >= seconds:
            raise UserError(
                f"{request.name('seconds')}={request.seconds:g}: the source lasts {seconds:.2f} s, "
                "nothing of it is left to be continued"
            )

    def say(self, prepared: Sequence[Prepared]) -> dict[int, Said]:
        """What the language model says, by the number of the request."""
        if self._writer is None:
            return {}
        return self._writer.say(
            {
                number: (one.request, one.source[0] if one.source else None)
                for number, one in enumerate(prepared)
                if self.modes[one.request.mode].language_model
            }
        )

    def stream(
        self, request: SpeechRequest, *, chunk_frames: int = 25
    ) -> Generator[np.ndarray, None, Speech]:
        """Makes the speech of one request and hands its samples on as they are made.

        GPST makes `chunk_frames` at once, a perceptual stage one window of its training.

        Args:
            request: what is wanted.
            chunk_frames: frames of GPST that are made at once.

        Yields:
            Signals (n,) float32, n > 0, at `sample_rate`; joined, they are those of the speech.

        Returns:
            The speech (the value of `yield from`); its info tells when the first sample was there.

        Raises:
            UserError: an input cannot be used.
        """
        if self._gpst is not None and (count := self._settings.gpst.best_of) > 1:
            raise UserError(
                f"which of {count} samples is the best is known when all are complete: they cannot "
                "be made as a stream"
            )
        clock = Clock()
        (one,) = self.prepare([request])
        said = self.say([one]).get(0)
        finish: Callable[[np.ndarray], Speech]
        if self._gpst is not None:
            utterance = self._utterance(self._gpst, one, said)
            self._gpst.sample_units([utterance], 1)
            frames = self._gpst.stream_frames(utterance, chunk_frames)
            finish = functools.partial(self._spoken, one, utterance, said)
        else:
            rendering = _rendering(one, said)
            frames = self._perceptual.stream(rendering)
            finish = functools.partial(self._rendered, one, rendering, said)
        audio = audio_stream(self._codec, continuous=self.family == "flow")
        parts = [np.zeros(0, np.float32)]
        for wav in samples_of(frames, audio):
            clock.count(wav)
            parts.append(wav)
            yield wav
        speech = finish(np.concatenate(parts))
        timing = clock.info(self.sample_rate)
        return dataclasses.replace(speech, info=speech.info | timing)

    def _by_gpst(self, gpst: GPSTSpeech, prepared, said, on_progress) -> list[Speech]:
        utterances = [self._utterance(gpst, one, said.get(n)) for n, one in enumerate(prepared)]
        gpst.sample_units(utterances, self._settings.batch_size)
        gpst.sample_frames(utterances, self._settings.batch_size, on_progress)
        return [
            self._spoken(one, utterance, said.get(number))
            for number, (one, utterance) in enumerate(zip(prepared, utterances, strict=True))
        ]

    def _by_stage(self, stage: PerceptualSpeech, prepared, said, on_progress) -> list[Speech]:
        renderings = [_rendering(one, said.get(number)) for number, one in enumerate(prepared)]
        stage.render(renderings, self._settings.batch_size, on_progress)
        return [
            self._rendered(one, rendering, said.get(number))
            for number, (one, rendering) in enumerate(zip(prepared, renderings, strict=True))
        ]

    def _utterance(self, gpst: GPSTSpeech, one: Prepared, said: Said | None) -> Utterance:
        prompt = one.prompt.part if one.prompt else None
        return gpst.begin(one.request, one.source, prompt, said.units if said else None)

    def _spoken(
        self, one: Prepared, utterance: Utterance, said: Said | None, wav: np.ndarray | None = None
    ) -> Speech:
        """What GPST has made of a request."""
        units = utterance.units if utterance.units is not None else np.zeros(0, np.int32)
        given = utterance.given[1].shape[1] / self.spec.codec.frame_rate
        info = {
            "given_seconds": round(given, 3),
            "ended_by": utterance.ended_by,
            "guards": utterance.guards,
        }
        units = np.concatenate([utterance.given[0], units]).astype(np.int32)
        return self._speech(one, units, utterance.codes, said, info, wav)

    def _rendered(
        self, one: Prepared, rendering: Rendering, said: Said | None, wav: np.ndarray | None = None
    ) -> Speech:
        """What a perceptual stage has made of a request."""
        frames = rendering.frames(self.spec.codec.num_codebooks)
        return self._speech(one, rendering.units, frames, said, {"ended_by": "length"}, wav)

    def _speech(self, one: Prepared, units, frames, said: Said | None, info, wav) -> Speech:
        codec, request = self._codec, one.request
        if wav is None:
            continuous = np.issubdtype(frames.dtype, np.floating)
            wav = codec.decode_vectors(frames) if continuous else codec.decode(frames)
        if not len(units) and not frames.size:
            info = info | {"ended_by": "nothing was said"}
        common = {
            "id": request.id,
            "mode": request.mode,
            "seconds": round(len(wav) / codec.sample_rate, 3),
            "seed": request.seed,
            **info,
            **(said.words if said else {}),
            "recipe": self.recipe(),
        }
        for name in ("source", "prompt"):
            if (path := getattr(request, name)) is not None:
                common[name] = str(path)
        if one.prompt is not None:
            common["prompt_start"] = round(one.prompt.start, 3)
            common["prompt_seconds"] = round(one.prompt.seconds, 3)
        wav = np.asarray(wav, np.float32)
        return Speech(request, wav, codec.sample_rate, units, frames, common)

    def recipe(self) -> dict[str, Any]:
        """What the speech depends on besides its request, as JSON values."""
        settings = dataclasses.asdict(self._settings)
        settings = {"gpst": settings["gpst"], "perceptual": settings["perceptual"]} | settings
        del settings["perceptual" if self._gpst else "gpst"], settings["batch_size"]
        if self._writer is None:
            del settings["text"], settings["units"]
        return {
            "family": self.family,
            "step": self._loaded.step,
            "lm_step": self._writer.step if self._writer else None,
            "semantic": self.spec.semantic.id,
            "codec": self.spec.codec.id,
            "settings": settings,
        }


def _rendering(one: Prepared, said: Said | None) -> Rendering:
    """The units of a request in the voice of its prompt."""
    units = said.units if said is not None else _part(one.source)[0]
    prompt = one.prompt.part if one.prompt else None
    return Rendering(np.asarray(units, np.int32), prompt, one.request.seed)


def _part(part: Part | None) -> Part:
    """The source of a mode that needs one."""
    assert part is not None
    return part
