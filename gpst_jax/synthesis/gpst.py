"""GPST on single requests: units, then frames, window by window where the speech is long."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import Part, RequestBuilder
from gpst_jax.generation.gpst_requests import Request, Result, length
from gpst_jax.generation.gpst_sampler import Decoder, best_of
from gpst_jax.generation.guards import Guards
from gpst_jax.synthesis.long_form import cut, tail
from gpst_jax.synthesis.requests import SpeechRequest

_FRAMES = 1 << 16  # indices of random streams: those of units stand below
UNCONDITIONAL_SECONDS = CONTINUATION_SECONDS = 4.0
_OVERLAP_SECONDS = 1.0  # at most


@dataclasses.dataclass(frozen=True)
class GPSTSettings:
    """How GPST is sampled; the defaults are those of evaluation."""

    semantic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.55)
    )
    acoustic: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.4)
    )
    guards: Guards | None = dataclasses.field(default_factory=Guards)  # None: none
    best_of: int = 1  # samples of each request, of which the most likely is kept


@dataclasses.dataclass
class Utterance:
    """One request on its way from units to frames.

    Attributes:
        request: what is wanted.
        source: of the request, encoded.
        prompt: of the request, encoded.
        given: units and frames that the speech begins with and that are not sampled.
        units: (S,) what is said after `given`; None: GPST samples them.
        made: frames (Q, T) of each piece that has been sampled.
        units_ended_by: why the units that the model sampled ended; None: it sampled none.
        frames_ended_by: why the frames ended.
    """

    request: SpeechRequest
    source: Part | None
    prompt: Part | None
    given: Part
    units: np.ndarray | None = None
    made: list[np.ndarray] = dataclasses.field(default_factory=list)
    units_ended_by: str | None = None
    frames_ended_by: str = "length"

    def add(self, result: Result) -> None:
        """Takes the frames of a piece."""
        self.made.append(result.codes)
        self.frames_ended_by = result.frames_ended_by

    @property
    def guards(self) -> list[str]:
        """The guards that fired."""
        ended = (self.units_ended_by or "", self.frames_ended_by)
        return [name.removeprefix("guard:") for name in ended if name.startswith("guard:")]

    @property
    def ended_by(self) -> str:
        """Why the speech ended: `end`, that of the model, `length`, or a guard."""
        if self.guards:
            return f"guard:{self.guards[0]}"
        return "end" if self.units_ended_by == "end" else self.frames_ended_by

    @property
    def codes(self) -> np.ndarray:
        """Codes (Q, T) of the whole speech."""
        return np.concatenate([self.given[1], *self.made], axis=1)


class GPSTSpeech:
    """GPST as a maker of speech.

    Args:
        decoder: the model.
        builder: of its requests.
        settings: how it is sampled.
        trained: seconds of the longest segment in training.
        window: seconds of speech that fit one request, see `long_form.window_seconds`.
        prompt_seconds: of a continuation's beginning, where the request does not say.
    """

    def __init__(
        self,
        decoder: Decoder,
        builder: RequestBuilder,
        settings: GPSTSettings,
        trained: float,
        window: float,
        prompt_seconds: float,
    ):
        self.decoder, self.builder, self.settings = decoder, builder, settings
        self.window, self._trained = window, trained
        self._prompt_seconds = prompt_seconds
        self._layout: TokenLayout = decoder.layout

    def begin(
        self,
        request: SpeechRequest,
        source: Part | None,
        prompt: Part | None,
        units: np.ndarray | None,
    ) -> Utterance:
        """An utterance whose frames `frames` or `requests` make.

        Args:
            request: what is wanted.
            source: units and codes of its source.
            prompt: units and codes of its prompt.
            units: of a text, from the language model.
        """
        nothing = np.zeros(0, np.int32), np.zeros((self._layout.num_codebooks, 0), np.int32)
        utterance = Utterance(request, source, prompt, nothing, units)
        if not self.builder.with_units:
            return self._begin_without_units(utterance, nothing[0])
        if source is None:
            return utterance
        if request.mode == "speech_continuation":
            utterance.given = source
        elif request.mode == "continuation":
            seconds = self._given_seconds(request, source)
            whole = self.builder.continuation([source], seconds, item=0)
            if self._fits(source[0], whole):
                utterance.given, utterance.units = (nothing[0], whole.codes), source[0]
            else:
                given = self.builder.beginning([source], seconds)
                utterance.given, utterance.units = given, source[0][len(given[0]) :]
        else:
            utterance.units = source[0]
        return utterance

    def sample_units(
        self,
        utterances: Sequence[Utterance],
        batch_size: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Samples the units of those that have none: what is said, window by window."""
        left = {
            number: round(self._seconds(utterance.request) * self._layout.unit_rate)
            for number, utterance in enumerate(utterances)
            if utterance.units is None
        }
        pieces: dict[int, list[np.ndarray]] = {number: [] for number in left}
        turn = 0
        while left:
            requests = [
                self._units_request(utterances[number], pieces[number], most, turn)
                for number, most in left.items()
            ]
            results = self._decode(requests, batch_size)
            for number, request, result in zip(list(left), requests, results, strict=True):
                pieces[number].append(result.units)
                utterances[number].units_ended_by = result.units_ended_by
                left[number] -= len(result.units)
                if len(result.units) < request.max_units or left[number] <= 0:
                    del left[number]
                    if on_progress is not None:
                        on_progress(1)
            turn += 1
        for number, made in pieces.items():
            utterances[number].units = np.concatenate(made)

    def sample_frames(
        self,
        utterances: Sequence[Utterance],
        batch_size: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Samples the frames of all utterances, those of one piece of each at once."""
        waiting = [(utterance, self.requests(utterance)) for utterance in utterances]
        while waiting:
            following = [(u, steps, next(steps, None)) for u, steps in waiting]
            going = [(u, steps, request) for u, steps, request in following if request is not None]
            if on_progress is not None and len(going) < len(following):
                on_progress(len(following) - len(going))
            if not going:
                return
            results = self._decode([request for *_, request in going], batch_size)
            for (utterance, _, _), result in zip(going, results, strict=True):
                utterance.add(result)
            waiting = [(utterance, steps) for utterance, steps, _ in going]

    def stream_frames(self, utterance: Utterance, chunk_frames: int) -> Iterator[np.ndarray]:
        """Codes (Q, n) of an utterance as they are made, what is given first."""
        if utterance.given[1].shape[1]:
            yield utterance.given[1]
        for request in self.requests(utterance):
            result = yield from self.decoder.stream(
                request,
                chunk_frames=chunk_frames,
                semantic=self.settings.semantic,
                acoustic=self.settings.acoustic,
                guards=self.settings.guards,
            )
            utterance.add(result)

    def requests(self, utterance: Utterance) -> Iterator[Request]:
        """The requests for an utterance's frames, one after another.

        The frames of each must be in `utterance.made` before the next is asked for.
        """
        if not self.builder.with_units:
            yield from self._without_units(utterance)
            return
        units = utterance.units
        if units is None or not len(units):
            return
        pieces, first = [units], self._first(utterance, units, whole=True)
        if not self._fits(units, first):
            pieces = cut(units, self.window - 2 * self._overlap(utterance), self._layout)
            first = self._first(utterance, pieces[0], whole=False)
        for turn, piece in enumerate(pieces):
            request = (
                first
                if turn == 0
                else self.builder.more_frames(
                    self._before(utterance, pieces[turn - 1]),
                    piece,
                    item=0,
                    most_seconds=self._most_seconds(utterance, len(pieces)),
                )
            )
            yield dataclasses.replace(request, item=_FRAMES + turn, seed=utterance.request.seed)
            if utterance.frames_ended_by.startswith("guard:"):
                return  # what went astray is not gone on with

    def _begin_without_units(self, utterance: Utterance, no_units: np.ndarray) -> Utterance:
        request, source = utterance.request, utterance.source
        utterance.units = no_units  # none are sampled
        if source is None:
            return utterance
        given = source[1]
        if request.mode == "continuation":
            seconds = self._given_seconds(request, source)
            given = given[:, : round(seconds * self._layout.frame_rate)]
        utterance.given = no_units, given
        return utterance

    def _without_units(self, utterance: Utterance) -> Iterator[Request]:
        """The requests of a model of frames alone: each goes on from the last half window."""
        request, rate = utterance.request, self._layout.frame_rate
        window = round(self.window * rate)
        source, turn, exact = utterance.source, 0, request.mode == "continuation"
        if exact and source is not None:
            left = source[1].shape[1] - utterance.given[1].shape[1]
        else:
            left = round(self._seconds(request) * rate)
        while left > 0:
            before = utterance.codes
            if before.shape[1] + left > window:
                before = before[:, max(before.shape[1] - window // 2, 0) :]
            count = min(left, window - before.shape[1])
            one = self.builder.further_frames(before, count / rate, item=_FRAMES + turn)
            # A part of a continuation lasts as long as what it replaces.
            least = one.max_frames if exact else 0
            yield dataclasses.replace(one, min_frames=least, seed=request.seed)
            if utterance.frames_ended_by != "length":
                return
            left, turn = left - count, turn + 1

    def _before(self, utterance: Utterance, piece: np.ndarray) -> list[Part]:
        """What stands before the next piece: the last one; of it the end, after a prompt."""
        last = piece, utterance.made[-1]
        if utterance.prompt is None:
            return [last]
        # The voice drifts towards that of the source, of which the units tell a little, where the
        # prompt is left out.
        end = tail(last, self._overlap(utterance), self._layout)
        return [utterance.prompt, self.builder.silence, end]

    def _overlap(self, utterance: Utterance) -> float:
        """Seconds of a piece that stand before the next one, beside a prompt."""
        return 0.0 if utterance.prompt is None else min(_OVERLAP_SECONDS, self.window / 4)

    def _first(self, utterance: Utterance, piece: np.ndarray, whole: bool) -> Request:
        """The request for the first piece; of a whole source it is that of evaluation."""
        builder, mode = self.builder, utterance.request.mode
        if utterance.prompt is not None:
            source = utterance.source if whole else None
            target = builder.target_of_units(piece) if source is None else source
            return builder.speaker_transfer([utterance.prompt], [target], item=0)
        if mode == "continuation" and not len(utterance.given[0]) and utterance.source:
            given = utterance.given[1].shape[1] / self._layout.frame_rate
            return builder.continuation([utterance.source], given, item=0)
        if len(utterance.given[0]):
            room = self.window - len(piece) / self._layout.unit_rate
            before = tail(utterance.given, max(room, self.window / 2), self._layout)
            most = self._most_seconds(utterance, 1)
            return builder.more_frames([before], piece, item=0, most_seconds=most)
        request = builder.semantic_to_acoustic(piece, item=0)
        most = self._most_seconds(utterance, 1)
        if builder.deduplicated and most is not None:
            frames = round(most * self._layout.frame_rate)
            request = dataclasses.replace(request, max_frames=frames)
        return request

    def _units_request(
        self, utterance: Utterance, pieces: Sequence[np.ndarray], most: int, turn: int
    ) -> Request:
        rate, layout = self._layout.unit_rate, self._layout
        before: list[Part] = []
        if pieces:
            before = [self.builder.target_of_units(pieces[-1])]
        elif len(utterance.given[0]):
            room = self.window - most / rate
            before = [tail(utterance.given, max(room, self.window / 2), layout)]
        used = sum(len(units) for units, _ in before)
        step = layout.units_per_step
        fitting = max(step, (round(self.window * rate) - used) // step * step)
        if not before and most > fitting:
            fitting = max(step, fitting // 2 // step * step)
        request = (
            self.builder.more_units(before, min(most, fitting) / rate, item=0)
            if before
            else self.builder.unconditional(min(most, fitting) / rate, item=0)
        )
        return dataclasses.replace(request, item=turn, seed=utterance.request.seed)

    def _decode(self, requests: Sequence[Request], batch_size: int) -> list[Result]:
        options: dict[str, Any] = {
            "semantic": self.settings.semantic,
            "acoustic": self.settings.acoustic,
            "guards": self.settings.guards,
            "batch_size": batch_size,
        }
        if self.settings.best_of > 1:
            return best_of(self.decoder, requests, self.settings.best_of, **options)
        return self.decoder.decode(requests, **options)

    def _fits(self, units: np.ndarray, request: Request) -> bool:
        """Whether one request may render all units: they are no longer than what was trained on."""
        config, arrangement = self.decoder.config, self.decoder.arrangement
        if config.block == "paper" and length(arrangement, request) > config.max_positions:
            return False
        return len(units) <= round(self._trained * self._layout.unit_rate)

    def _given_seconds(self, request: SpeechRequest, source: Part) -> float:
        """How much of a source is given to its continuation."""
        half = len(source[0]) / self._layout.unit_rate / 2
        if request.seconds is None:
            return min(self._prompt_seconds, half)
        return min(request.seconds, 2 * half)

    def _seconds(self, request: SpeechRequest) -> float:
        """How long sampled units last at most."""
        default = {
            "unconditional": UNCONDITIONAL_SECONDS,
            "speech_continuation": CONTINUATION_SECONDS,
        }
        return request.seconds if request.seconds is not None else default[request.mode]

    def _most_seconds(self, utterance: Utterance, pieces: int) -> float | None:
        """How long the frames of a piece of sampled units last at most, see `more_frames`."""
        if utterance.request.mode not in ("unconditional", "speech_continuation"):
            return None
        return self._seconds(utterance.request) / pieces
