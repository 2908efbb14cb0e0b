"""``paribus evaluate --probe``, and what it takes of a Hugging Face folder."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paribus import parts
from paribus.analysis import probed
from paribus.asked import value
from paribus.cli import OK, emit
from paribus.contracts import Probe
from paribus.errors import SpecError
from paribus.parts import Namespace as Kind
from paribus.parts import construct, dump
from paribus.spec import CORE_REVISION, Spec, resolve, used_parts
from paribus.study import suites
from paribus.text.lengths import vocabulary
from paribus.text.paths import digest

PROBE = "probe."  # with which its settings start
PICTURES = (".svg", ".png", ".pdf")


Probes = list[tuple[str, Probe]]  # each by what it is called


def probes(o: Namespace) -> Probes:
    """What ``--probe``, ``--size``, ``--data`` and ``--set probe.x=…`` name: one, or a suite."""
    data = str(Path(o.data).expanduser().absolute()) if o.data else None
    fields: dict[str, Any] = {"data": data} if data else {}
    for text in (t for t in o.patches if t.startswith(PROBE)):
        path, equals, said = text.partition("=")
        if not o.probe or not equals:
            raise SpecError(f"--set {text}: write --probe NAME --set probe.field=value")
        fields[path.removeprefix(PROBE)] = value(said)
    if o.size and o.probe not in suites.SUITES:
        raise SpecError(f"--size goes with a suite: --probe {', '.join(suites.SUITES)}")
    if not o.probe:
        return []
    if o.probe in suites.SUITES and o.probe not in parts.available("probes"):
        if fields.keys() - {"data"}:
            raise SpecError(f"--set probe.…: {o.probe} is a suite; ask one of its probes by name")
        made = getattr(suites, o.probe)(o.size or "quick", data)
        found: Probes = [(e.name, e.what) for e in made]
    else:
        part = parts.get("probes", o.probe, "--probe")
        found = [(o.probe, construct(part, fields, f"probes.{o.probe}"))]
    drawn = Path(o.output or "").suffix in PICTURES
    if drawn and (len(found) > 1 or found[0][1].curve is None):
        raise SpecError(f"-o {o.output}: a picture is of one probe that has an axis, such as copy")
    if o.against and len(found) > 1:
        raise SpecError(f"--against goes with one probe; {o.probe} is a suite")
    if o.split and not all(probe.split for _, probe in found):
        raise SpecError(
            f"--split {o.split}: --probe {o.probe} reads no split of the task, so nothing would "
            "change; leave it out (held-out text is the test split's, or --data)"
        )
    for _, probe in found:
        probe.fingerprints()  # what is not there is said before anything is loaded
    return found


def other(o: Namespace) -> Mapping[str, Any] | None:
    """What ``--against`` names: an answer that was written before."""
    if not o.against:
        return None
    try:
        told = json.loads(Path(o.against).read_text(encoding="utf-8"))
        held = bool(told["probe"]) and bool(told["conditions"][0]["items"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        held = False
    if not held:
        raise SpecError(
            f"--against {o.against}: no file that evaluate --probe … -o FILE.json wrote"
        )
    result: Mapping[str, Any] = told
    return result


def report(
    o: Namespace,
    form: str | None,
    model: Mapping[str, Any],
    asked: Probes,
    changes: Sequence[tuple[str, Mapping[str, Any]]],
    records: Sequence[Sequence[Mapping[str, Any]]],
    against: Mapping[str, Any] | None,
) -> int:
    """Print or write what was found.

    Args:
        changes: of each condition, what it is called and what it changes.
        records: of each probe, one a condition.
    """
    each, labels = [], [label for label, _ in changes]
    for (name, probe), mine in zip(asked, records, strict=True):
        told = {"suite": name} if len(asked) > 1 else {}
        lost = [r["reason"] for r in mine if r.get("status") == "refused"]
        if lost:
            each.append({**told, "probe": dump(probe), "not run": lost[0], "conditions": []})
            continue
        found = probed.data(model, dump(probe), [c for _, c in changes], mine, probe.curve)
        if against is not None:
            found["against"] = probed.compared(found, against)
        each.append({**told, **found})
    if o.output and form not in ("csv", "json"):
        picture(o.output, asked, each, labels)
    elif o.output:
        content = json.dumps(each[0] if len(asked) == 1 else {**model, "probes": each}) + "\n"
        if form == "csv":
            content = probed.csv(*(f for f in each if f["conditions"]))
        Path(o.output).parent.mkdir(parents=True, exist_ok=True)
        Path(o.output).write_text(content, encoding="utf-8")
    if o.output:
        print(o.output)
    elif o.json:
        emit(each[0] if len(asked) == 1 else {**model, "probes": each})
    else:
        for i, ((name, probe), found) in enumerate(zip(asked, each, strict=True)):
            print("\n" * (i > 0) + f"── {name}\n" * (len(asked) > 1), end="")
            if found["conditions"]:
                print("\n".join(probed.lines(found, labels, probe.metrics, probe.curve)))
            else:
                print(f"not run: {found['not run']}")
    return OK


def picture(
    output: str, asked: Probes, found: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> None:
    """Draw the curves of a probe that has them."""
    from paribus.analysis.plots import curve

    (_, probe), told = asked[0], found[0]
    assert probe.curve is not None, "probes() has looked"
    curve.write(Path(output), told["conditions"], labels, probe.curve, told["name"])


def hugging_face(folder: Path) -> tuple[dict[str, Any], Path, dict[str, Any]]:
    """(what a trial's spec.json would tell, the folder, its end) of a Hugging Face folder.  Its
    task is language modelling with the folder's tokenizer."""
    from paribus.engine import foreign

    model, _ = foreign.hugging_face(folder)
    spelt = folder / "tokenizer.json"
    if not spelt.is_file():
        raise SpecError(f"{folder} has no tokenizer.json")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = {i: t for t, i in vocabulary(json.loads(spelt.read_text(encoding="utf-8"))).items()}
    begin = config.get("bos_token_id")
    mark = names.get(config.get("eos_token_id") if begin is None else begin)
    tasks, corpora, tokenizers, optim, schedules = (
        Kind(k) for k in ("tasks", "corpora", "tokenizers", "optim", "schedules")
    )
    longest = model.position.limit() if model.position else None
    task = tasks.lm(
        corpus=corpora.stdlib(),
        tokenizer=tokenizers.file(path=str(spelt), bos=mark),
        length=min(longest or 1024, 1024),
    )
    spec = Spec(
        model=model, task=task, optim=optim.adamw(lr=1e-3), schedule=schedules.constant(),
        rows=1, steps=1,
    )  # fmt: skip
    weights = [digest(p) for p in sorted(folder.glob("*.safetensors"))]
    mark_of_all = weights[0] if len(weights) == 1 else "+".join(w[:12] for w in weights)
    told = {
        "phases": [{"name": "train", "spec": dump(resolve(spec))}],
        "seed": 0,
        "core": CORE_REVISION,
        "parts": used_parts(spec),
        "data": {},
    }
    return told, folder, {"weights": mark_of_all, "files": {folder.name: mark_of_all}, "step": None}
