"""Parts that are broken on purpose, beside a study: each is caught by the test that names it."""

from __future__ import annotations

import pytest

from paribus import parts
from paribus.engine import contract
from paribus.engine.train import Trainer
from paribus.errors import SpecError

HEAD = "from __future__ import annotations\n\nfrom typing import Any, ClassVar\n\n"

MASK = (
    HEAD
    + """from paribus.contracts import Mask


class Leaky(Mask, frozen=True, kw_only=True):
    def allowed(self, layer, q, k):
        return k.index <= q.index + 1
"""
)

POSITION = (
    HEAD
    + """from paribus.contracts import Position
from paribus.lazy import torch


class Rope(Position, frozen=True, kw_only=True):
    base: float = 10000.0

    def tables(self, d, pos):
        place = torch.arange(pos.token.shape[-1], dtype=torch.float64)[None, None]
        pair = torch.arange(0, d.head_dim, 2, dtype=torch.float64) / d.head_dim
        angle = place[..., None] * self.base**-pair
        return {"cos": angle.cos(), "sin": angle.sin()}

    def rotate(self, t, p, x):
        c, s = t["cos"].unsqueeze(2), t["sin"].unsqueeze(2)
        a, b = x.chunk(2, -1)
        return torch.cat([a * c - b * s, b * c + a * s], -1)
"""
)

SCHEDULE = (
    HEAD
    + '''import math

from paribus.contracts import Schedule


class Cosine(Schedule, frozen=True, kw_only=True):
    """Half a cosine."""

    floor: float = 0.0

    def factor(self, step, total):
        step = 0
        return self.floor + (1 - self.floor) * (0.5 + 0.5 * math.cos(math.pi * step / total))
'''
)

TASK = (
    HEAD
    + """from paribus.contracts import Io, Metric, Source, Task
from paribus.lazy import F, torch


class Dice(Task, frozen=True, kw_only=True):
    metrics: ClassVar[dict[str, Metric]] = {"loss": Metric("nats/token")}

    def io(self):
        return Io(vocab=6, length=8)

    def open(self, data, device):
        return Rolls()

    def loss(self, outputs, batch):
        nats = self.nats(outputs, batch)
        return nats.sum((1, 2)), torch.ones_like(nats).sum((1, 2))

    def score(self, outputs, batch):
        nats = self.nats(outputs, batch)
        return {"loss": (nats.double().sum(2), torch.ones_like(nats).sum(2))}

    def nats(self, outputs, batch):
        targets = batch["targets"]
        flat = F.cross_entropy(outputs.flatten(0, 2), targets.flatten(), reduction="none")
        return flat.view(targets.shape)


class Rolls(Source):
    size = 16

    def batch(self, seed, step, rows):
        rolls = torch.randint(0, 6, (len(rows), 8))
        return {"inputs": rolls, "targets": rolls.flip(1)}

    def examples(self, i, j):
        rolls = torch.arange(i, j)[:, None] * torch.ones(8, dtype=torch.long) % 6
        return {"inputs": rolls, "targets": rolls.flip(1)}
"""
)

# A millionth of the stack's mean: far below what a loss curve would show.
MIXING = (
    HEAD
    + """from paribus.contracts import Position


class Mixing(Position, frozen=True, kw_only=True):
    def embed(self, t, p, x):
        return x + 1e-6 * (x.mean(0, keepdim=True) - x)
"""
)

NORM = (
    HEAD
    + """from paribus.contracts import Norm
from paribus.lazy import torch


class NoEps(Norm, frozen=True, kw_only=True):
    def forward(self, p, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x / x.square().mean(-1, keepdim=True).sqrt()
"""
)

FORGETS = NORM.replace("NoEps", "Forgets").replace(
    "mean(-1, keepdim=True)", "mean(-1, keepdim=True).add(1)"
) + (
    """
    def added(self, p, x, y):
        return x + y, self.forward(p, x)
"""
)

PROMISE = (
    HEAD
    + """from paribus.contracts import Mask


class Wide(Mask, frozen=True, kw_only=True):
    sdpa: ClassVar[str | None] = "causal"

    def allowed(self, layer, q, k):
        return (k.index <= q.index) & (q.index - k.index < 8 - 4 * layer)
"""
)

OPTIM = (
    HEAD
    + """from paribus.contracts import Optimizer


class First(Optimizer, frozen=True, kw_only=True):
    lr: float
    stackable: ClassVar[frozenset[str]] = frozenset({"lr"})

    def states(self, p):
        return 0

    def state(self, params, declared):
        return {}

    def update(self, v, params, grads, state, step, declared):
        for path, w in params.items():
            w.sub_(grads[path] * v["lr"][0])
"""
)

MICRO = TASK.replace(
    "rolls = torch.randint(0, 6, (len(rows), 8))",
    "from paribus.rng import Stream\n"
    "        words = Stream(seed, 'dice', step).integers(len(rows) * 8, 6)\n"
    "        rolls = torch.from_numpy(words).view(8, len(rows)).T.contiguous()",
)

TOLD = TASK.replace(
    "rolls = torch.randint(0, 6, (len(rows), 8))",
    "from paribus.rng import Stream, integers\n"
    "        words = Stream(seed + self.told, 'dice').rows(rows, 8)\n"
    "        rolls = torch.from_numpy(integers(words, 6))",
).replace(
    "    size = 16\n",
    "    size = 16\n    told = 0\n\n"
    "    def expect(self, seeds, rows):\n        self.told = len(seeds)\n",
)

HEAVY = MASK.replace("+ 1", "").replace(
    "from paribus.contracts", "import torch\nfrom paribus.contracts"
)

NEEDY = MASK.replace("+ 1", "").replace("    def", "    rule: dict[str, int]\n\n    def", 1)

SINGLE = POSITION.replace("angle.cos()", "angle.float().cos()").replace(
    "torch.arange(pos.token.shape[-1], dtype=torch.float64)[None, None]", "pos.token"
)

ENDLESS = (
    HEAD
    + """from paribus.contracts import P, Position


class Endless(Position, frozen=True, kw_only=True):
    def params(self, d):
        return {"table": P((24, d.width), role="position")}

    def tables(self, d, pos):
        return {"place": pos.token.long() % 24}

    def embed(self, t, p, x):
        return x + p["table"][:, t["place"][0, 0]][:, None]

    def limit(self):
        return 24
"""
)

DECAYS = OPTIM.replace("w.sub_(", "w.mul_(1 - self.weight_decay * self.lr).sub_(").replace(
    "    stackable", "    weight_decay: float = 0.1\n    stackable"
)

HIDDEN = OPTIM.replace("class First", "STEPS = [0]\n\n\nclass First").replace(
    "        for path",
    "        STEPS[0] += 1\n        v['lr'] = v['lr'] / STEPS[0]\n        for path",
)

COUNTING = SCHEDULE.replace("class Cosine", "CALLS = [0]\n\n\nclass Cosine").replace(
    "step = 0", "CALLS[0] += 1\n        step = min(CALLS[0], total)"
)

SILENT = MICRO.replace('"targets": rolls.flip(1)', '"targets": rolls.roll(-1, 1)')

CONSTANT = (
    HEAD
    + """from paribus.contracts import Init


class Loud(Init, frozen=True, kw_only=True):
    def rule(self, p, d):
        return "constant", 0.02
"""
)

# Steps as long as all weights of the trial say, of which some are none of its own.
COUPLED = OPTIM.replace(
    "        for path",
    "        import torch\n"
    "        each = range(len(v['lr']))\n"
    "        size = [sum(w[e].square().sum() for w in params.values()) for e in each]\n"
    "        rate = v['lr'] * torch.stack(size)\n"
    "        for path",
).replace(
    'w.sub_(grads[path] * v["lr"][0])', "w.sub_(grads[path] * rate.view(-1, *[1] * (w.ndim - 1)))"
)

TURNED = CONSTANT.replace('"constant", 0.02', '"normal", 0.02') + (
    "\n    def made(self, p, d, drawn):\n        return drawn.T\n"
)

BROKEN = {
    # file: (source, the test that catches it, what its text says)
    "masks/leaky": (MASK, "causality", "layer 0 query 0 reads key 1"),
    "positions/restarting": (POSITION, "cache", "must read pos.token, not count from 0"),
    "schedules/stuck": (SCHEDULE, "moves", "does not read `step`"),
    "tasks/dice": (TASK, "determinism", "rng.Stream"),
    "positions/mixing": (MIXING, "stack", "not bit-equal"),
    "norms/no_eps": (NORM, "shape", "add an eps"),
    "norms/forgets": (FORGETS, "shape", "`added` gives other numbers"),
    "masks/wide": (PROMISE, "promise", "query 8, key 0"),
    "optim/first": (OPTIM, "stack", "read stackable fields from v"),
    "tasks/micro": (MICRO, "rows", "global row"),
    "tasks/told": (TOLD, "rows", "after expect("),
    "positions/single": (SINGLE, "tables", "compute it in float64"),
    "positions/endless": (ENDLESS, "limit", "takes token 24"),
    "optim/decays": (DECAYS, "decay", "declared with decay=False"),
    "optim/hidden": (HIDDEN, "state", "keep all it needs in state()"),
    "schedules/counting": (COUNTING, "pure", "depends on earlier calls"),
    "tasks/silent": (SILENT, "causal", "causal: ClassVar[bool] = True"),
    "optim/coupled": (COUPLED, "stack", "update each tensor by itself"),
    "init/turned": (TURNED, "moments", "made() turns embed.tokens into"),
    "init/loud": (CONSTANT, "keyed", "have the same queries"),
    "masks/heavy": (HEAVY, "light", "from paribus.lazy import torch"),
    "masks/needy": (NEEDY, "examples", "examples: ClassVar = [dict(rule="),
}


@pytest.fixture
def beside(tmp_path):
    """Puts a part beside a study; gives its class."""

    def put(name: str, source: str) -> type[parts.Part]:
        file = tmp_path / "parts" / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(source)
        parts.use_local(tmp_path)
        (cls,) = [parts.get(kind, name) for kind, name, _ in parts.local_files()]
        return cls

    yield put
    parts.use_local(None)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_part_is_caught(name, beside):
    source, test, says = BROKEN[name]
    results = contract.run(beside(name, source))
    failed = {r.name: r.text for r in results if r.failed}
    assert test in failed, results
    text = failed[test]
    print(f"{name} [{test}] {text}")
    assert text.startswith(name.replace("/", ".")), "the text names the part"
    assert says in text
    assert "\n" not in text
    assert len(text) < 320, "one line"


def test_a_sound_part_beside_the_study_passes(beside):
    results = contract.run(beside("masks/sound", MASK.replace(" + 1", "")))
    assert [r for r in results if r.failed] == []
    assert {"reachability", "causality", "promise", "cache", "stack"} <= {r.name for r in results}


def test_an_engine_that_never_steps_the_schedule_is_caught(monkeypatch):
    advance = Trainer._advance

    def stuck(self):
        self.first = self.step  # each step is taken for the first of its phase
        advance(self)

    monkeypatch.setattr(Trainer, "_advance", stuck)
    results = {r.name: r for r in contract.run(parts.get("schedules", "cosine"))}
    assert "step 1 of 12 was trained at lr" in results["trace"].text
    assert [r.name for r in results.values() if r.failed] == ["trace"]


def test_a_crash_names_the_line(beside):
    crash = MASK.replace("k.index <= q.index + 1", "k.index <= q.indices")
    results = {r.name: r for r in contract.run(beside("masks/crash", crash))}
    assert "crash.py:10: " in results["causality"].text
    assert "no coordinate 'indices'" in results["causality"].text


def test_running_leaves_the_process_as_it_was(beside):
    import torch

    cls, threads = beside("masks/sound", MASK.replace(" + 1", "")), torch.get_num_threads()
    before = contract.generators()
    contract.run(cls)
    contract.run(parts.get("tasks", "copying"))
    after = contract.generators()
    assert before[0] == after[0]
    assert str(before[1]) == str(after[1])
    assert torch.equal(before[2], after[2])
    assert torch.get_num_threads() == threads


def test_a_causal_task_refuses_a_mask_that_shows_later_tokens():
    from paribus.engine.contract_train import small
    from paribus.spec import patch, resolve

    full = parts.get("masks", "full")()
    says = r"model.mask: masks.full\(\) shows later tokens, and task copying predicts them; use"
    with pytest.raises(SpecError, match=says):
        resolve(patch(small(), "model.mask", full))
