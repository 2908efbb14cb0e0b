"""Preflight: for each distinct graph two steps, a checkpoint round trip and every condition, so
that nothing dies in evaluation at hour thirty; and a setting that nothing reads is refused."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paribus import parts, reads
from paribus import spec as specs
from paribus.engine import checkpoint, worker
from paribus.engine.evaluate import TOKENS, evaluate
from paribus.engine.judging import setting
from paribus.engine.members import Member, Phase, member
from paribus.engine.settings import Settings, apply, pick_device
from paribus.engine.train import Trainer
from paribus.errors import ParibusError, Refused, SpecError
from paribus.parts import defaults, dump, same
from paribus.text import paths
from paribus.text.data import Data

__all__ = ["Finding", "check", "main", "pick_device"]


@dataclass(frozen=True)
class Finding:
    """What preflight found about one graph or part."""

    name: str
    failed: bool
    text: str
    seconds: float = 0.0

    def data(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{'FAILED' if self.failed else 'ok':6} {self.name}: {self.text}"


def check(plan: Any, device: str) -> list[Finding]:
    """The preflight of a plan, and the contract tests of the parts beside the study."""
    from paribus.engine import contract

    settings = Settings(device=device)
    apply(settings)
    out = []
    used = {k for i in plan.items for k in i.trial.data["parts"]}
    for kind, name, _ in parts.local_files():
        part = f"{kind}.{name}"
        if part not in used:
            out.append(Finding(part, False, "not used by this study, so not tested"))
            continue
        out += [
            Finding(part, r.failed, f"{r.name}: {r.text}")
            for r in contract.run(parts.get(kind, name))
        ]
    cache = Path(plan.store.home) / "cache"
    out += run(plan.graphs(), settings, cache)
    if not any(f.failed for f in out):  # what cannot be trained cannot be compared
        out += _idle(plan.expansion, settings, cache)
    return out


def _idle(expansion: Any, settings: Settings, cache: Path) -> list[Finding]:
    """Factors without an effect."""
    from paribus.engine.effects import idle

    settings = replace(settings, compile="off")
    with tempfile.TemporaryDirectory() as scratch:
        data = Data(cache if cache.is_dir() else Path(scratch))
        why = "has no effect: data, learning rates and weights after two steps are the same at all "
        return [
            Finding(f"factor {name}", True, f"{why}of its levels")
            for name in idle(expansion, settings, data)
        ]


def run(graphs: Sequence[Mapping[str, Any]], settings: Settings, cache: Path) -> list[Finding]:
    """One finding a graph.  Nothing is compiled: that takes longer than all the rest, and where it
    fails trials run as they are."""
    out = []
    settings = replace(settings, compile="off")
    with tempfile.TemporaryDirectory() as scratch:
        data = Data(cache if cache.is_dir() else Path(scratch))
        for graph in graphs:
            began = time.monotonic()
            try:
                text = _graph(graph, settings, data)
                out.append(Finding(graph["name"], False, text, time.monotonic() - began))
            except ParibusError as error:
                out.append(Finding(graph["name"], True, str(error)))
            except torch.OutOfMemoryError as error:
                out.append(Finding(graph["name"], True, f"out of memory: {error}".split("\n")[0]))
            except Exception as error:
                where = f"{type(error).__name__}: {error}".split("\n")[0]
                out.append(Finding(graph["name"], True, where))
    return out


def _graph(graph: Mapping[str, Any], settings: Settings, data: Data) -> str:
    m = member(graph["data"], "preflight", graph["name"])
    _large_enough(m.phases, data)
    short = [Phase(p.name, shorter(p.spec, settings), p.optim) for p in m.phases]
    # One process stands for all ranks here: it computes as many rows at a time as each of them.
    rows = -(-max(p.spec.rows or 1 for p in short) // settings.world)
    conditions = [c for c in graph["conditions"] if c["spec"]]
    judged = [specs.load(c["spec"]) for c in conditions]
    with reads.Reads(*(p.spec for p in short), *judged) as seen:
        _resolve(short, [p.steps for p in m.phases])
        m = Member("preflight", graph["name"], m.seed, short)
        trainer = Trainer([m], settings, data, micro=rows)
        trainer.run()
        _round_trip(m)
        params, beyond = trainer.params, 0
        for c, spec in zip(conditions, judged, strict=True):
            rows = max(1, TOKENS // (spec.task.io().length or 1))
            asked = setting(c)
            asked = replace(asked, spec=spec, examples=2 if asked.probe else rows)
            now = {k: t.detach() for k, t in params.items()}
            try:
                evaluate(now, [spec], [m.seed], asked, data, settings)
            except Refused:  # what a probe cannot ask of this model is an outcome, as of a task
                if asked.probe is None:
                    raise
                beyond += 1
    _refuse_unread(graph, m.phases, seen)
    refused = len(graph["conditions"]) - len(conditions) + beyond
    n = sum(t[0].numel() for t in params.values())
    return f"{n:,} parameters, two steps, checkpoint, {len(conditions) - beyond} conditions" + (
        f", {refused} refused" if refused else ""
    )


def shorter(spec: specs.Spec, settings: Settings) -> specs.Spec:
    """Two steps; on the CPU of two rows."""
    spec = specs.patch(spec, "steps", 2)
    task_rows = spec.task.rows()
    if settings.device == "cpu" and task_rows is None:
        spec = specs.patch(spec, "rows", min(spec.rows or 2, 2))
    return spec


def _large_enough(phases: Sequence[Phase], data: Data) -> None:
    """Refuse a corpus that is smaller than one batch: its rows would stand twice in a step."""
    for p in phases:
        epoch = p.spec.task.open(data.bind("train"), "cpu").epoch
        if epoch is not None and epoch < (p.spec.rows or 1):
            raise SpecError(
                f"the training split has {epoch} rows of {p.spec.task.io().length} tokens, fewer "
                f"than the {p.spec.rows} rows of one step; take more text or fewer rows"
            )


def _resolve(phases: Sequence[Phase], steps: Sequence[int]) -> None:
    """What resolution and identity read counts as read, and what the schedule reads in any of its
    steps: two of them are warm-up as a rule."""
    for p, total in zip(phases, steps, strict=True):
        specs.resolve(p.spec)
        p.spec.task.fingerprints()
        for i in range(65):
            p.spec.schedule.factor(i * (total - 1) // 64, total)
        _look(p.spec.schedule)


def _look(part: Any) -> None:
    """What a schedule that looks at losses reads at a look, which two steps need not reach."""
    if type(part).adapts and part.every:
        part.decisions([1.0])
        if part.on == "train":
            part.mean([1.0])
        else:
            part.examples  # noqa: B018


def _round_trip(m: Member) -> None:
    if m.state is None:
        raise SpecError(f"after two steps: {m.reason}")
    files = checkpoint.encode(*m.state)
    with tempfile.TemporaryDirectory() as folder:
        where = {}
        for name, content in files.items():
            where[name] = Path(folder) / name
            where[name].write_bytes(content)
        tensors, notes = checkpoint.decode(where)
    if notes != json.loads(json.dumps(m.state[1])) or any(
        not torch.equal(t, m.state[0][k]) and not t.isnan().any() for k, t in tensors.items()
    ):
        raise ParibusError("a checkpoint does not come back as it was written")


# Settings whose effect two steps cannot show, or that are read before: never called unread.
_BEYOND = ("corpora", "tokenizers")


def _refuse_unread(graph: Mapping[str, Any], phases: Sequence[Phase], seen: reads.Reads) -> None:
    """Refuse what a factor sets, or the base sets away from its default, and nothing read."""
    for path, value in reads.structs(phases[-1].spec).items():
        if isinstance(value, parts.Part) and value.kind in _BEYOND:
            continue
        default = defaults(type(value))
        for field, now in parts.raw(value).items():
            place = f"{path}.{field}" if path else field
            changed = field not in default or not same(dump(now), default[field])
            varied = place in graph.get("varied", ())
            if (changed or varied) and seen.unread(place):
                factor = f"factor {graph['varied'][place]!r}: " if varied else ""
                raise SpecError(
                    f"{factor}{place} = {dump(now)!r} has no effect: nothing "
                    "read it while the trial was built and took two steps"
                )


def main() -> int:
    """The process at the start of a run; findings as JSON lines.  Where nothing is wrong it may be
    told to go on as a worker: torch is loaded once for both."""
    told = json.loads(sys.stdin.readline())
    work, settings = told["work"], Settings(**told["settings"])
    local, base = (Path(work[k]) if work.get(k) else None for k in ("local", "base"))
    parts.use_local(local, base)
    paths.use_base(base)
    try:
        apply(settings)
    except ParibusError as error:
        print(json.dumps(Finding("preflight", True, str(error)).data()))
        return 0
    cache = Path(work["home"]) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    failed = False
    for graph in work["graphs"]:
        (finding,) = run([graph], settings, cache)
        failed |= finding.failed
        if not finding.failed:
            marks = Path(work["marks"])
            marks.mkdir(parents=True, exist_ok=True)
            (marks / graph["id"]).touch()
        print(json.dumps(finding.data()), flush=True)
    if failed:
        return 0
    if settings.device.startswith("cuda"):
        torch.cuda.empty_cache()
    print(json.dumps({"passed": True}), flush=True)
    line = sys.stdin.readline()
    return worker.work(json.loads(line)) if line else 0
