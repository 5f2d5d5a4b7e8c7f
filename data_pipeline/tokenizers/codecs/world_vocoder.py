"""Speech as the parameters of the WORLD vocoder, and back: pitch, envelope, aperiodicity.

WORLD (Morise, Yokomori, Ozawa 2016) describes speech by the fundamental frequency, the spectral
envelope, and the share of noise in every band. Here a frame of it is a vector: log amplitudes of
the envelope at points equally spaced on the mel scale, the logarithm of the fundamental frequency
(interpolated where there is none), whether the frame is voiced, and log aperiodicities of five
bands (zero where it is not).
"""

import dataclasses
import functools
import math
from types import ModuleType

import numpy as np

from data_pipeline.runtime.errors import UserError

_APERIODICITY_EDGES = np.array([0, 1, 2, 4, 6, 8]) / 8  # as fractions of half the sample rate
_LOWEST_OF_WORLD = 71.0  # Hz, the lowest fundamental frequency that its spectra resolve
_LOWEST_POINT = 40.0  # Hz; as far from half the sample rate is the highest, times 2.5
_POWER_FLOOR = 1e-9  # of the envelope: keeps its logarithm finite in silence
_APERIODICITY_FLOOR = 1e-3
_DEFAULT_PITCH = 120.0  # Hz, stored for a signal without voice
_ENHANCED_REACH = 6  # points of the envelope on either side that formants are compared with
_TAIL_SECONDS = 0.1  # of silence after the signal, so that any signal is long enough to analyse


def import_pyworld() -> ModuleType:
    """The vocoder's module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyworld
    except ImportError as error:
        raise UserError(
            f"the codec world_rvq needs pyworld ({error}): pip install 'gpst_jax[demo]', or pip "
            "install pyworld-prebuilt; the codec mel_rvq needs neither"
        ) from error
    return pyworld


@dataclasses.dataclass(frozen=True)
class WorldVocoder:
    """Analysis and synthesis with a fixed number of samples per frame.

    Attributes:
        sample_rate: in Hz.
        hop: samples per frame.
        points: P, of the envelope.
        pitch_floor: lowest fundamental frequency in Hz.
        pitch_ceiling: highest fundamental frequency in Hz.
    """

    sample_rate: int
    hop: int
    points: int
    pitch_floor: float
    pitch_ceiling: float

    @property
    def width(self) -> int:
        """Parameters per frame: the envelope, pitch, voicing, and aperiodicities."""
        return self.points + 2 + len(_APERIODICITY_EDGES) - 1

    @property
    def period(self) -> float:
        """Milliseconds per frame."""
        return 1000.0 * self.hop / self.sample_rate

    @property
    def fft_size(self) -> int:
        """Points of the FFT that pyworld takes at this sample rate, known without pyworld."""
        periods = 3 * self.sample_rate / _LOWEST_OF_WORLD + 1
        return 2 ** (1 + math.floor(math.log2(periods)))

    def analyse(self, wav: np.ndarray, frames: int) -> np.ndarray:
        """Parameters float32 (frames, width) of a signal (N,); frame t is at sample t * hop."""
        pyworld = import_pyworld()
        samples = max(len(wav), frames * self.hop) + round(_TAIL_SECONDS * self.sample_rate)
        padded = np.zeros(samples)
        padded[: len(wav)] = wav
        rate = self.sample_rate
        pitch, times = pyworld.dio(
            padded,
            rate,
            f0_floor=self.pitch_floor,
            f0_ceil=self.pitch_ceiling,
            frame_period=self.period,
        )
        pitch, times = pitch[:frames], times[:frames]
        pitch = pyworld.stonemask(padded, pitch, times, rate)
        power = pyworld.cheaptrick(padded, pitch, times, rate)
        # Aperiodicity changes slowly and costs half of the analysis: at every other frame.
        noise = pyworld.d4c(padded, pitch[::2].copy(), times[::2].copy(), rate)
        noise = np.repeat(noise, 2, axis=0)[:frames]
        return self._parameters(pitch, power, noise)

    def synthesise(self, parameters: np.ndarray) -> np.ndarray:
        """Signal float32 (frames * hop,) of parameters (frames, width), finite for any numbers.

        Samples depend on earlier parameters, and on later ones up to half an FFT ahead.
        """
        pyworld = import_pyworld()
        envelope, log_pitch, voicing, noise = np.split(
            parameters.astype(np.float64),
            [self.points, self.points + 1, self.points + 2],
            axis=1,
        )
        voiced = voicing[:, 0] > 0.5
        lowest, highest = np.log(self.pitch_floor), np.log(self.pitch_ceiling)
        pitch = np.where(voiced, np.exp(np.clip(log_pitch[:, 0], lowest, highest)), 0.0)
        log_power = np.clip(2 * envelope, np.log(_POWER_FLOOR), 20.0) @ self._tables.points_to_bins
        log_noise = np.clip(noise, np.log(_APERIODICITY_FLOOR), 0.0)
        aperiodicity = np.exp(log_noise @ self._tables.bands_to_bins)
        aperiodicity[~voiced] = 1.0
        wav = pyworld.synthesize(
            pitch, np.exp(log_power), aperiodicity, self.sample_rate, self.period
        )
        return wav[: len(parameters) * self.hop].astype(np.float32)

    def enhance(self, parameters: np.ndarray, gain: float) -> np.ndarray:
        """Deepens the formants that quantisation has flattened, at equal power.

        Args:
            parameters: float32 (frames, width).
            gain: of the distance between an envelope and its average over neighbouring points.
        """
        envelope = parameters[:, : self.points]
        average = envelope @ self._tables.average
        raised = average + gain * (envelope - average)
        excess = _log_power(raised) - _log_power(envelope)
        enhanced = parameters.copy()
        enhanced[:, : self.points] = raised - excess[:, None]
        return enhanced

    def _parameters(self, pitch: np.ndarray, power: np.ndarray, noise: np.ndarray) -> np.ndarray:
        voiced = pitch > 0
        frames = np.arange(len(pitch))
        if voiced.any():
            log_pitch = np.interp(frames, frames[voiced], np.log(pitch[voiced]))
        else:
            log_pitch = np.full(len(pitch), np.log(_DEFAULT_PITCH))
        envelope = 0.5 * np.log(power + _POWER_FLOOR) @ self._tables.bins_to_points
        bands = np.log(np.maximum(noise, _APERIODICITY_FLOOR)) @ self._tables.bins_to_bands
        bands[~voiced] = 0.0
        columns = [envelope, log_pitch[:, None], voiced[:, None], bands]
        return np.concatenate(columns, axis=1).astype(np.float32)

    @property
    def _tables(self) -> "_Tables":
        return _tables(self.sample_rate, self.points)


@dataclasses.dataclass(frozen=True)
class _Tables:
    """Linear maps between the F bins of WORLD's spectra, P points and B bands.

    Attributes:
        bins_to_points: (F, P), average around each point.
        points_to_bins: (P, F), linear interpolation on the mel scale.
        bins_to_bands: (F, B), average over each band.
        bands_to_bins: (B, F), linear interpolation in frequency.
        average: float32 (P, P), moving average over points.
    """

    bins_to_points: np.ndarray
    points_to_bins: np.ndarray
    bins_to_bands: np.ndarray
    bands_to_bins: np.ndarray
    average: np.ndarray


@functools.lru_cache(maxsize=4)
def _tables(sample_rate: int, points: int) -> _Tables:
    half = sample_rate / 2
    size = import_pyworld().get_cheaptrick_fft_size(sample_rate)
    bins = np.arange(size // 2 + 1) * sample_rate / size
    highest = half - 2.5 * _LOWEST_POINT
    mels = np.linspace(_to_mel(_LOWEST_POINT), _to_mel(highest), points)
    centres = 700 * (10 ** (mels / 2595) - 1)
    # Triangles between neighbouring points; near 0 Hz they still cover a bin.
    lower = np.minimum(np.append(0.0, centres[:-1]), centres - bins[1])
    upper = np.maximum(np.append(centres[1:], half), centres + bins[1])
    rising = (bins[:, None] - lower) / (centres - lower)
    falling = (upper - bins[:, None]) / (upper - centres)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    edges = _APERIODICITY_EDGES * half
    inside = (bins[:, None] >= edges[:-1]) & (bins[:, None] < edges[1:])
    middles = (edges[:-1] + edges[1:]) / 2
    return _Tables(
        bins_to_points=triangles / triangles.sum(axis=0),
        points_to_bins=_interpolation(_to_mel(bins), mels),
        bins_to_bands=inside / inside.sum(axis=0),
        bands_to_bins=_interpolation(bins, middles),
        average=_moving_average(points),
    )


def _to_mel(frequency: np.ndarray | float) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


def _interpolation(positions: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Matrix (knots, positions) of linear interpolation, constant beyond the outer knots."""
    return np.stack([np.interp(positions, knots, unit) for unit in np.eye(len(knots))])


def _moving_average(points: int) -> np.ndarray:
    """Matrix (P, P) of the average over neighbours, edges repeated."""
    offsets = np.arange(-_ENHANCED_REACH, _ENHANCED_REACH + 1)
    neighbours = np.clip(np.arange(points)[:, None] + offsets, 0, points - 1)
    average = np.zeros((points, points))
    np.add.at(average, (neighbours, np.arange(points)[:, None]), 1 / len(offsets))
    return average.astype(np.float32)


def _log_power(envelope: np.ndarray) -> np.ndarray:
    """Half the logarithm of the sum of powers: (frames, P) -> (frames,)."""
    peak = envelope.max(axis=1, keepdims=True)
    return 0.5 * np.log(np.exp(2 * (envelope - peak)).sum(axis=1)) + peak[:, 0]
