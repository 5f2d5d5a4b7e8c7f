"""Mixtures: exact shares, components in their own order, the same batches for any hosts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading import mixture
from data_pipeline.loading.loader import Loader
from data_pipeline.loading.mixture_plan import MixturePlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError

PACKING = PackingConfig(sequence_length=600, frame_budget=340, crop_seconds=2.0, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_dataset, make_token_record) -> Path:
    """Datasets `a` (one language), `b` (two) and `other` with another semantic tokenizer."""
    root = tmp_path_factory.mktemp("datasets")
    write_dataset(
        root / "a", {"train": [make_token_record(n, "ab"[n % 2], "en", seed=1) for n in range(60)]}
    )
    records = [
        make_token_record(n, "cd"[n % 2], ("zh", "fr")[n % 3 == 0], seed=2) for n in range(90)
    ]
    write_dataset(root / "b", {"train": records, "valid": records[:10]})
    write_dataset(root / "other", {"train": records[:5]}, semantic_sha256="1")
    return root


def _mixture(root: Path, *entries: dict, name: str = "mixture.json") -> Path:
    path = root / name
    path.write_text(json.dumps({"datasets": entries}))
    return path


@pytest.fixture(scope="module")
def both(root) -> Path:
    return _mixture(
        root,
        {"path": "a", "weight": 1},
        {"path": "b", "weight": 2, "languages": {"zh": 1.0, "fr": 6.0}},
        name="both.json",
    )


def _assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def _take(loader: Loader, count: int) -> list[dict]:
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return batches


def test_a_mixture_of_one_dataset_is_that_dataset(root) -> None:
    alone = Loader(root / "a", "train", PACKING, 4)
    mixed = Loader(_mixture(root, {"path": "a"}, name="one.json"), "train", PACKING, 4)
    assert mixed.spec == alone.spec == DatasetSpec.load(root / "a")
    assert mixed.get_state() == alone.get_state()
    for found, expected in zip(_take(mixed, 5), _take(alone, 5), strict=True):
        _assert_equal(found, expected)


def test_weights_are_shares_of_the_rows_at_every_point(both) -> None:
    parts = mixture.components(both, "train")
    assert [(Path(part.path).name, part.language) for part in parts] == [
        ("a", None),
        ("b", "fr"),
        ("b", "zh"),
    ]
    shares = np.array([part.share for part in parts])
    assert shares[0] == pytest.approx(1 / 3)
    assert shares.sum() == pytest.approx(1)
    # French has about half the hours of Chinese, and six times its factor.
    assert 2 < shares[1] / shares[2] < 4.5
    plan = Loader(both, "train", PACKING, 4).plan
    assert isinstance(plan, MixturePlan)
    for rows in (4096, 40960):
        np.testing.assert_allclose(plan.rows_before(rows), rows * shares, atol=1)
    counts = np.array([plan.rows_before(rows) for rows in range(1, 4000, 97)])
    expected = np.arange(1, 4000, 97)[:, None] * shares
    assert np.abs(counts - expected).max() < 4 * np.sqrt(4000) / 2


def test_rows_of_a_component_come_in_order_without_gaps(both) -> None:
    plan = Loader(both, "train", PACKING, 4).plan
    assert isinstance(plan, MixturePlan)
    following: Counter[int] = Counter()
    for row in range(4000, 4200):  # over the end of a block
        component, place = plan.source(row)
        if component not in following:
            following[component] = plan.rows_before(row)[component]
        assert place == following[component]
        following[component] += 1
    assert plan.rows_before(4200) == [following[component] for component in range(3)]


def test_only_the_languages_asked_for_are_read(root) -> None:
    path = _mixture(root, {"path": "b", "languages": {"zh": 1.0}}, name="zh.json")
    loader = Loader(path, "train", PACKING, 4, repeat=False)
    units = sum(int((batch["semantic_targets"] >= 4).sum()) for batch in loader)
    component = loader._rows.components[0]
    joints = sum(
        len(segment.pieces) - 1
        for row in range(component.plan.num_rows(0))
        for segment in component.plan.row(row)
    )
    whole = Loader(root / "b", "train", PACKING, 4)._rows.components[0].index
    chinese = whole.units[whole.language == whole.languages.index("zh")].sum()
    assert units == chinese + 5 * joints
    assert 0 < chinese < whole.units.sum()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_batches_of_one(both, hosts: int) -> None:
    whole = _take(Loader(both, "train", PACKING, 4), 12)
    parts = [
        _take(Loader(both, "train", PACKING, 4, host=host, num_hosts=hosts), 12)
        for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        _assert_equal(joined, batch)


def test_resume_is_exact_with_other_numbers_of_hosts_and_plans_no_earlier_epoch(both) -> None:
    loader = Loader(both, "train", PACKING, 4)
    for _ in range(90):  # several epochs of the small components
        next(loader)
    state = json.loads(json.dumps(loader.get_state()))
    assert all(number > 0 for number, _ in state["passes"])
    rest = _take(loader, 4)
    halves = [Loader(both, "train", PACKING, 4, host=host, num_hosts=2) for host in (0, 1)]
    planned = []
    for half in halves:
        half.set_state(state)
        for component in half._rows.components:
            make = component.plan._make
            component.plan._make = lambda n, make=make: planned.append(n) or make(n)
    for expected in rest:
        parts = [next(half) for half in halves]
        _assert_equal({n: np.concatenate([p[n] for p in parts]) for n in expected}, expected)
    assert min(planned) > 0
    assert halves[0].get_state() == halves[1].get_state()
    for half in halves:
        half.close()


def test_the_plan_covers_weights_and_seed(root, both) -> None:
    other = _mixture(
        root,
        {"path": "a", "weight": 2},
        {"path": "b", "weight": 2, "languages": {"zh": 1.0, "fr": 6.0}},
        name="other_weights.json",
    )
    loader = Loader(both, "train", PACKING, 4)
    with pytest.raises(UserError, match="data state is of plan"):
        loader.set_state(Loader(other, "train", PACKING, 4).get_state())
    seeded = Loader(both, "train", PackingConfig(600, 340, 2.0, seed=4), 4).plan
    assert isinstance(seeded, MixturePlan)
    plan = loader.plan
    assert isinstance(plan, MixturePlan)
    assert [seeded.source(row)[0] for row in range(50)] != [
        plan.source(row)[0] for row in range(50)
    ]


def test_an_evaluation_reads_every_record_once_whatever_the_weights(root, both) -> None:
    loader = Loader(both, "train", PACKING, 4, repeat=False)
    rows = sum(int((batch["segment_ids"].max(axis=1) > 0).sum()) for batch in loader)
    assert rows == loader.rows_per_epoch == sum(p.num_rows(0) for p in loader._rows.plan.plans)
    # Only one of the datasets has the split; it is read alone.
    assert [part.path for part in mixture.components(both, "valid")] == [str(root / "b")] * 2


@pytest.fixture(scope="module")
def annealed(root) -> Path:
    """Equal shares; from batch 1,500 on `b` alone; from 2,000 on three of four rows are of `a`."""
    return _mixture(
        root,
        {"path": "a", "weight": [[0, 1], [1500, 0], [2000, 3]]},
        {"path": "b", "weight": [[0, 1], [2000, 1]]},
        name="annealed.json",
    )


def test_weights_change_at_their_batches(root, annealed) -> None:
    plan = Loader(annealed, "train", PACKING, 4).plan
    assert isinstance(plan, MixturePlan)
    first, alone, last = (np.array(plan.rows_before(4 * batch)) for batch in (1500, 2000, 22480))
    assert np.abs(first - 3000).max() < 4 * np.sqrt(4096) / 2  # it ends within a block
    np.testing.assert_array_equal(alone - first, [0, 2000])
    np.testing.assert_allclose(last - alone, [61440, 20480], atol=1)
    # What was before is as without the changes.
    constant = _mixture(
        root, {"path": "a", "weight": 1}, {"path": "b", "weight": 1}, name="constant.json"
    )
    before = Loader(constant, "train", PACKING, 4).plan
    assert isinstance(before, MixturePlan)
    rows = range(5800, 6000)
    assert [plan.source(row) for row in rows] == [before.source(row) for row in rows]
    assert plan.fingerprint != before.fingerprint


def test_a_component_goes_on_where_it_was_when_weights_change(annealed) -> None:
    plan = Loader(annealed, "train", PACKING, 4).plan
    assert isinstance(plan, MixturePlan)
    for border in (6000, 8000):
        following = plan.rows_before(border - 40)
        for row in range(border - 40, border + 40):
            component, place = plan.source(row)
            assert place == following[component]
            following[component] += 1
        assert following == plan.rows_before(border + 40)


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_hosts_resume_exactly_before_and_after_a_change(root, hosts: int) -> None:
    path = _mixture(
        root,
        {"path": "a", "weight": [[0, 1], [10, 3]]},
        {"path": "b", "weight": [[0, 1], [10, 0]]},
        name="changes.json",
    )
    loader = Loader(path, "train", PACKING, 4)
    states, batches = [], []
    for _ in range(14):
        states.append(json.loads(json.dumps(loader.get_state())))
        batches.append(next(loader))
    loader.close()
    for start in (8, 12):
        parts = [Loader(path, "train", PACKING, 4, host=h, num_hosts=hosts) for h in range(hosts)]
        for part in parts:
            part.set_state(states[start])
        for expected in batches[start:]:
            read = [next(part) for part in parts]
            _assert_equal({n: np.concatenate([r[n] for r in read]) for n in expected}, expected)
        for part in parts:
            part.close()
    # Changes are counted in batches: with others they come at other rows.
    with pytest.raises(UserError, match="data state is of plan"):
        Loader(path, "train", PACKING, 8).set_state(states[0])


def test_an_evaluation_reads_what_has_no_weight_at_first(root) -> None:
    path = _mixture(
        root,
        {"path": "a", "weight": 1},
        {"path": "b", "weight": [[0, 0], [5, 1]]},
        name="later.json",
    )
    loader = Loader(path, "train", PACKING, 4, repeat=False)
    assert loader.rows_per_epoch == sum(p.num_rows(0) for p in loader._rows.plan.plans)
    assert len(mixture.components(path, "valid", weighted=False)) == 1


def test_the_spec_of_a_mixture_adds_up(root, both) -> None:
    spec, a, b = mixture.load_spec(both), *(DatasetSpec.load(root / name) for name in "ab")
    assert spec.splits["train"].num_records == 150
    assert spec.splits["valid"] == mixture._merged([b.splits["valid"]])
    assert spec.languages == ("en", "fr", "zh")
    assert spec.layout() == a.layout()
    assert spec.fingerprint not in (a.fingerprint, b.fingerprint)
    assert spec.sealed().fingerprint == spec.fingerprint


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"path": "a", "weight": 1}, {"path": "b"}], "a weight, or none"),
        ([{"path": "a", "weight": -1}], "weight must be a positive number"),
        ([{"path": "a", "wieght": 1}], "unknown key 'wieght'"),
        ([{"weight": 1}], 'with "path"'),
        ([{"path": "a", "languages": {"de": 1}}], "no records of language 'de'.*there are en"),
        ([{"path": "a", "weight": 1}, {"path": "b", "weight": 1e-6}], "the least is 0.05%"),
        ([{"path": "a", "weight": []}], "must begin at batch 0"),
        ([{"path": "a", "weight": [[5, 1]]}], "must begin at batch 0"),
        ([{"path": "a", "weight": [[0, 1], [9, 2], [9, 3]]}], "and go up"),
        ([{"path": "a", "weight": [[0, -1]]}], r"list of \[first batch, weight\]"),
        ([{"path": "a", "weight": [[0.5, 1]]}], r"list of \[first batch, weight\]"),
        ([{"path": "a", "weight": [[0, 0], [7, 0]]}], "0 from beginning to end"),
        (
            [{"path": "a", "weight": [[0, 1], [7, 0]]}, {"path": "b", "weight": [[0, 1], [6, 0]]}],
            "all weights are 0 from batch 7 on",
        ),
        (
            [{"path": "a", "weight": 1}, {"path": "b", "weight": [[0, 1], [7, 1e-6]]}],
            "the least is 0.05%",
        ),
        ([{"path": "a"}, {"path": "other"}], "semantic is .* same tokenizers"),
        ([{"path": "nowhere"}], r"dataset.json does not exist"),
        ([], "at least one"),
    ],
)
def test_impossible_mixtures_are_refused(root, entries: list[dict], message: str) -> None:
    path = _mixture(root, *entries, name="bad.json")
    with pytest.raises(UserError, match=message):
        Loader(path, "train", PACKING, 4)


def test_files_that_are_no_mixture_are_refused(tmp_path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        mixture.read_mixture(tmp_path / "x.json")
    with pytest.raises(UserError, match="No such file"):
        mixture.read_mixture(tmp_path / "y.json")
