"""Pages and docstrings name only what exists: programs, flags, fields, imports and paths."""

import ast
import importlib
import re
from pathlib import Path

import doc_check
import pytest

ROOT = doc_check.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tpu_scripts/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "studies").glob("*.md")),
]
MODULES = [path for name in doc_check.PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
PUBLIC = ("gpst_jax.config", "gpst_jax.hf", "data_pipeline.tokens")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_page_names_only_what_exists(page):
    assert doc_check.faults(page.read_text(encoding="utf-8")) == []


def test_docstrings_of_modules_name_only_what_exists():
    found = []
    for path in MODULES:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found += [f"{_name(path)}: {fault}" for fault in doc_check.faults(text)]
    assert found == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                exists = (page.parent / target).exists()
                broken += [] if exists else [f"{_name(page)}: {target}"]
    assert broken == []


def test_what_pages_import_can_be_imported():
    names = set(PUBLIC)
    for page in PAGES:
        names |= set(doc_check.imported(doc_check.split(page.read_text(encoding="utf-8"))[0]))
    for dotted in sorted(names):
        if dotted.startswith("gpst_jax.hf"):
            pytest.importorskip("transformers", reason="gpst_jax.hf needs the extra torch")
        if doc_check.module(dotted):
            importlib.import_module(dotted)
        else:
            parent, _, name = dotted.rpartition(".")
            assert hasattr(importlib.import_module(parent), name), dotted


@pytest.mark.parametrize("package", PUBLIC)
def test_a_public_import_path_hands_on_its_names(package):
    if package == "gpst_jax.hf":
        pytest.importorskip("transformers", reason="gpst_jax.hf needs the extra torch")
    loaded = importlib.import_module(package)
    public = getattr(loaded, "__all__", None) or doc_check.defined(doc_check.module(package))
    assert len(public) > 3
    assert [name for name in public if not hasattr(loaded, name)] == []


BLOCK = "Text.\n\n    {}\n\nMore text.\n"
WRONG = {
    BLOCK.format("python -m experiments.pretrian --config=FILE"): "experiments.pretrian",
    BLOCK.format("python -m experiments.common --config=FILE"): "experiments.common: no program",
    BLOCK.format("python -m experiments.pretrain --confg=FILE"): "--confg",
    BLOCK.format(
        "python -m experiments.pretrain --config=FILE \\\n        --wrokdir=RUN"
    ): "--wrokdir",
    BLOCK.format("python -m experiments.export [--noaverage] [--nodtype]"): "--nodtype",
    BLOCK.format("python -m experiments.benchmark --suite=trian"): "--suite=trian",
    BLOCK.format("python -m experiments.pretrain --config.train.stepz=5"): "train.stepz",
    BLOCK.format("python -m experiments.pretrain --set=train.steps=5"): "--set",
    BLOCK.format("tpu_scripts/up.sh --env=FILE --set=train.steps=5"): "--set",
    BLOCK.format("tpu_scripts/lunch.sh --env=FILE"): "lunch.sh",
    BLOCK.format("tpu_scripts/logs.sh --env=FILE --hots=0"): "--hots",
    BLOCK.format("tpu_scripts/up.sh --env=FILE -- --seed=1"): "experiments.pretrain --seed",
    BLOCK.format("make tset"): "make tset",
    BLOCK.format("make demo ARGS='--smoke --itmes=3'"): "--itmes",
    BLOCK.format("make lock UVARGS=--upgrade"): "UVARGS",
    BLOCK.format("from gpst_jax.config import RunConfig, RunConfiguration"): "RunConfiguration",
    BLOCK.format("import gpst_jax.hugging"): "gpst_jax.hugging",
    "```\npython -m data_pipeline.fit_kmeans --model=DIR --clsuters=5\n```\n": "--clsuters",
    "Call `python -m experiments.status\n--workdri=RUN` beside it.": "--workdri",
    "Call `generate --workdirs` then.": "--workdirs",
    "Give `--audio_dri` too.": "--audio_dri",
    "See data_pipeline.fit_tokenizers --unifed, which": "--unifed",
    "The field `optimizer.rate`.": "optimizer.rate",
    "See `gpst_jax.config.run.Runs`.": "gpst_jax.config.run.Runs",
    "See gpst_jax/training/loops.py.": "gpst_jax/training/loops.py",
    "See `loops.py`.": "loops.py",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=WRONG.values())
def test_what_does_not_exist_is_found(text, named, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    found = doc_check.faults(page.read_text())
    assert found
    assert all(named in fault for fault in found)


def test_what_exists_is_no_fault():
    right = BLOCK.format(
        "python -m experiments.pretrain --config=experiments/configs/gpst_1b.py --workdir=RUN \\\n"
        "    --config.data.path=TOKENS [--config.section.field=value ...] --nodistributed  # --no"
    )
    right += BLOCK.format("tpu_scripts/launch.sh --zone=Z -- --skip_steps=1:2 | tee --append log")
    right += BLOCK.format("data_pipeline.tokenize_corpus --runner=FlinkRunner -- --parallelism=64")
    right += (
        "`model.json`, `train.steps`, `mesh.fsdp`, `--suggest`, docs/pods/CASE.json, `demo.py`."
    )
    assert doc_check.faults(right) == []
