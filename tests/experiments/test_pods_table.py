"""The committed page is what the committed results give."""

import json
from pathlib import Path

from experiments import pods_table
from experiments.common import load_config

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_page_is_that_of_the_committed_results():
    assert (DOCS / "pods.md").read_text() == pods_table.page(DOCS / "pods")


def test_results_belong_to_a_case_and_its_configuration():
    cases = {case.name: case for case in pods_table.CASES}
    assert len(cases) == len(pods_table.CASES)
    for path in (DOCS / "pods").glob("*.json"):
        case, result = cases[path.stem], json.loads(path.read_text())
        assert result["config"] == case.config
        assert (result["topology"], result["num_slices"]) == (case.topology, case.num_slices)
    for name in {case.config for case in cases.values()}:
        assert load_config(f"experiments.configs.{name}").name == name


def test_a_changed_program_is_marked(tmp_path):
    source = next(path for path in (DOCS / "pods").glob("gpst_190m-*.json"))
    result = json.loads(source.read_text())
    target = tmp_path / source.name
    target.write_text(json.dumps(result))
    plain = pods_table.page(tmp_path)
    target.write_text(json.dumps(result | {"note": "Older program."}))
    marked = pods_table.page(tmp_path)
    assert "Older program." not in plain
    assert "\\* Older program." in marked
    assert f"{result['topology']} \\*" in marked
