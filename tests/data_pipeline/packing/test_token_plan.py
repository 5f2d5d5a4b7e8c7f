"""The packing plan: nothing lost, nothing twice, streams aligned, budgets held, rows full."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline.datasets.token_dataset import LengthIndex, SilenceSpec
from data_pipeline.packing.token_plan import PackingConfig, PackingPlan, Segment
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout

RATES = [(50.0, 75.0), (50.0, 50.0), (25.0, 12.5), (50.0, 86.1328125)]


def _layout(unit_rate: float = 50.0, frame_rate: float = 75.0) -> TokenLayout:
    return TokenLayout(100, 2, 64, unit_rate, frame_rate)


def _silence(layout: TokenLayout) -> SilenceSpec:
    units, frames = int(np.ceil(0.1 * layout.unit_rate)), int(np.ceil(0.1 * layout.frame_rate))
    return SilenceSpec(0.1, (3,) * units, ((5,) * frames,) * layout.num_codebooks)


def _index(
    layout: TokenLayout, seconds: np.ndarray, speakers: list[str], seed: int = 0
) -> LengthIndex:
    """Records of these durations, random speakers; frames off by up to one, as of tokenizers."""
    random = np.random.default_rng(seed)
    units = np.ceil(seconds * layout.unit_rate).astype(np.int32)
    exact = units * layout.frame_rate / layout.unit_rate
    frames = random.integers(np.maximum(1, np.ceil(exact - 1)), np.floor(exact + 1) + 1)
    size = len(units)
    return LengthIndex(
        units=units,
        units_dedup=np.maximum(1, (units * random.uniform(0.5, 1, size))).astype(np.int32),
        frames=frames.astype(np.int32),
        speaker=random.integers(0, len(speakers), size).astype(np.int32),
        language=np.zeros(size, np.int32),
        speakers=tuple(speakers),
        languages=("und",),
    )


def _durations(seed: int, size: int = 300) -> np.ndarray:
    """From 0.1 s to 25 s, with many short ones."""
    random = np.random.default_rng(seed)
    long = random.uniform(5, 25, size)
    return np.where(random.random(size) < 0.6, random.uniform(0.1, 4, size), long)


def _plan(layout: TokenLayout, index: LengthIndex, crop: float = 4.0, **changes) -> PackingPlan:
    length = int(crop * (layout.unit_rate + layout.frame_rate)) + 2
    values = {
        "sequence_length": 2 * length + 40,
        "frame_budget": 2 * int(crop * layout.frame_rate) + 12,
        "crop_seconds": crop,
        **changes,
    }
    return PackingPlan(PackingConfig(**values), layout, index, _silence(layout))


def _rows(plan: PackingPlan, epoch: int = 0) -> list[list[Segment]]:
    first = sum(plan.num_rows(p) for p in range(epoch))
    return [plan.row(first + row) for row in range(plan.num_rows(epoch))]


def _lengths(plan: PackingPlan, segment: Segment) -> tuple[int, int]:
    """Raw units and frames of a segment, silence included."""
    silence = _silence(plan.layout)
    joints = len(segment.pieces) - 1
    units = sum(p.units[1] - p.units[0] for p in segment.pieces) + joints * len(silence.units)
    frames = sum(p.frames[1] - p.frames[0] for p in segment.pieces)
    return units, frames + joints * len(silence.codes[0])


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("seed", range(4))
def test_every_unit_is_used_exactly_once_per_epoch(rates: tuple[float, float], seed: int) -> None:
    layout = _layout(*rates)
    index = _index(layout, _durations(seed), ["a", "b", "c", "unknown"], seed)
    plan = _plan(layout, index, seed=seed)
    for epoch in (0, 1):
        units = [np.zeros(size, int) for size in index.units]
        frames = [np.zeros(size, int) for size in index.frames]
        for segment in (s for row in _rows(plan, epoch) for s in row):
            for piece in segment.pieces:
                units[piece.record][slice(*piece.units)] += 1
                frames[piece.record][slice(*piece.frames)] += 1
        assert all((used == 1).all() for used in units)
        if rates[1] != 86.1328125:  # there a cut may fall inside a frame, which goes to one side
            assert all((used == 1).all() for used in frames)


@pytest.mark.parametrize("rates", RATES)
def test_rows_without_units_hold_more_speech(rates: tuple[float, float]) -> None:
    layout = _layout(*rates)
    index = _index(layout, _durations(3), ["a", "b", "unknown"])
    budget = 2 * int(4.0 * layout.frame_rate) + 12
    length = budget + 4
    plan = _plan(layout, index, units="none", sequence_length=length, frame_budget=budget)
    with_units = _plan(layout, index)
    used = [np.zeros(size, int) for size in index.frames]
    for row in _rows(plan):
        frames = [_lengths(plan, segment)[1] for segment in row]
        assert sum(frames) + 2 * len(row) <= length
        assert sum(frames) + len(row) <= budget
        for piece in (piece for segment in row for piece in segment.pieces):
            used[piece.record][slice(*piece.frames)] += 1
    if rates[1] != 86.1328125:
        assert all((of_record == 1).all() for of_record in used)
    assert plan.efficiency()["positions"] > 0.9
    assert plan.fingerprint != with_units.fingerprint
    need = 2 + int(4.0 * layout.frame_rate) - 1
    with pytest.raises(UserError, match="raise these or lower crop_seconds"):
        _plan(layout, index, units="none", sequence_length=need // 2, frame_budget=budget)


@pytest.mark.parametrize("rates", RATES)
def test_pieces_are_aligned_bounded_and_of_one_speaker(rates: tuple[float, float]) -> None:
    layout = _layout(*rates)
    index = _index(layout, _durations(7), ["a", "b", "unknown"])
    plan = _plan(layout, index)
    least = int(np.ceil(0.1 * layout.unit_rate))
    cut, joined = 0, 0
    for segment in (s for row in _rows(plan) for s in row):
        assert len({index.speaker[piece.record] for piece in segment.pieces}) == 1
        if index.speakers[index.speaker[segment.pieces[0].record]] == "unknown":
            assert len(segment.pieces) == 1
        units, frames = _lengths(plan, segment)
        assert units <= 4.0 * layout.unit_rate
        assert frames <= 4.0 * layout.frame_rate
        joined += len(segment.pieces) > 1
        for piece in segment.pieces:
            count = piece.units[1] - piece.units[0]
            taken = piece.frames[1] - piece.frames[0]
            assert abs(taken - count * layout.frame_rate / layout.unit_rate) <= 1
            assert piece.frames[0] == int(piece.units[0] * layout.frame_rate / layout.unit_rate)
            assert count >= min(least, index.units[piece.record])
            cut += count < index.units[piece.record]
    assert cut > 50
    assert joined > 20


def test_rows_leave_positions_free_for_each_segment() -> None:
    layout = _layout()
    index = _index(layout, _durations(3), ["a", "b", "c"])
    plans, fullest = [_plan(layout, index, spare_positions=spare) for spare in (0, 25)], []
    for plan in plans:
        rows = [np.array([_lengths(plan, segment) for segment in row]) for row in _rows(plan)]
        fullest.append(max((lengths.sum(axis=1) + 2 + 25).sum() for lengths in rows))
    assert fullest[1] <= plans[1].config.sequence_length < fullest[0]
    assert plans[0].fingerprint == _plan(layout, index).fingerprint != plans[1].fingerprint
    units, frames = 200, 300
    with pytest.raises(UserError, match=f"takes up to {2 + units + frames + 7} positions"):
        _plan(layout, index, sequence_length=2 + units + frames + 6, spare_positions=7)


@pytest.mark.parametrize("join_speakers", [True, False])
def test_rows_hold_their_budgets(join_speakers: bool) -> None:
    layout = _layout()
    plan = _plan(layout, _index(layout, _durations(3), ["a"]), join_speakers=join_speakers)
    several = 0
    for row in _rows(plan):
        assert row
        lengths = np.array([_lengths(plan, segment) for segment in row])
        assert (lengths.sum(axis=1) + 2).sum() <= plan.config.sequence_length
        assert (lengths[:, 1] + 1).sum() <= plan.config.frame_budget
        several += len(row) > 1
        if not join_speakers:
            assert all(len(segment.pieces) == 1 for segment in row)
    assert several


def test_plan_is_a_function_of_its_seed_and_epoch() -> None:
    layout = _layout()
    index = _index(layout, _durations(1), ["a", "b"])
    plan, again = _plan(layout, index, seed=5), _plan(layout, index, seed=5)
    # The second plan is asked for its last epoch first: a row depends on no earlier call.
    assert _rows(again, 2) == _rows(plan, 2)
    assert _rows(again, 0) == _rows(plan, 0)
    assert again.fingerprint == plan.fingerprint
    assert _rows(plan, 0) != _rows(plan, 1)
    other = _plan(layout, index, seed=6)
    assert _rows(other, 0) != _rows(plan, 0)
    assert other.fingerprint != plan.fingerprint


def test_fingerprint_covers_lengths_and_speakers() -> None:
    layout = _layout()
    index = _index(layout, _durations(1), ["a", "b"])
    fingerprints = {_plan(layout, index).fingerprint}
    for name in ("units", "frames", "speaker"):
        changed = getattr(index, name).copy()
        changed[0] = 1 - changed[0] if name == "speaker" else changed[0] + 1
        other = dataclasses.replace(index, **{name: changed})
        fingerprints.add(_plan(layout, other).fingerprint)
    fingerprints.add(_plan(layout, dataclasses.replace(index, speakers=("a", "c"))).fingerprint)
    assert len(fingerprints) == 5


def test_row_numbers_continue_over_epochs() -> None:
    layout = _layout()
    index = _index(layout, _durations(2), ["a", "b"])
    plan = _plan(layout, index)
    starts = np.cumsum([0] + [plan.num_rows(p) for p in range(5)])
    for number, (first, end) in enumerate(itertools.pairwise(starts)):
        assert plan.locate(int(first)) == plan.locate(int(end) - 1) == (number, first)
    resumed = _plan(layout, index)
    resumed.remember(4, int(starts[4]))
    assert resumed.locate(int(starts[4]) + 3) == (4, starts[4])
    assert resumed.row(int(starts[4])) == plan.row(int(starts[4]))
    assert resumed.locate(int(starts[2])) == (2, starts[2])


@pytest.mark.parametrize("seed", range(3))
def test_deduplicated_plans_take_whole_records_once(seed: int) -> None:
    layout = _layout()
    random = np.random.default_rng(seed)
    index = _index(layout, random.uniform(0.1, 9.9, 400), ["a", "b", "unknown"], seed)
    plan = _plan(
        layout, index, 10.0, deduplicate=True, positions="running", sequence_length=1400, seed=seed
    )
    used = np.zeros(len(index), int)
    gap = len(_silence(layout).codes[0]) + 1  # silence of one repeated unit collapses to one
    joined = 0
    for row in _rows(plan):
        positions = predicted = 0
        for segment in row:
            records = [piece.record for piece in segment.pieces]
            assert len(set(index.speaker[records])) == 1
            for piece in segment.pieces:
                assert piece.units == (0, index.units[piece.record])
                assert piece.frames == (0, index.frames[piece.record])
                used[piece.record] += 1
            joints = len(records) - 1
            joined += joints
            positions += 2 + int((index.units_dedup + index.frames)[records].sum()) + joints * gap
            predicted += _lengths(plan, segment)[1] + 1
            assert _lengths(plan, segment)[0] <= 500
        assert positions <= 1400
        assert predicted <= plan.config.frame_budget
    assert (used == 1).all()
    assert joined


def test_librispeech_like_lengths_fill_the_rows() -> None:
    random = np.random.default_rng(0)
    seconds = np.where(
        random.random(6000) < 0.75, random.normal(14, 1.5, 6000), random.uniform(1.5, 14, 6000)
    )
    layout = _layout()
    index = _index(layout, seconds.clip(1.3, 30), [str(i) for i in range(50)])
    plan = _plan(layout, index, 10.0, sequence_length=1280, frame_budget=751)
    real = np.array([_lengths(plan, s) for row in _rows(plan) for s in row])
    efficiency = plan.efficiency()
    assert efficiency["positions"] >= 0.95
    assert efficiency["frames"] >= 0.98
    # The fractions are exact, not an estimate.
    assert efficiency["positions"] == (real.sum() + 2 * len(real)) / (plan.num_rows(0) * 1280)
    assert efficiency["frames"] == (real[:, 1] + 1).sum() / (plan.num_rows(0) * 751)


@pytest.mark.parametrize(
    ("low", "high", "speakers", "crop"),
    [
        (0.6, 3.0, 4, 4.0),  # digit strings, joined
        (0.6, 3.0, 0, 4.0),  # nobody is known: nothing may be joined
        (4.0, 20.0, 400, 10.0),  # a handful of utterances of each speaker
        (11.0, 16.0, 0, 10.0),  # a crop and a bit, each its own segment
    ],
)
def test_other_lengths_fill_the_rows_too(
    low: float, high: float, speakers: int, crop: float
) -> None:
    layout = _layout()
    seconds = np.random.default_rng(0).uniform(low, high, 3000)
    names = [str(name) for name in range(speakers)] or ["unknown"]
    predicted = int(75 * crop) + 1
    plan = _plan(
        layout,
        _index(layout, seconds, names),
        crop,
        sequence_length=int(50 * crop) + predicted + 1,
        frame_budget=predicted,
    )
    assert min(plan.efficiency().values()) >= 0.95


def test_long_and_short_rows_are_mixed() -> None:
    layout = _layout()
    plan = _plan(layout, _index(layout, _durations(5, 2000), ["unknown"]), join_speakers=False)
    sizes = np.array([len(row) for row in _rows(plan)])
    first, second = np.array_split(sizes, 2)
    assert abs(first.mean() - second.mean()) < 0.15 * sizes.mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 400}, "takes up to 502 positions"),
        ({"frame_budget": 300}, "301 predicted frames"),
        ({"crop_seconds": 0.2}, "too short"),
        ({"crop_seconds": -1.0}, "must be positive"),
        ({"deduplicate": True}, "set positions to running"),
        ({"deduplicate": True, "positions": "running"}, "chunk_seconds"),
    ],
)
def test_impossible_settings_say_what_to_change(changes: dict, message: str) -> None:
    layout = _layout()
    index = _index(layout, np.array([8.0, 2.0]), ["a"])
    with pytest.raises(UserError, match=message):
        _plan(layout, index, **changes)
