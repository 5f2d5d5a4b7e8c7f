"""Records are taken where they are of the same definition, and refused where they are not."""

import dataclasses
import json

import pytest
from toy_run import toy_config

from data_pipeline.runtime.errors import UserError
from gpst_jax.studies import records
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import TrainingFigure

FIGURE = TrainingFigure("loss", "loss", "eval/loss")


def load(name):
    return toy_config()


def make(*overrides, flag="--x"):
    cell = Cell("one", "toy.py", overrides, (Call("evaluate", "experiments.evaluate", (flag,)),))
    return Study("toy", "Why?", (cell,), (FIGURE,), seeds=(0,))


def store(results, study):
    made = records.definition(study.cells[0], 0, load)
    record = {
        "version": records.VERSION,
        "definition": made,
        "config_hash": records.config_hash(made),
        "scores": {},
        "inputs": {"tokens": "1" * 64},
    }
    results.write("one", 0, record)
    return record


def test_a_record_of_the_same_definition_is_taken(tmp_path):
    results = records.Results(tmp_path, "toy")
    assert results.finished(make(), load) == {}
    store(results, make("train.steps=7"))
    assert list(results.finished(make("train.steps=7"), load)) == [("one", 0)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (make("train.steps=8"), r"one-0\.json: .* config\.train\.steps was 7 and is 8; .*remove"),
        (make("train.steps=7", flag="--y"), r"calls\.evaluate was .*--x.* and is .*--y"),
    ],
)
def test_a_record_of_another_definition_is_refused(changed, message, tmp_path):
    results = records.Results(tmp_path, "toy")
    store(results, make("train.steps=7"))
    with pytest.raises(UserError, match=message):
        results.finished(changed, load)


def test_records_of_other_inputs_do_not_compare(tmp_path):
    results = records.Results(tmp_path, "toy")
    store(results, make())
    found = results.finished(make(), load)
    results.check_inputs(found, {"tokens": "1" * 64, "trained_on": "3"})
    with pytest.raises(UserError, match=r"--tokens: its fingerprint is 2{16}, but .*one-0\.json"):
        results.check_inputs(found, {"tokens": "2" * 64})


def test_a_record_older_than_a_field_has_its_default(tmp_path):
    results = records.Results(tmp_path, "toy")
    record = store(results, make())
    del record["definition"]["config"]["optimizer"]["spike_factor"]
    results.write("one", 0, record | {"config_hash": "of former fields"})
    assert list(results.finished(make(), load)) == [("one", 0)]
    with pytest.raises(UserError, match=r"spike_factor was 0\.0 and is 4\.0"):
        results.finished(make("optimizer.spike_factor=4"), load)


def test_a_definition_names_no_path_and_its_hash_no_dataset():
    made = records.definition(make().cells[0], 3, load)
    assert made["config"]["train"]["seed"] == made["config"]["data"]["seed"] == 3
    other = json.loads(json.dumps(made))
    other["config"]["data"]["path"] = "somewhere"
    assert records.config_hash(made) == records.config_hash(other)


def test_unreadable_and_large_records_are_refused(tmp_path):
    results = records.Results(tmp_path, "toy")
    with pytest.raises(UserError, match="more than 50000"):
        results.write("one", 0, {"scores": "x" * 60_000})
    results.path("one", 0).parent.mkdir(parents=True)
    results.path("one", 0).write_text("{")
    with pytest.raises(UserError, match=r"one-0\.json: cannot be read"):
        results.read("one", 0)


def test_studies_that_make_no_sense_are_refused():
    study = make()
    with pytest.raises(UserError, match="compares 'two', which is no cell"):
        dataclasses.replace(study, comparisons=(Comparison("one", ("two",)),))
    with pytest.raises(UserError, match="cells are to differ"):
        dataclasses.replace(study, cells=(*study.cells, *study.cells))
    with pytest.raises(UserError, match="'A b'"):
        dataclasses.replace(study, name="A b")
    with pytest.raises(UserError, match=r"\{nothing\} stands for nothing"):
        make(flag="--x={nothing}")
    misspelt = make("train.stepz=7").cells[0]
    with pytest.raises(UserError, match=r"cell one: config field train\.stepz"):
        records.definition(misspelt, 0, load)
