"""Finds what a text names (commands, flags, fields, modules, paths) and the code does not have."""

import ast
import dataclasses
import functools
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

from gpst_jax.config import RunConfig
from gpst_jax.evaluation.metrics import registry

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data_pipeline", "gpst_jax", "experiments")
FOLDERS = (*PACKAGES, "tests", "tpu_scripts", "docker", "docs", "requirements")
OF_ABSL = {"help": "", "helpfull": "", "verbosity": ""}
_FLAG = re.compile(r"--(\w+)((?:\.\w+)*)(?:=(.*))?", re.DOTALL)
# Flags that a program makes of settings, so that their names are not written in it.
OF_SETTINGS = {
    "experiments.evaluate": dict.fromkeys(
        (
            option.name
            for kind in registry.METRICS
            for option in dataclasses.fields(kind)
            if option.metadata.get("help")
        ),
        "",
    )
}
# Flags of Beam's and Google's programs that the pages name outside a command.
FOREIGN_FLAGS = {"environment_type", "flink_job_server_jar", "spark_job_server_jar"}
# Names such as `model.json` are files, not fields of a section.
FILES = (".csv", ".gz", ".json", ".jsonl", ".onnx", ".safetensors")
# After `--` these hand the rest of the line to pretrain.
TO_PRETRAIN = ("launch.sh", "up.sh")

# A flag's kind: "" for any value, "bool", "config" for one that `--config.section.field=value` may
# follow, or its values joined by "|".
Flags = dict[str, str]


def faults(text: str) -> list[str]:
    """Everything that a Markdown page or docstring names and the code does not have."""
    code, prose = split(text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    rest = re.sub(r"`[^`]+`", " ", prose)
    called = re.findall(rf"(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+(?:\s+--\S+)*", rest)
    found: list[str] = []
    for piece in [*code, *spans, *called]:
        found += _command_faults(piece)
    for span in spans:
        if re.fullmatch(r"\w+\.py", span):
            found += [] if span in _file_names() else [f"{span}: no file has this name"]
        elif re.fullmatch(r"(data|mesh|model|optimizer|train)(\.[a-z_]+)+", span):
            known = has_field(span) or span.endswith(FILES)
            found += [] if known else [f"{span}: no such field of a configuration"]
    found += _import_faults(code) + _path_faults(text)
    return list(dict.fromkeys(found))


def split(text: str) -> tuple[list[str], str]:
    """Lines of code blocks, continuation lines joined, and the prose around the blocks."""
    code, prose, fenced = [], [], False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line.strip())
        else:
            prose.append(line)
    return code, "\n".join(prose)


def commands(piece: str) -> Iterator[tuple[str, list[str]]]:
    """(program, its words) of each program in a line.

    The program is a dotted module, a shell script, `make`, "?" where the line leaves it out, or ""
    for a program of others.
    """
    try:
        words = shlex.split(re.sub(r"[][]", " ", piece), comments=True)
    except ValueError:
        words = piece.split()
    if not words:
        return
    if re.fullmatch(r"[a-z_]+", words[0]) and len(words) > 1 and words[1].startswith("--"):
        modules = [m for m in (f"experiments.{words[0]}", f"data_pipeline.{words[0]}") if module(m)]
        words[:1] = modules or words[:1]  # `generate --workdir`
    program, rest = "?" if words[0].startswith(("--", "...")) else "", []
    for before, word in zip(["", *words], words, strict=False):
        new = None
        if before == "-m":
            new = word if word.split(".")[0] in PACKAGES else ""
            new = "" if new.endswith(".NAME") else new  # any program
        elif re.fullmatch(rf"({'|'.join(PACKAGES)})(\.[A-Za-z_]\w*)+[.,;:]?", word):
            new = word.rstrip(".,;:")
        elif re.fullmatch(r"(tpu_scripts/)?\w+\.sh", word):
            new = Path(word).name
        elif word == "make" and not before:
            new = "make"
        elif word in ("|", "&&", ";"):
            new = ""
        elif word == "--":
            new = "experiments.pretrain" if program in TO_PRETRAIN else ""
        if new is None:
            rest.append(word)
        else:
            yield program, rest
            program, rest = new, []
    yield program, rest


def _command_faults(piece: str) -> list[str]:
    found = []
    for program, words in commands(piece):
        if program == "make":
            found += _make_faults(words)
            continue
        flags = [match for word in words if (match := _FLAG.match(word))]
        if program == "?":
            known = [_all_flags()]
        elif program.endswith(".sh"):
            if not script(program):
                found.append(f"{program}: no such script")
                continue
            known = [script_flags(program)]
        elif program:
            if not _has_name(program):
                found.append(f"{program}: no such module or name")
                continue
            if flags and not is_program(program):
                found.append(f"{program}: no program")
                continue
            known = [module_flags(program)] if flags else []
        else:
            continue
        for match in flags if known else []:
            found += _flag_faults(program, match[1], match[2], match[3], known[0])
    return found


def _flag_faults(program: str, name: str, field: str, value: str | None, known: Flags) -> list[str]:
    shown = f"{program} --{name}{field}"
    if field:
        right = known.get(name) == "config" and (field == ".help" or has_field(field[1:]))
        return [] if right else [f"{shown}: no such flag or field"]
    positive = name.removeprefix("no")
    if name not in known and known.get(positive) != "bool":
        return [f"{shown}: no such flag"]
    if value is None:
        return []
    choices = known.get(name, "").split("|")
    plain = re.fullmatch(r"[a-z]\w*", value) and len(choices) > 1
    return [f"{shown}={value}: none of {choices}"] if plain and value not in choices else []


def _make_faults(words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    found = []
    target = ""
    for word in words:
        if re.fullmatch(r"[a-z-]+", word):
            target = word
            if not re.search(rf"^{word}:", makefile, re.MULTILINE):
                found.append(f"make {word}: no such target")
        elif word.startswith("ARGS="):
            recipe = re.search(rf"^{target}:.*\n(?:\t.*\n)*", makefile, re.MULTILINE)
            program = re.search(r"experiments\.\w+", recipe[0]) if recipe else None
            if program:
                found += _command_faults(f"{program[0]} {word.removeprefix('ARGS=')}")
        elif "=" in word and f"$({word.split('=')[0]})" not in makefile:
            found.append(f"make {word}: the Makefile has no such variable")
    return found


def _import_faults(code: list[str]) -> list[str]:
    found = []
    for name in imported(code):
        if not _has_name(name):
            found.append(f"import of {name}: no such module or name")
    return found


def imported(code: list[str]) -> list[str]:
    """Dotted names of this project that the Python lines of a text import."""
    names = []
    for line in code:
        if match := re.match(r"from ([\w.]+) import ([\w, ]+)", line):
            names += [f"{match[1]}.{name.strip()}" for name in match[2].split(",")]
        elif match := re.match(r"import ([\w.]+)", line):
            names.append(match[1])
    return [name for name in names if name.split(".")[0] in PACKAGES]


def _path_faults(text: str) -> list[str]:
    found = []
    for path in re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]+", text):
        pattern = re.sub(r"\b[A-Z]{2,}\b(?=\.|$)", "*", path.rstrip(".,-"))  # docs/pods/CASE.json
        pattern = pattern.replace("*.md", "README.md") if "README" in path else pattern
        if not any(_is_kept(match) for match in ROOT.glob(pattern.rstrip("/"))):
            found.append(f"{path}: no such path")
    return found


def _is_kept(path: Path) -> bool:
    """A file, or a folder that holds more than compiled modules of files that were removed."""
    if path.is_dir():
        return any(p.is_file() and "__pycache__" not in p.parts for p in path.rglob("*"))
    return True


@functools.cache
def _file_names() -> set[str]:
    folders = (ROOT / name for name in FOLDERS)
    return {path.name for folder in folders for path in folder.rglob("*.py")} | {"setup.py"}


def has_field(dotted: str) -> bool:
    """Whether a run has this field, in a model of any family; `section.field` stands for one."""
    kinds: list[typing.Any] = [RunConfig]
    for part in dotted.split("."):
        hints = [typing.get_type_hints(kind) for kind in kinds if dataclasses.is_dataclass(kind)]
        found = [hint[part] for hint in hints if part in hint]
        kinds = [kind for hint in found for kind in (hint, *typing.get_args(hint))]
    return bool(kinds) or dotted == "section.field"


def module(name: str) -> Path | None:
    """The file of a module or package of this project."""
    base = ROOT.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _has_name(dotted: str) -> bool:
    """Whether a dotted name is a module, or what a module defines or imports at its top level."""
    if module(dotted):
        return True
    parent, _, name = dotted.rpartition(".")
    path = module(parent) if parent else None
    if path is None:
        return bool(parent) and "." in parent and _has_name(parent)  # an attribute of a class
    return name in defined(path)


def defined(path: Path) -> set[str]:
    """Names that a module has once it is imported, those of `from x import *` included."""
    names: set[str] = set()
    for node in _module_level(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
            source = module(getattr(node, "module", None) or "?")
            if "*" in names and source:
                names |= {name for name in defined(source) if not name.startswith("_")}
            names.discard("*")
    return names


def _module_level(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported as such; bodies of functions are left out."""
    for child in ast.iter_child_nodes(node):
        yield child
        main = isinstance(child, ast.If) and "__name__" in ast.dump(child.test)
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda) and not main:
            yield from _module_level(child)


def is_program(name: str) -> bool:
    """Whether `python -m name` runs something."""
    path = module(name)
    return path is not None and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


@functools.cache
def module_flags(name: str) -> Flags:
    """Flags of `python -m name`: all that it defines, and those of the modules it imports."""
    path = module(name)
    assert path
    flags = OF_ABSL | OF_SETTINGS.get(name, {}) | _definitions(ast.walk(_tree(path)))
    seen = {path}
    waiting = [path]
    while waiting:
        for node in _module_level(_tree(waiting.pop())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for target in filter(None, map(module, names)):
                if target not in seen and target.is_relative_to(ROOT):
                    seen.add(target)
                    waiting.append(target)
                    flags |= _definitions(_module_level(_tree(target)))
    return flags


def own_flags(name: str) -> Flags:
    """Flags that the file of a program itself defines."""
    path = module(name)
    assert path
    return _definitions(ast.walk(_tree(path)))


def _definitions(nodes: typing.Iterable[ast.AST]) -> Flags:
    flags: Flags = {}
    for node in nodes:
        called = getattr(node, "func", None)
        if not isinstance(called, ast.Attribute) or not called.attr.startswith("DEFINE_"):
            continue
        assert isinstance(node, ast.Call)
        if not isinstance(node.args[0], ast.Constant):
            continue  # see OF_SETTINGS
        name, kind = ast.literal_eval(node.args[0]), ""
        if called.attr in ("DEFINE_bool", "DEFINE_boolean"):
            kind = "bool"
        elif called.attr in ("DEFINE_config", "DEFINE_overrides"):
            kind = "config"
        elif called.attr == "DEFINE_enum" and isinstance(node.args[2], ast.List | ast.Tuple):
            kind = "|".join(ast.literal_eval(node.args[2]))
        flags[name] = kind
    return flags


def script(name: str) -> Path | None:
    """The shell script of this name, wherever it is placed below tpu_scripts."""
    return next(iter(sorted((ROOT / "tpu_scripts").rglob(name))), None)


@functools.cache
def script_flags(name: str) -> Flags:
    """Flags of a script: its own, and those that env.sh reads for every verb."""
    path = script(name)
    assert path
    text = path.read_text()
    flags = _cases(text) | {"help": ""}
    if own := re.search(r"^begin '([^']*)'", text, re.MULTILINE):
        common = (ROOT / "tpu_scripts" / "env.sh").read_text()
        settings = re.findall(r"^(\w+)\|", common, re.MULTILINE)
        flags |= dict.fromkeys([*own[1].split(), *settings], "") | _cases(common)
    return flags


def _cases(text: str) -> Flags:
    """Flags among the patterns of `case`, but for former ones, which are refused."""
    found = re.findall(r"--(\w+)(\.\*)?(?:=\*)?(?=\)(?! (?:die|fail))| \|)", text)
    return {name: "config" if fields else "" for name, fields in found}


@functools.cache
def _all_flags() -> Flags:
    """Flags of any program, for those that a text names alone."""
    flags = dict.fromkeys(FOREIGN_FLAGS, "")
    for folder in ("experiments", "experiments/studies", "data_pipeline"):
        for path in (ROOT / folder).glob("*.py"):
            program = f"{folder.replace('/', '.')}.{path.stem}"
            if is_program(program):
                for name, kind in module_flags(program).items():
                    flags[name] = kind if kind in ("bool", "config") else flags.get(name, "")
    for path in (ROOT / "tpu_scripts").glob("*.sh"):
        flags |= script_flags(path.name)
    return flags
