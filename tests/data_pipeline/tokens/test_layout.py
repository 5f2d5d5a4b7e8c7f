"""The token layout: ids and their inverse, targets, and times of joined parts."""

from fractions import Fraction

import numpy as np
import pytest

from data_pipeline import tokens
from data_pipeline.tokens import EOS, NO_TARGET, PAD, TokenLayout

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)


def _part(num_units, num_frames, layout=LAYOUT, seed=0):
    rng = np.random.default_rng(seed)
    units = rng.integers(layout.num_units, size=num_units)
    return units, rng.integers(layout.codebook_size, size=(layout.num_codebooks, num_frames))


def test_sizes_of_the_published_vocabularies():
    layout = TokenLayout(10_000, 8, 1024)
    assert layout.semantic_vocab == 10_004
    assert layout.acoustic_vocab == 8196
    assert layout.global_vocab == 18_200
    assert layout.acoustic_classes == 1028


def test_layout_of_a_segment_by_hand():
    units, codes = np.array([7, 0]), np.array([[0, 4, 1], [2, 0, 3], [4, 4, 0]])
    out = tokens.segment_tokens(LAYOUT, [(units, codes)], positions="running")
    eos = 2 + 15  # ids of the acoustic stream begin after 4 + 11 semantic ones
    assert out["tokens"].tolist() == [
        [2, 1, 1],
        [11, 1, 1],
        [4, 1, 1],
        [eos, eos, eos],
        [15 + 4, 15 + 9 + 2, 15 + 14 + 4],
        [15 + 4 + 4, 15 + 9, 15 + 14 + 4],
        [15 + 4 + 1, 15 + 9 + 3, 15 + 14],
    ]
    assert out["frames"].tolist() == [[4, 11, 18], [8, 9, 18], [5, 12, 14], [2, 2, 2]]
    assert out["semantic_targets"].tolist() == [11, 4, 2, -1, -1, -1, -1]
    assert out["streams"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert out["frame_index"].tolist() == [3, 4, 5, 6]
    assert out["positions"].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("num_units", "num_frames"), [(0, 0), (1, 1), (4, 6), (7, 2), (0, 5)])
def test_counts_of_positions_and_targets(num_units, num_frames):
    units, codes = _part(num_units, num_frames)
    out = tokens.segment_tokens(LAYOUT, [(units, codes)])
    length = num_units + num_frames + 2
    assert out["tokens"].shape == (length, 3)
    assert all(len(out[name]) == length for name in ("positions", "streams", "semantic_targets"))
    assert (out["semantic_targets"] != NO_TARGET).sum() == num_units + 1
    assert out["frames"].shape == (num_frames + 1, 3)
    assert len(out["frame_index"]) == num_frames + 1
    # The semantic end is a target only, never an input after the first position.
    assert (out["tokens"][1:] != EOS).all()
    assert (out["tokens"][num_units + 1] == LAYOUT.bos_acoustic).all()
    # The hidden state of a stack predicts the stack after it.
    shifted = out["tokens"][out["frame_index"][1:]] - LAYOUT.semantic_vocab
    np.testing.assert_array_equal(shifted, out["frames"][:-1])
    assert all(array.dtype == np.int32 for array in out.values())


def test_codes_survive_the_round_trip_in_every_codebook():
    codes = np.tile(np.arange(5), (3, 1))
    ids = LAYOUT.codes_to_ids(codes)
    assert len(np.unique(ids)) == ids.size == 15  # a row of its own for each code of each codebook
    np.testing.assert_array_equal(LAYOUT.ids_to_codes(ids), codes)
    np.testing.assert_array_equal(LAYOUT.ids_to_classes(ids) - 4, codes.T)


def test_the_end_is_class_2_in_every_codebook():
    assert LAYOUT.ids_to_classes(np.full((1, 3), EOS)).tolist() == [[2, 2, 2]]


def test_units_survive_the_round_trip():
    units = np.arange(LAYOUT.num_units)
    np.testing.assert_array_equal(LAYOUT.ids_to_units(LAYOUT.units_to_ids(units)), units)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_stored_dtypes_do_not_overflow(dtype):
    layout = TokenLayout(65_535, 64, 1024)
    units = np.array([65_534], dtype)
    assert layout.units_to_ids(units).tolist() == [65_538]
    assert layout.codes_to_ids(np.full((64, 1), 1023, dtype))[0, 63] == 4 + 64 * 1024 - 1


@pytest.mark.parametrize("bad", [-1, 11])
def test_units_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"semantic unit.*{bad}"):
        LAYOUT.units_to_ids(np.array([0, bad]))


@pytest.mark.parametrize("bad", [-1, 5])
def test_codes_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"acoustic code.*{bad}"):
        LAYOUT.codes_to_ids(np.full((3, 2), bad))


def test_codes_of_another_depth_are_refused():
    with pytest.raises(ValueError, match=r"codes must be \(3, T\)"):
        LAYOUT.codes_to_ids(np.zeros((4, 2), int))


def test_a_code_of_another_codebook_is_not_read_back():
    ids = LAYOUT.codes_to_ids(np.zeros((3, 1), int))
    with pytest.raises(ValueError, match="acoustic code"):
        LAYOUT.ids_to_codes(ids[:, ::-1])


@pytest.mark.parametrize(
    ("units", "collapsed", "counts"),
    [
        ([], [], []),
        ([3], [3], [1]),
        ([3, 3, 3], [3], [3]),
        ([1, 1, 2, 1, 1, 1, 0], [1, 2, 1, 0], [2, 1, 3, 1]),
    ],
)
def test_deduplication_and_its_inverse(units, collapsed, counts):
    got, lengths = tokens.deduplicate(np.array(units, int))
    assert got.tolist() == collapsed
    assert lengths.tolist() == counts
    assert np.repeat(got, lengths).tolist() == units


def test_deduplication_follows_the_crop():
    """A run that is cut by a crop keeps its remaining length, and both streams stay aligned."""
    units = np.repeat([4, 4, 9, 2, 2, 7], 3)
    codes = _part(0, LAYOUT.frames_for_units(len(units)))[1]
    start, length = 5, 8
    first = LAYOUT.frame_at_unit(start)
    cropped = units[start : start + length]
    frames = codes[:, first : first + LAYOUT.frames_for_units(length)]
    assert abs(frames.shape[1] - 1.5 * len(cropped)) <= 1
    collapsed, counts = tokens.deduplicate(cropped)
    assert collapsed.tolist() == [4, 9, 2]
    np.testing.assert_array_equal(np.repeat(collapsed, counts), cropped)
    out = tokens.segment_tokens(LAYOUT, [(cropped, frames)], positions="running", deduplicated=True)
    assert out["tokens"][1:4, 0].tolist() == [8, 13, 6]
    assert len(out["frames"]) == frames.shape[1] + 1


def test_parts_are_collapsed_one_by_one():
    """Silence between two parts never merges with a part, so that lengths stay predictable."""
    none = np.zeros((3, 0), int)
    out = tokens.segment_tokens(
        LAYOUT,
        [(np.array([1, 1]), none), (np.array([1]), none)],
        positions="running",
        deduplicated=True,
    )
    assert out["tokens"][1:3, 0].tolist() == [5, 5]


def test_deduplicated_units_have_no_time_positions():
    with pytest.raises(ValueError, match="running"):
        tokens.segment_tokens(LAYOUT, [_part(2, 3)], positions="time", deduplicated=True)
    with pytest.raises(ValueError, match="'time' or 'running'"):
        tokens.segment_tokens(LAYOUT, [_part(2, 3)], positions="seconds")


def test_joining_parts_concatenates_both_streams():
    parts = [_part(2, 3, seed=1), _part(4, 6, seed=2)]
    joined = tokens.segment_tokens(LAYOUT, parts)
    units = np.concatenate([units for units, _ in parts])
    codes = np.concatenate([codes for _, codes in parts], axis=1)
    whole = tokens.segment_tokens(LAYOUT, [(units, codes)])
    for name in ("tokens", "frames", "semantic_targets", "frame_index", "streams"):
        np.testing.assert_array_equal(joined[name], whole[name])


@pytest.mark.parametrize(
    ("unit_rate", "frame_rate", "tick_rate"),
    [(50, 75, 150), (12.5, 50, 50), (50, 50, 50), (25, 12.5, 25), (50, 86.1328125, None)],
)
def test_ticks_measure_seconds(unit_rate, frame_rate, tick_rate):
    layout = TokenLayout(11, 3, 5, unit_rate, frame_rate)
    if tick_rate:
        assert layout.tick_rate == tick_rate
    assert layout.ticks_per_unit / layout.tick_rate == pytest.approx(1 / unit_rate, rel=1e-4)
    assert layout.ticks_per_frame / layout.tick_rate == pytest.approx(1 / frame_rate, rel=1e-4)


@pytest.mark.parametrize(("unit_rate", "frame_rate"), [(50, 75), (12.5, 50), (50, 12.5)])
def test_times_stay_aligned_over_joins(unit_rate, frame_rate):
    """Both streams of a part start at the same time, where the longer previous stream ends."""
    layout = TokenLayout(11, 3, 5, unit_rate, frame_rate)
    # Lengths that both rates round: without a common start the streams would drift apart.
    lengths = [(n, layout.frames_for_units(n)) for n in (3, 1, 5, 7, 2)]
    units, frames = tokens.part_times(layout, lengths)
    start, unit_at, frame_at = Fraction(0), 0, 0
    for num_units, num_frames in lengths:
        for i in range(num_units):
            time = units[unit_at + i] / layout.tick_rate
            assert time == start + (i + 1) / Fraction(unit_rate)
        for t in range(num_frames):
            time = frames[frame_at + t] / layout.tick_rate
            assert time == start + (t + 1) / Fraction(frame_rate)
        start += max(num_units / Fraction(unit_rate), num_frames / Fraction(frame_rate))
        unit_at, frame_at = unit_at + num_units, frame_at + num_frames
    assert (unit_at, frame_at) == (len(units), len(frames))


def test_positions_in_time_of_a_segment():
    out = tokens.segment_tokens(LAYOUT, [_part(2, 3), _part(1, 2)])
    #                      BOS units     joined at 6     BOS frames   joined at 6
    assert out["positions"].tolist() == [0, 3, 6, 9, 0, 2, 4, 6, 8, 10]


def test_frames_and_units_of_a_crop():
    for start in range(20):
        for length in range(1, 20):
            frames = LAYOUT.frames_for_units(length)
            assert abs(frames - 1.5 * length) <= 1
            # The first frame begins at or before the first unit, by less than a frame.
            assert (
                0
                <= Fraction(start, 50) - Fraction(LAYOUT.frame_at_unit(start), 75)
                < (Fraction(1, 75))
            )


def test_padding_is_not_a_unit_or_code():
    assert PAD not in LAYOUT.units_to_ids(np.arange(11))
    assert PAD not in LAYOUT.codes_to_ids(np.tile(np.arange(5), (3, 1)))


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        _ = TokenLayout(11, 3, 5, unit_rate=0).tick_rate
