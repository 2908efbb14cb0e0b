"""The examples of the documentation: every ```python block runs, every study in it expands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paribus import api, parts, verbs
from paribus.analysis import findings
from paribus.store import Store
from paribus.study import hypotheses, source
from paribus.study.audit import declared, refusals
from paribus.study.plan import Plan, study_record
from paribus.study.study import Study
from paribus.study.trunks import Forest
from paribus.tasks import _schemas
from paribus.text import paths

REPO = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "README.zh-CN.md", "docs/study-files.md", "docs/design.md",
         "docs/reports.md", "docs/sharing.md", "docs/probes.md")  # fmt: skip
STUDIES = ("docs/studies/parallelmind.md", "docs/studies/parallelmind.zh-CN.md")
JOINS = ("docs/studies/table-connectivity.md", "docs/studies/table-connectivity.zh-CN.md")
FROZEN = ("docs/studies/qk-freeze.md", "docs/studies/qk-freeze.zh-CN.md")
LONGER = ("docs/studies/rope-scaling.md", "docs/studies/rope-scaling.zh-CN.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    monkeypatch.setattr(api.Loaded, "results", with_values)
    yield
    parts.use_local(None)
    paths.use_base(None)


def with_values(loaded: api.Loaded) -> list[dict[str, Any]]:
    """The rows of a study that was not run, as if every cell had a value."""
    return [{**row, "value": 1.0 + i} for i, row in enumerate(loaded._rows)]


class Planned:
    """What a study's record reads of a plan, without the data that identities need."""

    def __init__(self, study: Study) -> None:
        self.study, self.expansion, self.items = study, study.expand(), []
        self.forest = Forest([], {}, 0)


def executed(page: str, first: int | None = None) -> dict[str, Any]:
    """The namespace that a page's (first) blocks leave, and every study, expanded and verified.

    A block that begins with the comment ``# parts/…`` is a file beside the study.
    """
    text = (REPO / page).read_text(encoding="utf-8")
    space: dict[str, Any] = {"__name__": "docs"}
    seen: dict[str, Study] = {}
    kept: list[type[parts.Part]] = []
    for match in list(BLOCK.finditer(text))[:first]:
        line = text.count("\n", 0, match.start()) + 1
        block = match.group(1)
        if block.startswith("# parts/"):
            file = Path(block.splitlines()[0].removeprefix("# "))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block, encoding="utf-8")
            parts.use_local(Path.cwd())
            kept.append(parts.get(*parts.local_files()[-1][:2]))
            continue
        code = compile("\n" * line + block, page, "exec")
        exec(code, space)
        if callable(made := space.get("study")):
            space["study"] = made(space["SCALES"][0])
        for value in list(space.values()):
            if isinstance(value, Study) and seen.get(value.name) is not value:
                seen[value.name] = value
                claims = {**value.hypotheses, **value.criteria, **value.checks}
                hypotheses.verify(claims, study_record(Planned(value)))  # type: ignore[arg-type]
    return {**space, "studies": seen, "parts": kept}


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_readme(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = source.load("quickstart")
    verbs.register(found, Plan(found.study, Store(Path("runs"))))
    space = executed(page)
    e = space["studies"]["quickstart"].expand()
    assert len(e.trials) == 9
    assert len(list(e.evaluations())) == 36
    assert [cls.__part__ for cls in space["parts"]] == ["power"]
    said = capsys.readouterr().out
    assert "alibi" in said
    assert "extrapolates" in said


@pytest.mark.parametrize("pages", [PAGES[:2], STUDIES, JOINS])
def test_translations_show_the_same_code(pages: tuple[str, str]) -> None:
    first, second = (
        ["\n".join(ln.partition("#")[0].rstrip() for ln in b.splitlines()) for b in blocks(page)]
        for page in pages
    )
    assert first == second  # comments apart
    assert first


def blocks(page: str) -> list[str]:
    return BLOCK.findall((REPO / page).read_text(encoding="utf-8"))


def test_design() -> None:
    """Its first block is a study; the second one is a part, in a shorter form than the real one."""
    assert len(executed("docs/design.md", first=1)["studies"]["key-norm"].trials()) == 10


def test_study_files() -> None:
    studies = executed("docs/study-files.md")["studies"]
    assert len(studies["qk-norm"].trials()) == 6
    assert len(studies["qk-norm"].conditions()) == 3
    assert len(studies["crossed"].trials()) == 12
    names = [t.name for t in studies["named"].trials()]
    assert (names[0], names[1], names[-1]) == (
        "w32-none-run1",
        "w32-none-run2",
        "w64-qk-one-run2",
    )
    assert [s["reason"] for s in studies["fewer"].expand().skipped] == ["too narrow"]
    assert len(studies["joins"].trials()) == 6


@pytest.mark.parametrize("page", STUDIES)
def test_parallelmind(page: str) -> None:
    """The document's table of batches needs the accept that the page shows, and no other; the
    refusal is quoted as it is."""
    space = executed(page)
    table = space["table"]
    assert len(table.trials()) == 9
    assert [len(ids) for ids in space["columnar"]] == [8, 8]
    assert [len(ids) for ids in space["batched"]] == [8, 8]

    assert not refused(table)
    (told,) = refused(replace(table, accept={}))
    assert f"\n{told}\n" in (REPO / page).read_text(encoding="utf-8")


def refused(study: Study) -> list[str]:
    record = Plan(study, Store(Path("home"))).record
    return [findings.line(f) for f in refusals(declared(record))]


@pytest.mark.parametrize("page", JOINS)
def test_table_connectivity(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The arms with the inputs of the original need the accept that the page shows; questions
    written by hand are those that it says."""
    found = source.load("table-connectivity", scale="smoke")
    verbs.register(found, Plan(found.study, Store(Path("runs"))))
    study = executed(page)["study"]
    assert "lowrank" in capsys.readouterr().out
    names = [t.name for t in study.trials()]
    assert len(names) == 60
    assert names[0] == "table_connectivity_standard_V5_N256_run1"
    assert names[3] == "table_connectivity_lowrank_V5_N256_run1"
    assert names[-1] == "table_connectivity_lowrank_V20_N4096_run3"
    text = (REPO / page).read_text(encoding="utf-8")
    assert not refused(study)
    told = refused(replace(study, accept={}))
    assert len(told) == 2
    assert "\n".join(told) in text
    (example,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    Path("probe.json").write_text(example, encoding="utf-8")
    assert _schemas.read("probe.json", 3, 3, "cpu").hops.tolist() == [2, -1, -2]


def test_every_argument_of_a_study_is_documented() -> None:
    import dataclasses
    import inspect

    from paribus.spec import Model, Spec
    from paribus.study.factors import Factor
    from paribus.study.study import Eval

    text = (REPO / "docs/study-files.md").read_text(encoding="utf-8")
    names = {f.name for cls in (Study, Eval) for f in dataclasses.fields(cls)}
    names |= set(inspect.signature(Factor).parameters)
    names |= set(parts.hints(Spec)) | set(parts.hints(Model))
    missing = sorted(n for n in names if not re.search(rf"`{n}`|\b{n}=", text))
    assert not missing


LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, *STUDIES, *JOINS, *FROZEN, *LONGER, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (REPO / page).read_text(encoding="utf-8")
    wrong = [t for t in LINK.findall(text) if not (REPO / page).parent.joinpath(t).exists()]
    assert not wrong
