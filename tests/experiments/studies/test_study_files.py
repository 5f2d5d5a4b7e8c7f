"""Every study of this project loads, names programs and flags that exist, and has its page."""

import re

import doc_check
import pytest

from experiments.common import load_config
from experiments.studies.files import load_study
from gpst_jax.studies import page
from gpst_jax.studies.records import Results, config_hash, definition

FOLDER = doc_check.ROOT / "experiments" / "study_files"
NAMES = {
    path.relative_to(FOLDER).with_suffix("").as_posix(): path
    for path in sorted(FOLDER.rglob("[a-z]*.py"))
}
PAGES = doc_check.ROOT / "docs" / "studies"


@pytest.mark.parametrize("name", NAMES)
def test_a_study_names_programs_flags_and_fields_that_exist(name):
    study = load_study(str(NAMES[name]))
    assert study.name == name
    for cell in study.cells:
        for call in cell.steps():
            command = " ".join(["python -m", call.program, *call.flags])
            assert doc_check.faults(f"    {re.sub(r'[{}]', '', command)}\n") == []
        made = definition(cell, study.seeds[0], load_config)
        assert len(config_hash(made)) == 64
        assert not re.search(r"(?<![\w{}])/(tmp|home|work|root)/", str(made))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_that_of_the_records(name, tmp_path):
    study = load_study(str(NAMES[name]))
    records = Results(PAGES, name).finished(study, load_config)
    file = NAMES[name].relative_to(doc_check.ROOT).as_posix()
    made = page.write(study, file, records, tmp_path, load_config)
    assert made.read_text() == (PAGES / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.png").exists() == (PAGES / f"{name}.png").exists()


def test_every_page_and_record_is_of_a_study():
    pages = [path.relative_to(PAGES).with_suffix("") for path in PAGES.rglob("*.md")]
    assert {page.as_posix() for page in pages} == set(NAMES)
    plots = [path.relative_to(PAGES).with_suffix("") for path in PAGES.rglob("*.png")]
    assert {plot.as_posix() for plot in plots} <= set(NAMES)
    records = [path.parent.relative_to(PAGES / "results") for path in PAGES.rglob("*.json")]
    assert {folder.as_posix() for folder in records} <= set(NAMES)
