"""Schedules against torch's and transformers', and the figures of the notes on working memory."""

from __future__ import annotations

import math
import re
import statistics

import pytest
import torch

from paribus import Eval, Spec, Study, corpora, optim, parts, presets, recipes, tasks, tokenizers
from paribus.errors import SpecError
from paribus.looking import decided
from tests.engine import tiny

schedules = parts.Namespace("schedules")
S, WARM, PEAK = 12_000, 500, 1e-3


def trace(part, total=S):
    return [part.factor(step, total) for step in range(total)]


def of_torch(make, total, **how):
    """Rates of torch's scheduler at each step."""
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, out = make(o, **how), []
    for _ in range(total):
        out.append(o.param_groups[0]["lr"])
        o.step()
        schedule.step()
    return out


# ── the notes' figures ──────────────────────────────────────────────────────────────────────


def wsd(ratio, **fields):
    return schedules.wsd(warmup=WARM, decay=1 - ratio, reach=False, **fields)


def test_warm_up_stable_decay():
    at = [PEAK * f for f in trace(wsd(0.5))]
    assert at[0] == pytest.approx(2e-6)
    assert at[249] == pytest.approx(5e-4)
    assert at[499] == at[500] == at[5999] == at[6000] == PEAK
    assert at[9000] == pytest.approx(5e-4)
    assert at[11_999] == pytest.approx(1.667e-7, rel=1e-3)
    for ratio in (0.7, 0.9):
        whole = trace(wsd(ratio))
        start = round(ratio * S)
        assert whole[start] == 1 > whole[start + 1]


def test_mean_rates():
    means = [statistics.fmean(trace(wsd(r))) for r in (0.5, 0.7, 0.9)]
    assert means == pytest.approx([0.7293, 0.8293, 0.9293], abs=5e-5)
    cosine = trace(schedules.cosine(warmup=WARM, reach=False))
    linear = trace(schedules.linear(warmup=WARM, reach=False))
    assert statistics.fmean(cosine) == pytest.approx(0.5001, abs=5e-5)
    assert statistics.fmean(linear) == pytest.approx(0.5001, abs=5e-5)
    gap = max(abs(a - b) for a, b in zip(cosine, linear, strict=True))
    assert gap == pytest.approx(0.1053, abs=5e-5)


# ── against other libraries ─────────────────────────────────────────────────────────────────


def test_shapes_are_torchs():
    lib = torch.optim.lr_scheduler
    assert trace(schedules.cosine(reach=False), 50) == pytest.approx(
        of_torch(lib.CosineAnnealingLR, 50, T_max=50)
    )
    linear = of_torch(lib.LinearLR, 50, start_factor=1.0, end_factor=0.0, total_iters=50)
    assert trace(schedules.linear(reach=False), 50) == pytest.approx(linear)
    part = schedules.multistep(milestones=(10, 30), by=0.3)
    assert trace(part, 50) == pytest.approx(
        of_torch(lib.MultiStepLR, 50, milestones=[10, 30], gamma=0.3)
    )
    floor = 0.5 ** (20 / 7)  # MiniCPM's half-life of 7 steps over a decay of 20
    decay = trace(schedules.wsd(decay=20, shape="exponential", floor=floor, reach=False), 50)
    assert decay[30:] == pytest.approx(of_torch(lib.ExponentialLR, 20, gamma=0.5 ** (1 / 7)))


@pytest.mark.parametrize(
    ("shape", "theirs"), [("linear", "linear"), ("sqrt", "1-sqrt"), ("cosine", "cosine")]
)
def test_decays_are_those_of_transformers(shape, theirs):
    transformers = pytest.importorskip("transformers")
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lib = transformers.get_wsd_schedule(
        o, num_warmup_steps=0, num_decay_steps=20, num_stable_steps=30, decay_type=theirs,
        min_lr_ratio=0.1,
    )  # fmt: skip
    (factor,) = lib.lr_lambdas
    part = schedules.wsd(decay=20, shape=shape, floor=0.1, reach=False)
    assert trace(part, 50) == pytest.approx([factor(s) for s in range(50)])


def test_an_exponential_needs_a_floor():
    with pytest.raises(SpecError, match="never reaches"):
        schedules.wsd(shape="exponential")
    with pytest.raises(SpecError, match="each above"):
        schedules.multistep(milestones=(0.9, 0.8))


@pytest.mark.parametrize("patience", [0, 2, 5])
@pytest.mark.parametrize("cooldown", [0, 3])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_plateau_is_torchs(patience, cooldown, noise):
    g = torch.Generator().manual_seed(patience + cooldown)
    values = [2 / (1 + i / 9) + noise * float(torch.randn((), generator=g)) for i in range(80)]
    values[30] = math.nan
    part = schedules.plateau(
        by=0.5, patience=patience, cooldown=cooldown, threshold=1e-2, least=0.01
    )
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        o, factor=0.5, patience=patience, cooldown=cooldown, threshold=1e-2, min_lr=0.01, eps=0
    )
    for value, made in zip(values, part.decisions(values), strict=True):
        theirs.step(value)
        assert made.factor == pytest.approx(o.param_groups[0]["lr"])
        assert made.best == theirs.best


# ── plateaus in training ────────────────────────────────────────────────────────────────────


def flat(on="train", **fields):
    own = {"warmup": 3, "every": 2, "patience": 0, "by": 0.5, "threshold": 0.9, "on": on}
    return schedules.plateau(**{**own, **fields})


@pytest.mark.parametrize("on", ["train", "validation"])
def test_the_rate_falls_as_decided_and_every_decision_is_recorded(on):
    m = tiny.member(1, schedule=flat(on), optim=optim.adamw(lr=1e-3), steps=12)
    trainer = tiny.train([m])
    made = trainer.summary(0)["decisions"]
    assert [d["step"] for d in made] == [5, 7, 9, 11]
    assert [d["improved"] for d in made] == [True, False, False, False]
    rates = [r / 1e-3 for r in trainer.curve(0)["lr"]]
    assert rates == pytest.approx([1 / 3, 2 / 3, *[1] * 5, *[0.5] * 2, *[0.25] * 2, 0.125])
    losses = trainer.curve(0)["loss"]
    if on == "train":
        assert made[0]["value"] == pytest.approx(flat().mean(losses[3:5]))
    else:
        assert made[0]["value"] != pytest.approx(flat().mean(losses[3:5]))


def test_decisions_in_a_line():
    """As ``paribus show`` says them."""
    part = flat()
    made = [d._asdict() | {"step": 2 * i} for i, d in enumerate(part.decisions([3.0, 2.9, 2.9]))]
    assert decided(made) == (
        "3 looks at the loss, 1 of them better; the rate fell 2 times, last at step 4, to 0.25 of "
        "its peak"
    )
    assert decided(made[:1]) == "1 looks at the loss, 1 of them better; the rate never fell"


@pytest.mark.parametrize("on", ["train", "validation"])
def test_a_plateau_resumes_to_the_bit(on):
    def again(until=None):
        return tiny.member(1, schedule=flat(on, memory=0.5), steps=12)

    whole = again()
    tiny.train([whole])
    for stop in (4, 6, 10):
        m, seen = again(), []

        def hook(step=stop, seen=seen):
            seen.append(1)
            return len(seen) > step

        trainer = tiny.Trainer([m], tiny.Settings(), tiny.Data(tiny.Path("unused")))
        trainer.hooks.stop = hook
        with pytest.raises(tiny.Stopped):
            trainer.run()
        m.state = trainer.snapshot(0)
        tiny.train([m])
        assert tiny.equal(m, whole)
        assert m.state[1]["watched"] == whole.state[1]["watched"]


def test_plateaus_stack_with_other_schedules():
    specs = [
        {"schedule": flat()},
        {"schedule": schedules.cosine()},
        {"schedule": flat("validation")},
    ]
    stack = [tiny.member(i + 1, **own) for i, own in enumerate(specs)]
    tiny.train(stack)
    for i, own in enumerate(specs):
        alone = tiny.member(i + 1, **own)
        tiny.train([alone])
        assert tiny.equal(alone, stack[i])
    assert "watched" not in stack[1].state[1]


# ── batches at equal tokens ─────────────────────────────────────────────────────────────────


def test_the_batch_is_what_it_is_said_to_be():
    assert recipes.rows(per_gpu=8, gpus=4, accumulation=8, length=1024, tokens=262_144) == 256
    with pytest.raises(SpecError, match="= 262,144 tokens a step, not 250,000"):
        recipes.rows(per_gpu=8, gpus=4, accumulation=8, length=1024, tokens=250_000)


def test_memory_in_tokens():
    assert recipes.half_life(0.999, 2**16) == pytest.approx(45.4e6, rel=1e-3)
    assert recipes.half_life(0.999, 2**19) == pytest.approx(363e6, rel=1e-3)
    life = recipes.half_life(0.999, 2**18)
    betas = [recipes.beta(life, n) for n in (2**16, 2**17, 2**18, 2**19)]
    assert betas == pytest.approx([0.99975, 0.9995, 0.999, 0.998], abs=2e-6)


def test_a_patch_for_another_batch():
    own = {"reference": 2**18, "total": 3 * 2**30, "lr": 1e-3}
    assert recipes.batch(2**16, **own) == {
        "steps": 49_152, "optim.lr": 1e-3, "optim.betas": (0.9, 0.999),
    }  # fmt: skip
    both = recipes.batch(2**16, **own, lr_rule="sqrt", memory="tokens")
    assert both["optim.lr"] == pytest.approx(5e-4)
    assert both["optim.betas"][1] == pytest.approx(0.99975, abs=1e-6)
    assert recipes.rate(1e-3, 2**16, 2**18, "linear") == pytest.approx(2.5e-4)
    with pytest.raises(SpecError, match="fixed, sqrt, linear"):
        recipes.rate(1e-3, 1, 1, "cube")


# ── settings that no step feels ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("total", [1, 7, 20, 100])
@pytest.mark.parametrize("milestones", [(5,), (5, 19), (20,), (0.5, 0.99), (6, 200), (0.3,)])
def test_a_milestone_is_felt_where_the_rate_is_another_without_it(total, milestones):
    part = schedules.multistep(milestones=milestones)
    course = [part.factor(s, total) for s in range(total)]
    idle = []
    for m in milestones:
        rest = tuple(x for x in milestones if x != m) or (10**9,)
        less = schedules.multistep(milestones=rest)
        if [less.factor(s, total) for s in range(total)] == course:
            idle.append(f"{m:g}")
    found = part.unfelt(total)
    assert bool(found) == bool(idle)
    if found:
        assert found.startswith(f"milestones: {', '.join(idle)}, and there are {total} steps")


@pytest.mark.parametrize("total", [4, 9, 10, 11, 40])
@pytest.mark.parametrize("how", [(1, 0, 0), (3, 1, 1), (2, 2, 2), (9, 0, 0)])
def test_a_plateau_is_felt_where_a_loss_that_never_falls_lowers_the_rate_of_a_step(total, how):
    every, patience, warm = how
    part = schedules.plateau(every=every, patience=patience, warmup=float(warm))
    looks = [s for s in range(1, total) if s > warm and (s - warm) % every == 0]  # before the last
    falls = any(d.factor < 1 for d in part.decisions([1.0] * len(looks)))
    assert (part.unfelt(total) is None) == falls


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (schedules.wsd(decay=100, warmup=30), "wsd.decay: 100, and the warm-up takes all of 20"),
        (schedules.multistep(milestones=(100, 200)), "multistep.milestones: 100, 200, and there"),
        (schedules.plateau(every=1000), "first fall after step 12,000 of 20; give a smaller every"),
    ],
)
def test_a_study_with_a_setting_that_no_step_feels_is_refused(schedule, said):
    def study(schedule, **later):
        spec = Spec(
            model=presets.llama(width=32, layers=1, heads=2), optim=optim.adamw(lr=1e-3),
            task=tasks.lm(corpus=corpora.stdlib(megabytes=1), tokenizer=tokenizers.bytes(),
                          length=16),
            schedule=schedule, rows=2, steps=20,
        )  # fmt: skip
        base = spec.then("more", later) if later else spec
        return Study("s", "?", base=base, factors=[], seeds=1, evaluate=[Eval("lm")])

    with pytest.raises(SpecError, match=re.escape(said)):
        study(schedule).expand()
    assert study(schedule, steps=50_000).expand(), "a later phase feels it"
