"""How many tokens back can a language model say again what it was never trained to copy?

The notes' models: 83 million parameters in either of the two shapes that agree with what they tell,
trained for one epoch on books in segments of 1,024 and of 2,048 tokens, on nothing but text.  Then
they are asked: a sequence twice, of random tokens, of text, of the same text in random order and
with its words replaced; the same tokens without their first presentation; a span again after a
delay, within the trained length and beyond it; backwards; and ordinary text after more and more of
its own history.
"""

from __future__ import annotations

from paribus import (
    Eval,
    Factor,
    Study,
    all_of,
    better,
    criterion,
    decreasing,
    equal,
    increasing,
    metric,
    probes,
    same,
    schedules,
    tokenizers,
)
from paribus.spec import patch
from paribus.studies import _lm_recipe as shared

SCALES = shared.SCALES
SEGMENTS = {"paper": [1024, 2048], "small": [256, 512], "smoke": [16, 32]}
# What the notes say is copied without a mistake, and what lies beyond it.
SHORT = {"paper": (4, 8, 16, 32), "small": (4, 8, 16, 32), "smoke": (4, 8)}
LONG = {"paper": (64, 128, 256, 512, 1024, 2048), "small": (64, 128, 256, 512), "smoke": (16, 32)}
# Models of bytes of this size copy nothing after as many tokens; of 2,048 words they begin to.
BATCH = {**shared.BATCH, "small": 8192}
TOKENS = {**shared.TOKENS, "small": 4000 * 8192}
RATE = {"small": 3e-3}
WORDS = {"small": {"tokenizer": tokenizers.bpe(vocab=2048)}}
TRIALS = {"paper": 200, "small": 48, "smoke": 4}
# Sixteen layers in place of four, with as many parameters in them, and heads as large.
DEEP = {
    "paper": {"width": 512, "layers": 16, "heads": 8, "tied": False},
    "small": {"width": 128, "layers": 16, "heads": 2, "tied": False},
    "smoke": {"width": 16, "layers": 8, "heads": 1, "tied": False},
}
EVERY = ("random", "meaningful", "shuffled", "nonce")
ACCEPT = {
    f"shape moves model.{field}": "two readings of one count of parameters: a wide and a deep one"
    for field in ("width", "layers", "heads")
} | {"segment changes the evaluation length": "perplexity as in the notes; no claim reads it"}


def study(scale: str) -> Study:
    first, last = SEGMENTS[scale]
    short, lengths = SHORT[scale], (*SHORT[scale], *LONG[scale])
    asked, paper = {"trials": TRIALS[scale]}, scale == "paper"
    base = shared.base(scale)
    own = {"length": first, "stride": first // 4, "start": 2 * last, **WORDS.get(scale, {})}
    task = shared.task(scale, tokens_per_step=BATCH[scale], **own)
    base = patch(base, "task", task)
    if not paper:  # the notes' recipe is of the paper scale; a short training gains by an end
        base = patch(base, "schedule", schedules.wsd(warmup=0.05, decay=0.3, reach=False))
        base = patch(base, "clip", 1.0)
    base = patch(base, "optim.lr", RATE.get(scale, shared.RATE))

    deep = {f"model.{field}": value for field, value in DEEP[scale].items()}
    shape = Factor("shape", {"wide4": {}, "deep16": deep})
    segment = Factor("segment", SEGMENTS[scale], "task.length")
    length = Factor("length", [first // 4, first, last, 2 * last], "task.length")

    # Claims read three quarters of each segment, and half as much again as each: the second of the
    # shorter one is the first of the longer.
    lags = sorted({*(k * n // 4 for n in (first, last) for k in (1, 2, 3, 4, 6))})
    span = 4 if scale == "smoke" else 16
    of = {"sources": ("random", "meaningful")}
    delayed = {"sources": ("random", "meaningful") if scale != "smoke" else ("meaningful",)}
    gain = {"lengths": lengths, **asked, **of}
    evaluate = [
        Eval("valid", split="validation"),
        Eval("test"),
        Eval("lm", over=[length]),
        Eval("copy", probes.copy(lengths=lengths, sources=EVERY, **asked), by=("cell",)),
        Eval("memory", probes.memory_gain(**gain), by=("cell",)),
        Eval("foreign", probes.memory_gain(control="foreign", **gain), by=("cell",)),
        Eval("order", probes.memory_gain(control="permuted", **gain), by=("cell",)),
        Eval(
            "lag",
            probes.lag_sweep(delays=tuple(n - span for n in lags), span=span, **asked, **delayed),
            by=("cell",),
        ),
        Eval("reverse", probes.reverse(lengths=short, **asked, **of), by=("cell",)),
        Eval("induction", probes.induction(lengths=lengths, **asked), by=("lag",)),
        Eval(
            "history",
            probes.history(
                histories=(0, first // 4, first // 2, *([first] if paper else [])),
                tokens=8 if scale == "smoke" else 64,
                **asked,
            ),
            by=("cell",),
        ),
    ]

    loss = shared.loss

    def copied(source: str, n: int):
        return metric("last_half_of_copy", evaluation="copy", slice=f"cell={source}@{n}")

    def added(evaluation: str, n: int):
        """What the first presentation adds to the accuracy of the second one, of text."""
        cell = f"cell=meaningful@{n}"
        return metric("copied", evaluation=evaluation, slice=cell) - metric(
            "control", evaluation=evaluation, slice=cell
        )

    def read(token: str):
        """What half of the shorter segment before them is worth to tokens of ordinary text."""
        return metric("gain", evaluation="history", slice=f"cell={token}@{first // 2}")

    def window(n: int):
        """Up to the trained length what was read is used, and from beyond it nothing is."""
        mine = segment[n]
        return all_of(
            increasing(mine, on=added("lag", 3 * n // 4).mean(shape), by=0.05),
            decreasing(mine, on=(added("lag", 3 * n // 2) - 0.05).mean(shape)),
        )

    far, most = last // 2, short[-1]
    wide, sixteen = shape["wide4"], shape["deep16"]
    whole = sum(copied("meaningful", n) for n in short) / len(short)
    both = (shape, segment)
    return Study(
        "working-memory",
        "How far back does a language model that was never trained to copy say text again?",
        base=base,
        factors=[shape, segment],
        seeds={"paper": 3, "small": 5, "smoke": 1}[scale],
        budget=equal("tokens", TOKENS[scale]),
        evaluate=evaluate,
        baseline=wide & segment[first],
        primary="last_half_of_copy",
        names="{shape}-{segment}",
        accept=ACCEPT,
        hypotheses=dict(
            # The notes: inside the trained length copying is above language modelling, beyond it
            # there is hardly a difference; what is copied ends long before the trained length.
            **{f"window_{n}": window(n) for n in (first, last)},
            declines=decreasing(
                segment[last],
                on=(copied("meaningful", far) - copied("meaningful", most)).mean(shape),
                by=0.1,
            ),
            # Is a good score rote, or language modelling?  The same tokens without their order.
            language=increasing(
                on=(copied("meaningful", most) - copied("shuffled", most)).mean(*both), by=0.05
            ),
            order=increasing(on=added("order", most).mean(*both), by=0.05),
            # Longer training rows are read further back; shape and segment at equal parameters.
            further=better(
                segment[last],
                than=segment[first],
                on=added("lag", 3 * first // 2).mean(shape).prefer("higher"),
                by=0.05,
            ),
            shape=same(sixteen, wide, on=added("lag", 3 * first // 4).mean(segment), within=0.05),
            # What its author wanted: memory in ordinary work, of tokens that were there before.
            ordinary=increasing(on=(read("seen") - read("new")).mean(*both), by=0.02),
        ),
        # What the notes tell of their model of the longer segment, of either shape.
        criteria={
            f"{name}_{tag}": criterion(arm & segment[last], on=on, **bound)
            for tag, arm in (("wide4", wide), ("deep16", sixteen))
            for name, on, bound in (
                ("random", copied("random", most), {"below": 0.05}),
                ("text", whole, {"above": 0.99}),
                ("far", copied("meaningful", far), {"below": 0.99}),
            )
        },
        checks=dict(
            **shared.learned_at(wide & segment[first], loss, scale),
            copies=criterion(on=added("memory", most).mean(*both), above=0.05),
            context=criterion(
                wide & segment[first],
                on=metric("loss", evaluation="lm").at(length[first // 4])
                - metric("loss", evaluation="lm").at(length[first]),
                above=0.0 if scale == "smoke" else 0.02,
            ),
        ),
    )
