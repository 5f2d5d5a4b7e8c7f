"""The loader: complete epochs, the same batches for any number of hosts, exact resume."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_dataset import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from data_pipeline.datasets.token_records import Record, RecordError, ShardWriter
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import EOS, PAD, deduplicate

NUM_UNITS, CODEBOOKS, CODEBOOK_SIZE = 20, 3, 16
SHARDS = 3
SILENCE = SilenceSpec(0.1, (7,) * 5, ((1,) * 8, (2,) * 8, (3,) * 8))
PACKING = PackingConfig(sequence_length=600, frame_budget=340, crop_seconds=2.0, seed=3)


def _record(number: int) -> Record:
    """0.2 to 3 s with repeated units."""
    random = np.random.default_rng(number)
    size = int(random.integers(10, 150))
    units = np.repeat(random.integers(0, NUM_UNITS, size), random.integers(1, 4, size))[:size]
    codes = random.integers(0, CODEBOOK_SIZE, (CODEBOOKS, int(np.ceil(1.5 * size))))
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker="ab"[number % 2],
        language="und",
        text=None,
        start=0.0,
        end=size / 50,
        units=units.astype(np.uint16),
        codes=codes.astype(np.uint16),
    )


@pytest.fixture(scope="module")
def corpus() -> list[Record]:
    return [_record(number) for number in range(60)]


def _write(directory: Path, corpus: list[Record]) -> None:
    lengths, total = [len(part) for part in np.array_split(corpus, SHARDS)], 0
    numbers = iter(corpus)
    for shard, length in enumerate(lengths):
        path = directory / token_records.shard_name("train", shard, SHARDS)
        with ShardWriter(path, CODEBOOKS) as writer:
            for _ in range(length):
                writer.write(next(numbers))
        total += writer.num_bytes
    token_records.write_metadata(directory, CODEBOOKS, {"train": lengths}, {"train": total})

    def column(values) -> np.ndarray:
        return np.array(list(values), np.int32)

    index = LengthIndex(
        units=column(len(record.units) for record in corpus),
        units_dedup=column(len(deduplicate(record.units)[0]) for record in corpus),
        frames=column(record.codes.shape[1] for record in corpus),
        speaker=column("ab".index(record.speaker) for record in corpus),
        language=column(0 for _ in corpus),
        speakers=("a", "b"),
        languages=("und",),
    )
    digest = index.save(index_path(directory, "train"))
    DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("fake", "0", NUM_UNITS, 50.0, "tokenizers/semantic"),
        codec=CodecSpec("fake", "0", CODEBOOKS, CODEBOOK_SIZE, 75.0, 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=("und",),
        silence=SILENCE,
        splits={"train": SplitSpec(len(corpus), SHARDS, 0.1, digest, "0")},
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed().save(directory)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, corpus) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    _write(directory, corpus)
    return directory


def _assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def _take(loader: Loader, count: int) -> list[dict]:
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return batches


def test_batches_have_fixed_shapes_and_consistent_fields(dataset) -> None:
    length, budget = PACKING.sequence_length, PACKING.frame_budget
    for batch in _take(Loader(dataset, "train", PACKING, 4), 6):
        shapes = {name: array.shape for name, array in batch.items()}
        assert shapes == {
            "tokens": (4, length, CODEBOOKS),
            "positions": (4, length),
            "streams": (4, length),
            "segment_ids": (4, length),
            "semantic_targets": (4, length),
            "frame_index": (4, budget),
            "frames": (4, budget, CODEBOOKS),
            "frame_segments": (4, budget),
        }
        assert all(array.dtype == np.int32 for array in batch.values())
        padding = batch["segment_ids"] == 0
        assert (batch["tokens"][padding] == PAD).all()
        assert (batch["semantic_targets"][padding | (batch["streams"] == 1)] == -1).all()
        assert (batch["streams"][padding] == 0).all()
        unused = batch["frame_segments"] == 0
        assert (batch["frames"][unused] == PAD).all()
        assert (batch["frame_index"][unused] == 0).all()
        for row in range(4):
            # A frame is predicted at an acoustic position of its own segment: that of the frame
            # before it.
            used = ~unused[row]
            places = batch["frame_index"][row][used]
            np.testing.assert_array_equal(
                batch["segment_ids"][row][places], batch["frame_segments"][row][used]
            )
            assert (batch["streams"][row] == 1).sum() == used.sum()
            read = batch["tokens"][row][places[1:]] - (NUM_UNITS + 4)
            same = np.diff(batch["frame_segments"][row][used]) == 0
            predicted = batch["frames"][row][used][:-1]
            np.testing.assert_array_equal(read[same], predicted[same])


def test_one_epoch_holds_every_unit_and_frame(dataset, corpus) -> None:
    loader = Loader(dataset, "train", PACKING, 4, repeat=False)
    units: Counter[int] = Counter()
    codes: Counter[tuple[int, ...]] = Counter()
    joints, rows, num_segments = 0, 0, 0
    for batch in loader:
        rows += (batch["segment_ids"].max(axis=1) > 0).sum()
        num_segments += batch["segment_ids"].max(axis=1).sum()
        targets = batch["semantic_targets"]
        units.update((targets[targets != -1] - 4).tolist())
        frames = batch["frames"][batch["frame_segments"] > 0] - 4
        frames -= np.arange(CODEBOOKS) * CODEBOOK_SIZE
        codes.update(map(tuple, frames.tolist()))
    plan = loader.plan
    joints = sum(len(s.pieces) - 1 for r in range(plan.num_rows(0)) for s in plan.row(r))
    expected_units = Counter(np.concatenate([record.units for record in corpus]).tolist())
    expected_units[7] += 5 * joints
    expected_units[EOS - 4] = num_segments
    expected_codes = Counter(
        map(tuple, np.concatenate([record.codes.T for record in corpus]).tolist())
    )
    expected_codes[(1, 2, 3)] += 8 * joints
    expected_codes[(EOS - 4, EOS - 20, EOS - 36)] = num_segments
    assert joints
    assert units == expected_units
    assert codes == expected_codes
    assert rows == loader.rows_per_epoch


def test_the_last_batch_of_a_single_epoch_is_filled_up_with_padding(dataset) -> None:
    size = next(size for size in range(4, 9) if _rows_per_epoch(dataset) % size)
    batches = list(Loader(dataset, "train", PACKING, size, repeat=False))
    empty = np.concatenate([batch["segment_ids"].max(axis=1) == 0 for batch in batches])
    rows = _rows_per_epoch(dataset)
    assert len(empty) == -(-rows // size) * size
    np.testing.assert_array_equal(empty, np.arange(len(empty)) >= rows)


def _rows_per_epoch(dataset: Path) -> int:
    return Loader(dataset, "train", PACKING, 1).rows_per_epoch


def test_rows_follow_the_plan(dataset, corpus) -> None:
    loader = Loader(dataset, "train", PACKING, 1)
    for number in range(3):
        batch = next(loader)
        semantic = batch["tokens"][0, :, 0][
            (batch["streams"][0] == 0) & (batch["tokens"][0, :, 0] >= 4)
        ]
        expected = []
        for segment in loader.plan.row(number):
            for place, piece in enumerate(segment.pieces):
                expected += list(SILENCE.units) if place else []
                expected += corpus[piece.record].units[slice(*piece.units)].tolist()
        np.testing.assert_array_equal(semantic - 4, expected)
    loader.close()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_batches_of_one(dataset, hosts: int) -> None:
    whole = _take(Loader(dataset, "train", PACKING, 4), 8)
    parts = [
        _take(Loader(dataset, "train", PACKING, 4, host=host, num_hosts=hosts), 8)
        for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        _assert_equal(joined, batch)


def test_resume_is_exact_over_the_end_of_an_epoch_and_with_other_numbers_of_hosts(dataset) -> None:
    loader = Loader(dataset, "train", PACKING, 4)
    before = loader.rows_per_epoch // 4 - 1  # the next batches run into the second epoch
    for _ in range(before):
        next(loader)
    state = json.loads(json.dumps(loader.get_state()))
    assert state["row"] == 4 * before
    rest = _take(loader, 4)

    resumed = Loader(dataset, "train", PACKING, 4)
    next(resumed)  # already iterating: set_state starts anew
    resumed.set_state(state)
    for batch, expected in zip(_take(resumed, 4), rest, strict=True):
        _assert_equal(batch, expected)

    halves = [Loader(dataset, "train", PACKING, 4, host=host, num_hosts=2) for host in (0, 1)]
    for half in halves:
        half.set_state(state)
    for expected in rest:
        parts = [next(half) for half in halves]
        _assert_equal({n: np.concatenate([p[n] for p in parts]) for n in expected}, expected)
    assert halves[0].get_state() == halves[1].get_state()
    for half in halves:
        half.close()


def test_resume_in_a_late_epoch_plans_no_earlier_epoch(dataset) -> None:
    loader = Loader(dataset, "train", PACKING, 4)
    late = sum(loader.plan.num_rows(number) for number in range(5)) + 1
    loader.set_state({"row": late, "plan": loader.plan.fingerprint, "skipped": [[3, 7]]})
    state = loader.get_state()
    assert state["pass"] == [5, late - 1]
    assert state["skipped"] == [[3, 7]]
    resumed = Loader(dataset, "train", PACKING, 4)
    resumed.set_state(state)
    planned = []
    make = resumed.plan._make
    resumed.plan._make = lambda number: planned.append(number) or make(number)
    _assert_equal(_take(resumed, 1)[0], _take(loader, 1)[0])
    assert min(planned) == 5


@pytest.mark.parametrize("hosts", [1, 2])
def test_skipped_rows_are_never_read(dataset, hosts: int) -> None:
    rows = _take(Loader(dataset, "train", PACKING, 1), 30)
    kept = [rows[n] for n in range(30) if not (2 <= n < 7 or 12 <= n < 14)]

    def check(batches: int, state: dict | None, first: int) -> dict:
        loaders = [Loader(dataset, "train", PACKING, 4, host=h, num_hosts=hosts)
                   for h in range(hosts)]  # fmt: skip
        for loader in loaders:
            if state is not None:
                loader.set_state(state)
            loader.skip(2, 5)
            loader.skip(4, 7)
            loader.skip(12, 14)
        for number in range(batches):
            parts = [next(loader) for loader in loaders]
            expected = kept[first + 4 * number : first + 4 * number + 4]
            for name in expected[0]:
                found = np.concatenate([part[name] for part in parts])
                wanted = np.concatenate([row[name] for row in expected])
                np.testing.assert_array_equal(found, wanted)
        states = [loader.get_state() for loader in loaders]
        for loader in loaders:
            loader.close()
        assert all(found == states[0] for found in states)
        return states[0]

    state = check(2, None, 0)
    assert (state["row"], state["skipped"]) == (15, [[2, 7], [12, 14]])
    check(2, state, 8)  # skipping the same again, as after a restart, changes nothing


def test_rows_that_are_no_range_cannot_be_skipped(dataset) -> None:
    with pytest.raises(UserError, match="rows 5 to 5"):
        Loader(dataset, "train", PACKING, 1).skip(5, 5)


def test_state_of_another_plan_is_refused_with_both_fingerprints(dataset) -> None:
    other = Loader(dataset, "train", PackingConfig(600, 340, 2.0, seed=4), 4)
    loader = Loader(dataset, "train", PACKING, 4)
    with pytest.raises(UserError) as error:
        loader.set_state(other.get_state())
    assert other.plan.fingerprint in str(error.value)
    assert loader.plan.fingerprint in str(error.value)
    with pytest.raises(UserError, match="not a state"):
        loader.set_state({"row": "3"})


def test_deduplication_collapses_units_within_pieces(dataset, corpus) -> None:
    packing = PackingConfig(1000, 400, 4.0, deduplicate=True, positions="running", seed=1)
    loader = Loader(dataset, "train", packing, 2, repeat=False)
    units, joints = 0, 0
    for row in range(loader.rows_per_epoch):
        joints += sum(len(segment.pieces) - 1 for segment in loader.plan.row(row))
    for batch in loader:
        units += (batch["semantic_targets"] >= 4).sum()
        assert batch["positions"].max() < 1000
    assert units == sum(len(deduplicate(r.units)[0]) for r in corpus) + joints


def test_a_damaged_shard_stops_the_loader_with_its_name(tmp_path, corpus) -> None:
    _write(tmp_path, corpus)
    shard = tmp_path / token_records.shard_name("train", 1, SHARDS)
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(RecordError, match=shard.name):
        list(Loader(tmp_path, "train", PACKING, 4, repeat=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "num_hosts": 2}, "multiple of 2 hosts"),
        ({"batch_size": 4, "host": 2, "num_hosts": 2}, "host 2"),
    ],
)
def test_batch_sizes_that_hosts_cannot_share_are_refused(
    dataset, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Loader(dataset, "train", PACKING, **options)


@pytest.mark.slow
def test_worker_processes_read_the_same_batches(dataset) -> None:
    loader = Loader(dataset, "train", PACKING, 4, num_workers=2)
    state = {"row": 8, "plan": loader.plan.fingerprint, "skipped": []}
    loader.set_state(state)
    found = [{name: array.copy() for name, array in next(loader).items()} for _ in range(3)]
    loader.close()
    threads = Loader(dataset, "train", PACKING, 4)
    threads.set_state(state)
    for batch, expected in zip(found, _take(threads, 3), strict=True):
        _assert_equal(batch, expected)


def test_only_grain_imports_jax_and_no_backend_is_started() -> None:
    program = """
import sys
import data_pipeline.packing.token_plan, data_pipeline.tokens, data_pipeline.loading.batches
import data_pipeline.datasets.token_records, data_pipeline.datasets.token_dataset
assert "jax" not in sys.modules
import data_pipeline.loading.loader
from jax._src import xla_bridge
assert not xla_bridge._backends
"""
    subprocess.run([sys.executable, "-c", program], check=True)
