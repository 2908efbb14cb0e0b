"""The house: which way imports go, what may load torch, how long a file may be."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from paribus import parts

REPO = Path(__file__).resolve().parents[1]
SRC = REPO / "src" / "paribus"
HEAVY = ("torch", "numpy", "scipy")

# ── imports go one way ──────────────────────────────────────────────────────────────────────

# A package of the house -> the packages that it may import, besides itself and the root modules.
BELOW_ENGINE = {"probes", "tasks", "optim", "nn", "text"}
MAY_IMPORT = {
    "root": set(),  # contracts, errors, lazy, parts, rng, spec and other single files
    "text": set(),
    "nn": set(),
    "optim": {"nn", "text"},
    "tasks": {"nn", "text"},
    "probes": {"nn", "text"},
    "store": set(),
    "study": {"store"} | BELOW_ENGINE,
    "engine": {"study", "store"} | BELOW_ENGINE,
    "launch": {"study", "store", "engine"} | BELOW_ENGINE,
    "analysis": {"study", "store"} | BELOW_ENGINE,  # reads records alone: never engine or launch
    "doctor": {"store", "launch", "cli"},
    "studies": {"facade", "study"} | BELOW_ENGINE,  # written as a user would write them
}
ANYTHING = {
    "cli",
    "verbs",
    "running",
    "asked",
    "looking",
    "standing",
    "upkeep",
    "comparing",
    "evaluating",
    "asking",
    "sharing",
    "notes",
    "api",
    "facade",
    "__main__",
}
# The signatures of contracts name what text opens into and what is asked of models; only a type
# checker follows that.
FOR_TYPES_ALONE = {("paribus.contracts", "text"), ("paribus.readers", "nn")}

# Part files may import these root modules, and non-part modules of these packages by kind.
PART_ROOTS = {"contracts", "errors", "lazy", "moving", "parts", "rng", "sequence", "spec"}
PART_PACKAGES = {
    "corpora": {"text"},
    "tokenizers": {"text"},
    "mlps": {"nn"},
    "mixers": {"nn"},
    "norms": {"nn"},
    "tasks": {"text", "nn"},
    "probes": {"nn", "text"},
}
# Third-party libraries of part files: as the file loads, and inside functions or for type checkers.
PART_AT_LOAD = {"numpy", "msgspec"}
PART_DEFERRED = {"numpy", "msgspec", "torch"}
PART_DEFERRED_TEXT = {"datasets", "pyarrow", "tokenizers", "transformers"}


class Import(NamedTuple):
    module: str
    line: int
    when: str  # "load": as the file is imported; "call": in a function; "types": for type checkers


def module_name(path: Path) -> str:
    names = ["paribus", *path.relative_to(SRC).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def is_module(name: str) -> bool:
    place = SRC.joinpath(*name.split(".")[1:])
    return place.is_dir() or place.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, function-level and TYPE_CHECKING ones included."""

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, when)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module_name(path).split(".")
                package = here if path.name == "__init__.py" else here[:-1]
                up = package[: len(package) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                ours = base.split(".")[0] == "paribus" and is_module(inner)
                yield Import(inner if ours else base, node.lineno, when)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(str(node.args[0].value), node.lineno, when)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, "types")
            for child in node.orelse:
                yield from visit(child, when)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, "call" if inside and when == "load" else when)

    yield from dict.fromkeys(visit(ast.parse(path.read_text(encoding="utf-8")), "load"))


def package_of(module: str) -> str:
    """The package of the house that a module of ours belongs to."""
    if module == "paribus":
        return "facade"
    top = module.split(".")[1]
    return top if top in MAY_IMPORT or top in ANYTHING else "root"


def sources() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def part_files() -> dict[Path, str]:
    """File -> kind, for every shipped part."""
    return {
        file: kind
        for kind, folder in parts.FOLDERS.items()
        for file in sorted(SRC.joinpath(*folder.split(".")).glob("*.py"))
        if not file.stem.startswith("_")
    }


def test_imports_go_one_way():
    wrong = []
    for path in sources():
        mine = package_of(module_name(path))
        if mine in ANYTHING:
            continue
        for found in imports(path):
            if found.module.split(".")[0] != "paribus":
                continue
            theirs = package_of(found.module)
            if found.when == "types" and (module_name(path), theirs) in FOR_TYPES_ALONE:
                continue
            if theirs not in {mine, "root"} | MAY_IMPORT[mine]:
                place = f"{path.relative_to(REPO)}:{found.line}"
                wrong.append(f"{place}: {mine} imports {found.module} ({theirs})")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_place_in_the_order():
    folders = {p.name for p in SRC.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= MAY_IMPORT.keys(), "name the new package in MAY_IMPORT, with what it imports"


def test_parts_stand_alone():
    shipped = part_files()
    of_parts = {module_name(path) for path in shipped}
    wrong = []
    for path, kind in shipped.items():
        for found in imports(path):
            top, *rest = found.module.split(".")
            if top == "paribus":
                first = rest[0] if rest else ""
                fine = first in PART_ROOTS or (
                    first in PART_PACKAGES.get(kind, set()) and found.module not in of_parts
                )
                # What several parts of a folder share stands beside them, with _ before its name.
                fine = fine or found.module.startswith(f"{module_name(path).rpartition('.')[0]}._")
            else:
                deferred = PART_DEFERRED | (
                    PART_DEFERRED_TEXT if kind in {"corpora", "tokenizers"} else set()
                )
                fine = (
                    top in sys.stdlib_module_names
                    or top in PART_AT_LOAD
                    or (found.when != "load" and top in deferred)
                )
            if not fine:
                place = f"{path.relative_to(REPO)}:{found.line}"
                wrong.append(f"{place}: a part of {kind}/ imports {found.module}")
    assert not wrong, "\n".join(wrong)


# ── sizes ───────────────────────────────────────────────────────────────────────────────────


def test_files_stay_short():
    small = part_files()
    wrong = []
    for path in sorted(p for p in SRC.rglob("*") if p.suffix in {".py", ".html", ".css", ".js"}):
        limit = 150 if path in small else 400 if path == SRC / "nn" / "transformer.py" else 500
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            wrong.append(f"{path.relative_to(REPO)}: {lines} lines, {limit} allowed")
    assert not wrong, "\n".join(wrong)


# ── what stays light ────────────────────────────────────────────────────────────────────────


def loaded_by(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after running ``code``."""
    tail = f"\nimport sys\nprint('loaded:', *[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


HELP = """
import sys
sys.argv = ["paribus", "--help"]
from paribus.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""


def test_help_loads_nothing_heavy():
    assert loaded_by(HELP) == []


def test_help_is_quick():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # measure with cached bytecode
        subprocess.run(
            [sys.executable, "-c", HELP], check=True, stdout=subprocess.DEVNULL, env=env, timeout=60
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    # Processor time, not the clock's: other tests run beside this one.
    assert min(seconds() for _ in range(3)) < 0.3


def test_scanning_parts_loads_no_torch():
    assert "torch" not in loaded_by("from paribus import parts; assert parts.scan_all()")


@pytest.mark.parametrize("package", ["study", "analysis", "store", "launch", "doctor", "cli"])
def test_controller_loads_no_torch(package):
    """plan, status, results, report and verdicts run where torch is missing or slow to load."""
    modules = sorted(
        module_name(p)
        for p in [*SRC.glob(f"{package}.py"), *(SRC / package).rglob("*.py")]
        if p.name != "__main__.py"
    )
    assert modules
    assert "torch" not in loaded_by("\n".join(f"import {m}" for m in modules))


# ── nothing of the machine it was written on ────────────────────────────────────────────────

# Put together here so that this file does not hold what it looks for.
HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org"]
FORBIDDEN = re.compile(
    r"(?<![\w.~)}\]])/(?:work|root)(?![\w-])"  # a folder of one machine
    r"|--?(?:extra-)?index-" + r"url|--find-" + r"links"
    r"|" + "|".join(map(re.escape, HOSTS)),
)


def repository_files() -> Iterator[Path]:
    skip = {"__pycache__", "build", "dist", "htmlcov", "runs"}
    for folder, folders, files in os.walk(REPO):
        folders[:] = [
            f for f in folders if f not in skip and (not f.startswith(".") or f in {".ci"})
        ]
        for name in files:
            if name != ".git":  # a linked worktree's names where the repository is
                yield Path(folder) / name


def test_no_file_names_a_machine():
    wrong = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if found := FORBIDDEN.search(line):
                wrong.append(f"{path.relative_to(REPO)}:{number}: {found.group()}")
    assert not wrong, "\n".join(wrong)
