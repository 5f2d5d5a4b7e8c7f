"""TensorBoard event files, under `tensorboard/` of the workdir."""

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpst_jax.trackers.base import Workdir, spectrogram_image

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoardTracker:
    """Scalars, audio with its spectrogram, images, and tables as Markdown text."""

    def __init__(self, workdir: Workdir):
        self._directory = str(Path(workdir) / "tensorboard")
        self._writer: SummaryWriter | None = None

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`; each start makes one event file."""
        with _torch_left_out():
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(self._directory, purge_step=step + 1, write_to_disk=True)

    @property
    def writer(self) -> "SummaryWriter":
        """The open writer."""
        assert self._writer is not None, "write before start"
        return self._writer

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the finite ones of the scalars."""
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(name, np.float32(value), step)

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """Writes a signal (N,) in [-1, 1], and its spectrogram as an image."""
        self.writer.add_audio(name, np.clip(wav, -1, 1)[:, None], step, sample_rate=sample_rate)
        self.write_image(step, f"{name}/spectrogram", spectrogram_image(wav, sample_rate))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a greyscale image (H, W) uint8."""
        self.writer.add_image(name, image, step, dataformats="HW")

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Writes a table as Markdown."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
        self.writer.add_text(name, text, step)

    def saved(self, step: int) -> None:
        """Does nothing: a resume drops what is later than its step."""

    def close(self) -> None:
        """See `Tracker`."""
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def _torch_left_out() -> Iterator[None]:
    """For imports that take PyTorch, seconds and 200 MB, only for the name of a type."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
