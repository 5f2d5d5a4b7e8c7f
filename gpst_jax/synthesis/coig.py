"""The perceptual stage of SpeechGPT-Gen on single requests, window by window for long speech."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.generation.frame_batches import FrameRequest
from gpst_jax.generation.gpst_modes import Part
from gpst_jax.samples.perceptual import PerceptualStage
from gpst_jax.synthesis.long_form import cut, tail

_OVERLAP_SECONDS = 1.0
_STREAMS = 2**31 - 1  # random streams are numbered below it
_NEXT_STREAM = 7919  # from one window to the next


@dataclasses.dataclass
class Rendering:
    """One request on its way.

    Attributes:
        units: (T,) of what is said, one per frame.
        prompt: of the voice.
        seed: of the request.
        made: codes (Q, T) or latents (T, D) of each window.
        before: units and codes of the last seconds that were made, the prompt of the next window.
    """

    units: np.ndarray
    prompt: Part | None
    seed: int
    made: list[np.ndarray] = dataclasses.field(default_factory=list)
    before: Part | None = None

    def frames(self, num_codebooks: int) -> np.ndarray:
        """Codes (Q, T), or latents (T, D) float32, of the whole speech; T = 0 without units."""
        if not self.made:
            return np.zeros((num_codebooks, 0), np.int32)
        continuous = np.issubdtype(self.made[0].dtype, np.floating)
        return np.concatenate(self.made, axis=0 if continuous else 1)


class PerceptualSpeech:
    """A perceptual stage as a maker of speech.

    Args:
        stage: the model.
        codec: of its frames.
        layout: token layout of its dataset.
        window: seconds of speech that one request renders, see `long_form.window_seconds`.
    """

    def __init__(self, stage: PerceptualStage, codec: Any, layout: TokenLayout, window: float):
        self._stage, self._codec, self._layout = stage, codec, layout
        self.window = window

    def render(
        self,
        renderings: Sequence[Rendering],
        batch_size: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Renders the units of all; those of one window of each at once."""
        pieces = [self._pieces(rendering.units) for rendering in renderings]
        for turn in range(max(map(len, pieces), default=0)):
            going = [number for number, its in enumerate(pieces) if turn < len(its)]
            requests = [
                self._request(renderings[number], pieces[number][turn], turn) for number in going
            ]
            sampled = self._stage.sample(requests, seed=0, batch_size=batch_size, on_progress=None)
            for number, frames in zip(going, sampled, strict=True):
                its = pieces[number]
                self._take(renderings[number], its[turn], frames, last=turn + 1 == len(its))
                if on_progress is not None and turn + 1 == len(its):
                    on_progress(1)

    def stream(self, rendering: Rendering) -> Iterator[np.ndarray]:
        """Codes (Q, n) or latents (n, D) of each window of a rendering as it is made."""
        pieces = self._pieces(rendering.units)
        for turn, piece in enumerate(pieces):
            requests = [self._request(rendering, piece, turn)]
            (frames,) = self._stage.sample(requests, seed=0, batch_size=1, on_progress=None)
            self._take(rendering, piece, frames, last=turn + 1 == len(pieces))
            yield frames

    def _take(
        self, rendering: Rendering, piece: np.ndarray, frames: np.ndarray, *, last: bool
    ) -> None:
        """Adds a window, whose end is the prompt of the next one."""
        rendering.made.append(frames)
        if not last:
            rendering.before = tail((piece, self._codes(frames)), _OVERLAP_SECONDS, self._layout)

    def _pieces(self, units: np.ndarray) -> list[np.ndarray]:
        if len(units) > round(self.window * self._layout.unit_rate):
            return cut(units, self.window, self._layout)
        return [units] if len(units) else []

    def _request(self, rendering: Rendering, units: np.ndarray, turn: int) -> FrameRequest:
        """The voice's prompt and what was said last stand before the window's units."""
        before = [part for part in (rendering.prompt, rendering.before) if part is not None]
        stream = (rendering.seed + _NEXT_STREAM * turn) % _STREAMS
        if not before:
            return FrameRequest(units, item=stream)
        return FrameRequest(
            units,
            prompt_units=np.concatenate([of_part for of_part, _ in before]),
            prompt_codes=np.concatenate([codes for _, codes in before], axis=1),
            item=stream,
        )

    def _codes(self, frames: np.ndarray) -> np.ndarray:
        """Codes (Q, T) of codes or latents: the prompt of a model is made of codes."""
        if not np.issubdtype(frames.dtype, np.floating):
            return frames
        wav = self._codec.decode_vectors(frames)
        return self._codec.encode(wav, self._codec.sample_rate)[:, : len(frames)].astype(np.int32)
