"""Rows of the arrangement "frames": units beside codes, one segment a row, nothing lost."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from data_pipeline.datasets.token_records import Record
from data_pipeline.loading.loader import Loader
from data_pipeline.loading.token_rows import build_frames_row
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout

LAYOUT = TokenLayout(20, 3, 16, 50.0, 50.0)
PACKING = PackingConfig(
    sequence_length=1, frame_budget=100, crop_seconds=2.0, seed=3, arrangement="frames"
)
SILENCE_UNIT = 7


def _record(number: int, speaker: str) -> Record:
    """0.3 to 2.5 s; the second codebook says which record a frame is of, units are the first."""
    random = np.random.default_rng(number)
    size = int(random.integers(15, 125))
    codes = random.integers(0, 16, (3, size))
    codes[1] = number
    units = np.append(codes[0], 3)[: size + number % 2]  # every other has one unit more
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker=speaker,
        language="und",
        text=None,
        start=0.0,
        end=size / 50,
        units=units.astype(np.uint16),
        codes=codes.astype(np.uint16),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_dataset):
    path = tmp_path_factory.mktemp("frames")
    corpus = [_record(number, "ab"[number % 2]) for number in range(15)]
    spec = write_dataset(path, {"train": corpus}, shards=2)
    codec = dataclasses.replace(spec.codec, frame_rate=50.0)
    silence = dataclasses.replace(
        spec.silence, units=(SILENCE_UNIT,) * 5, codes=((SILENCE_UNIT,) * 5, (15,) * 5, (3,) * 5)
    )
    dataclasses.replace(spec, codec=codec, silence=silence).sealed().save(path)
    return path, corpus


def _rows(path, **options):
    loader = Loader(path, "train", PACKING, 2, repeat=False, **options)
    batches = list(loader)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, loader


def test_an_epoch_holds_every_frame_once_with_its_unit(dataset):
    path, corpus = dataset
    rows, _ = _rows(path)
    real = rows["segment_ids"] == 1
    silence = rows["codes"][..., 1] == 15
    spoken = real & ~silence
    np.testing.assert_array_equal(rows["units"][spoken], rows["codes"][spoken][:, 0])
    assert (rows["units"][real & silence] == SILENCE_UNIT).all()
    counts = Counter(rows["codes"][spoken][:, 1].tolist())
    # A record that was cut in two may lose a frame where its streams differ by one.
    for number, record in enumerate(corpus):
        assert record.codes.shape[1] - 1 <= counts[number] <= record.codes.shape[1]


def test_a_row_is_one_segment_of_one_speaker_padded_on_the_right(dataset):
    rows, loader = _rows(dataset[0])
    for segment, codes in zip(rows["segment_ids"], rows["codes"], strict=True):
        size = int(segment.sum())
        np.testing.assert_array_equal(segment, np.arange(len(segment)) < size)
        numbers = codes[:size, 1]
        assert len({int(number) % 2 for number in numbers[numbers != 15]}) <= 1
    assert loader.plan.efficiency()["frames"] > 0.8


def test_state_of_frames_rows_is_a_row_number(dataset):
    first = Loader(dataset[0], "train", PACKING, 2)
    for _ in range(3):
        next(first)
    second = Loader(dataset[0], "train", PACKING, 2)
    second.set_state(first.get_state())
    expected = next(first)
    for name, array in next(second).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_part_with_one_unit_more_loses_it():
    units, codes = np.arange(5), np.arange(12).reshape(3, 4)
    row = build_frames_row(LAYOUT, PACKING, [[(units, codes), (units[:4], codes)]])
    assert int(row["segment_ids"].sum()) == 8
    np.testing.assert_array_equal(row["units"][:8], [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(row["codes"][4:8], codes.T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"frame_budget": 99}, "frame_budget 99"), ({"deduplicate": True}, "deduplicate")],
)
def test_what_does_not_fit_is_refused(dataset, changes, message):
    def read():
        packing = dataclasses.replace(PACKING, positions="running", **changes)
        next(Loader(dataset[0], "train", packing, 2))

    with pytest.raises(UserError, match=message):
        read()


def test_streams_of_different_rates_are_refused(tmp_path, write_dataset, make_token_record):
    write_dataset(tmp_path, {"train": [make_token_record(1)]}, shards=1)
    with pytest.raises(UserError, match="75 Hz"):
        next(Loader(tmp_path, "train", PACKING, 2))
