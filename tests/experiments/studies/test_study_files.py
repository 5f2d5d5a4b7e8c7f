"""Every study of this project loads, names programs and flags that exist, and has its page."""

import re
from pathlib import Path

import doc_check
import pytest

from experiments.common import load_config
from experiments.studies.files import load_study
from gpst_jax.studies import page
from gpst_jax.studies.records import Results, config_hash, definition

FILES = sorted((doc_check.ROOT / "experiments" / "study_files").glob("[a-z]*.py"))
PAGES = doc_check.ROOT / "docs" / "studies"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_names_programs_flags_and_fields_that_exist(file):
    study = load_study(str(file))
    assert study.name == file.stem
    for cell in study.cells:
        for call in cell.steps():
            command = " ".join(["python -m", call.program, *call.flags])
            assert doc_check.faults(f"    {re.sub(r'[{}]', '', command)}\n") == []
        made = definition(cell, study.seeds[0], load_config)
        assert len(config_hash(made)) == 64
        assert not re.search(r"(?<![\w{}])/(tmp|home|work|root)/", str(made))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_is_that_of_the_records(file, tmp_path):
    study = load_study(str(file))
    records = Results(PAGES, study.name).finished(study, load_config)
    name = file.relative_to(doc_check.ROOT).as_posix()
    made = page.write(study, name, records, tmp_path, load_config)
    assert made.read_text() == (PAGES / made.name).read_text()
    assert (tmp_path / f"{study.name}.png").exists() == (PAGES / f"{study.name}.png").exists()


def test_every_page_and_record_is_of_a_study():
    names = {file.stem for file in FILES}
    assert {path.stem for path in PAGES.glob("*.*")} == names
    assert {path.name for path in Path(PAGES / "results").glob("*")} <= names
