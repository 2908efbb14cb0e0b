"""How far back does a model with a memory look in its ordinary work, and does depth extend it?

Through its layers a Transformer-XL can be reached from layers · cache + segment tokens away; the
notes found that it copies from its direct window, cache + segment, and from nowhere beyond.  Models
that differ in depth, window and kind of memory are trained on plain text alone and asked what more
context gives: the same targets are scored in rows of growing length.  Where the probes of working
memory are there, they are asked as well.
"""

from paribus import (
    Eval,
    Factor,
    Study,
    better,
    criterion,
    masks,
    memories,
    metric,
    mixers,
    optim,
    parts,
    positions,
    same,
    schedules,
)
from paribus.spec import patch
from paribus.studies import _lm_recipe as shared

SCALES = shared.SCALES
LENGTHS = {"paper": [128, 256, 512, 1024, 2048, 4096], "small": [32, 64, 128, 256, 512],
           "smoke": [8, 16, 32]}  # fmt: skip
WINDOWS = {"paper": [128, 256, 512], "small": [32, 64, 128], "smoke": [8, 16]}
DEPTHS = {"paper": [4, 16], "small": [2, 6], "smoke": [1, 2]}
STEPS = {"paper": 12_000, "small": 2000, "smoke": 6}
ROWS = {"paper": 64, "small": 32, "smoke": 2}


def study(scale: str) -> Study:
    lengths, windows, depths = LENGTHS[scale], WINDOWS[scale], DEPTHS[scale]
    longest, middle = lengths[-1], windows[1] if len(windows) > 2 else windows[0]
    base = shared.base(scale)
    task = shared.task(scale, length=longest, stride=lengths[0], start=longest)
    first = shared.model(scale, position=positions.rope(), mask=masks.causal(), layers=depths[0])
    for path, value in {
        "task": task,
        "model": first,
        "optim": optim.adamw(lr=shared.RATE, betas=(0.9, 0.95)),
        "schedule": schedules.wsd(warmup=0.05, decay=0.3),
        "clip": 1.0,
        "rows": ROWS[scale],
        "steps": STEPS[scale],
    }.items():
        base = patch(base, path, value)
    some = windows[0]  # the factor of windows sets the segment
    memory = Factor(
        "memory",
        {
            "none": {},  # all of the row: what there is to be had
            "cut": {"model.memory": memories.recurrence(segment=some, cache=0)},
            "xl": {"model.memory": memories.recurrence(segment=some, through=1)},
            "xl-through": {"model.memory": memories.recurrence(segment=some)},
            "sliding": {"model.memory": memories.recurrence(segment=some, form="sliding")},
            "tokens": {"model.memory": memories.tokens(segment=some, tokens=8, through=2)},
            "retrieval": {"model.memory": memories.retrieval(segment=some, cache=0, top=8)},
            "linear": {"model.mixer": mixers.gated_linear(), "model.position": None},
        },
    )
    windowed = memory["cut", "xl", "xl-through", "sliding", "tokens", "retrieval"]
    window = Factor("window", windows, "model.memory.segment", when=windowed)
    layers = Factor("layers", depths, "model.layers")
    length = Factor("length", lengths, "task.length")
    loss = metric("loss", evaluation="lm")
    shallow, deep = layers[depths[0]], layers[depths[-1]]

    def beyond(w: int):
        """What context beyond the direct window, twice a segment, gives in nats."""
        return loss.at(length[2 * w]) - loss.at(length[longest])

    seen = [w for w in windows if 2 * w < longest]
    probed = _probed(scale)
    return Study(
        "effective-window",
        "How far back does a language model with a memory look, and does depth extend it?",
        base=base,
        factors=[layers, memory, window],
        seeds={"paper": 3, "small": 3, "smoke": 1}[scale],
        evaluate=[Eval("lm", over=[length]), *probed],
        baseline=memory["none"],
        primary="loss",
        names="L{layers}-{memory}-{window?}",
        skip=[
            (
                "retrieval is slow: one window of it",
                lambda c: c.levels["memory"] == "retrieval" and c.levels["window"] != str(middle),
            )
        ],
        hypotheses=dict(
            # Within the direct window the cache is used; beyond it, whatever the theoretical field,
            # nothing is gained, at any depth.
            **{
                f"cache_{w}": better(
                    memory["xl"] & window[w],
                    than=memory["cut"] & window[w],
                    on=loss.at(length[longest]).mean(layers),
                    by=0.01,
                )
                for w in seen
            },
            **{
                f"depth_{w}": same(
                    deep & memory["xl"] & window[w],
                    shallow & memory["xl"] & window[w],
                    on=beyond(w),
                    within=".01 nats",
                )
                for w in seen
            },
            through=same(
                memory["xl-through"] & window[middle],
                memory["xl"] & window[middle],
                on=beyond(middle).mean(layers),
                within=".01 nats",
            ),
            tokens=better(
                memory["tokens"] & window[middle],
                than=memory["cut"] & window[middle],
                on=loss.at(length[longest]).mean(layers),
                by=0.005,
            ),
        ),
        checks=dict(
            **shared.learned_at(deep & memory["none"], loss.at(length[longest]), scale),
            context=criterion(
                deep & memory["none"],
                on=loss.at(length[lengths[0]]) - loss.at(length[longest]),
                above=0.0 if scale == "smoke" else 0.02,
            ),
        ),
    )


def _probed(scale: str) -> list[Eval]:
    """Copying from a given lag, where the probe is there: what the text's own loss cannot tell."""
    if "lag_sweep" not in parts.available("probes"):
        return []
    probes = parts.Namespace("probes")
    delays = {"paper": (0, 112, 240, 496, 1008, 2032), "small": (0, 16, 48, 112, 240, 400),
              "smoke": (0, 8)}[scale]  # fmt: skip
    span = 4 if scale == "smoke" else 16
    return [Eval("lag", probes.lag_sweep(delays=delays, span=span), by=("lag",))]
