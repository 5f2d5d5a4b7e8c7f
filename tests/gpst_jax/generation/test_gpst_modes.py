"""The inference modes: which tokens are given and which are sampled."""

import jax
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import RequestBuilder, join
from gpst_jax.generation.gpst_requests import next_times, prefix_times
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.models import gpst

LAYOUT = TokenLayout(num_units=12, num_codebooks=3, codebook_size=8, unit_rate=50, frame_rate=75)
SILENCE = (np.array([7, 7, 7, 7, 7]), np.full((3, 8), 2))


def speech(seconds: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 12, round(seconds * 50))
    return units, rng.integers(0, 8, (3, round(seconds * 75)))


def make_decoder(block: str) -> Decoder:
    config = GPSTConfig(
        TransformerConfig(32, 2, 4, 64), TransformerConfig(16, 1, 2, 32), block=block
    )
    params = gpst.init(config, LAYOUT, jax.random.key(0))
    return Decoder(config, LAYOUT, params, "time" if block == "modern" else "running")


@pytest.fixture(scope="module", params=["modern", "paper"])
def decoder(request) -> Decoder:
    return make_decoder(request.param)


def builder(deduplicated: bool = False) -> RequestBuilder:
    return RequestBuilder(LAYOUT, SILENCE, deduplicated)


def test_transfer_puts_silence_in_both_streams():
    """Behaviour 16: 0.1 s is 5 raw units, and 7 to 8 codec frames, after the prompt."""
    prompt, target = speech(3.0, 1), speech(0.6, 2)
    request = builder().speaker_transfer([prompt], [target], item=0)
    expected = np.concatenate([prompt[0], SILENCE[0], target[0]])
    np.testing.assert_array_equal(request.units, expected)
    np.testing.assert_array_equal(request.codes, np.concatenate([prompt[1], SILENCE[1]], axis=1))
    assert request.codes.shape[1] - prompt[1].shape[1] in (7, 8)


def test_deduplicated_silence_is_one_unit():
    """Behaviour 16: after collapsing, the silence of one repeated unit adds one unit."""
    prompt = (np.array([1, 1, 2]), np.zeros((3, 4), int))
    target = (np.array([3, 3]), np.zeros((3, 3), int))
    request = builder(deduplicated=True).speaker_transfer([prompt], [target], item=0)
    np.testing.assert_array_equal(request.units, [1, 2, 7, 3])


def test_transfer_returns_only_the_target(decoder):
    """Behaviour 15: prompt and silence frames are not part of the result."""
    target = speech(0.4, 2)
    request = builder().speaker_transfer([speech(1.0, 1)], [target], item=0)
    (result,) = decoder.decode([request])
    assert result.codes.shape == target[1].shape
    assert result.codes.min() >= 0
    assert result.codes.max() < 8


def test_transfer_positions_are_those_of_training():
    """The prompt of a transfer stands where a joined training segment puts it."""
    prompt, target = speech(0.5, 1), speech(0.4, 2)
    request = builder().speaker_transfer([prompt], [target], item=0)
    segment = segment_tokens(LAYOUT, [prompt, SILENCE, target])
    unit_times, frame_times = prefix_times(LAYOUT, request)
    given = len(request.units)
    np.testing.assert_array_equal(unit_times, segment["positions"][1 : given + 1])
    first = given + 2
    np.testing.assert_array_equal(
        frame_times, segment["positions"][first : first + request.codes.shape[1]]
    )
    next_position = segment["positions"][first + request.codes.shape[1]]
    assert next_times(LAYOUT, request)[1] + LAYOUT.ticks_per_frame == next_position


def test_continuation_keeps_the_prefix_and_the_length(decoder):
    speech_part = speech(0.8, 3)
    request = builder().continuation([speech_part], 0.3, item=0)
    assert request.codes.shape[1] == round(0.3 * 75)
    np.testing.assert_array_equal(request.units, speech_part[0])
    (result,) = decoder.decode([request])
    assert request.codes.shape[1] + result.codes.shape[1] == speech_part[1].shape[1]


def test_what_follows_stands_where_training_puts_it():
    """Units, then frames, after a beginning: positions are those of one segment."""
    whole = speech(1.0, 3)
    before = builder().beginning([whole], 0.41)  # an odd unit would end within a frame
    assert (len(before[0]), before[1].shape[1]) == (20, 30)
    segment = segment_tokens(LAYOUT, [whole])
    more = builder().more_units([before], 0.6, item=0)
    assert (len(more.units), more.max_units, more.max_frames) == (20, 30, 0)
    first_unit = next_times(LAYOUT, more)[0] + LAYOUT.ticks_per_unit
    assert first_unit == segment["positions"][1 + 20]
    request = builder().more_frames([before], whole[0][20:], item=0)
    np.testing.assert_array_equal(request.units, whole[0])
    assert (request.codes.shape[1], request.max_frames, request.min_frames) == (30, 45, 45)
    first_frame = next_times(LAYOUT, request)[1] + LAYOUT.ticks_per_frame
    assert first_frame == segment["positions"][50 + 2 + 30]


def test_sampled_units_without_durations_have_a_longest_time():
    """De-duplicated units do not say how long they last: the request does."""
    before, few = speech(0.4, 1), np.array([1, 2, 3])
    request = builder(deduplicated=True).more_frames([before], few, item=0, most_seconds=2.0)
    assert (request.min_frames, request.max_frames) == (0, 150)
    nothing = builder(deduplicated=True).more_frames([before], few[:0], item=0, most_seconds=2.0)
    assert nothing.max_frames == 0


def test_unconditional_units_can_be_rendered(decoder):
    (units,) = decoder.decode([builder().unconditional(0.5, item=0)])
    assert len(units.units) <= 25
    assert units.codes.shape == (3, 0)
    assert set(units.units) <= set(range(12))
    if len(units.units):
        request = builder().semantic_to_acoustic(units.units, item=1)
        (rendered,) = decoder.decode([request])
        assert rendered.codes.shape[1] == LAYOUT.frames_for_units(len(units.units))


def test_the_end_stops_before_the_cap():
    """Behaviour 15: where durations are unknown, some items end by themselves."""
    decoder = make_decoder("paper")
    requests = [
        builder(deduplicated=True).semantic_to_acoustic(speech(0.8, seed)[0], item=seed)
        for seed in range(16)
    ]
    results = decoder.decode(requests)
    ended = [result for result in results if result.frames_ended]
    assert ended
    for result, request in zip(results, requests, strict=True):
        assert result.codes.shape[1] <= request.max_frames
        assert result.frames_ended == (result.codes.shape[1] < request.max_frames)


def test_items_do_not_depend_on_their_batch(decoder):
    requests = [
        builder().semantic_to_acoustic(speech(seconds, 5)[0], item=index)
        for index, seconds in enumerate((0.2, 0.5, 0.3))
    ]
    sampling = SamplingConfig(temperature=0.9, top_k=4)
    together = decoder.decode(requests, acoustic=sampling, batch_size=2)
    for request, result in zip(requests, together, strict=True):
        (alone,) = decoder.decode([request], acoustic=sampling)
        np.testing.assert_array_equal(alone.codes, result.codes)


def test_joined_parts_are_separated_by_silence():
    stretches = [speech(0.2, seed) for seed in range(3)]
    parts = join(stretches, SILENCE)
    assert len(parts) == 5
    np.testing.assert_array_equal(parts[1][0], SILENCE[0])
    np.testing.assert_array_equal(parts[3][1], SILENCE[1])
