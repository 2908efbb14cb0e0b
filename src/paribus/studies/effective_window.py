"""How far back does a model with a memory look in its ordinary work, and does depth extend it?

Through its layers a Transformer-XL can be reached from layers · cache + segment tokens away; the
notes found that it copies from its direct window, cache + segment, and from nowhere beyond.  Models
that differ in depth, window and kind of memory are trained on plain text alone and asked what more
context gives: the same targets are scored in rows of growing length, and a span of held-out text
stands a second time after a delay, within the direct window and beyond it.
"""

from paribus import (
    Eval,
    Factor,
    Study,
    all_of,
    better,
    criterion,
    masks,
    memories,
    metric,
    mixers,
    optim,
    positions,
    probes,
    same,
    schedules,
    tokenizers,
)
from paribus.spec import patch
from paribus.studies import _lm_recipe as shared

SCALES = shared.SCALES
LENGTHS = {"paper": [128, 256, 512, 1024, 2048, 4096], "small": [32, 64, 128, 256, 512],
           "smoke": [8, 16, 32]}  # fmt: skip
WINDOWS = {"paper": [128, 256, 512], "small": [32, 64, 128], "smoke": [8, 16]}
DEPTHS = {"paper": [4, 16], "small": [2, 6], "smoke": [1, 2]}
STEPS = {"paper": 12_000, "small": 4000, "smoke": 6}
ROWS = {"paper": 64, "small": 16, "smoke": 2}
RATE = {"paper": shared.RATE, "small": 3e-3, "smoke": shared.RATE}
# Models of bytes of this size copied nothing, even after twice as many; models of 2,048 words do.
WORDS = {"small": {"tokenizer": tokenizers.bpe(vocab=2048), "eval_tokens": 98_304}}
# Read segment after segment, which takes several times as long; left out of the small scale.
LOOPED = ("tokens", "retrieval")
USED = 0.02  # nats a token: what counts as read


def study(scale: str) -> Study:
    lengths, windows, depths = LENGTHS[scale], WINDOWS[scale], DEPTHS[scale]
    longest, middle = lengths[-1], windows[1] if len(windows) > 2 else windows[0]
    base = shared.base(scale)
    own = WORDS.get(scale, {})
    task = shared.task(scale, length=longest, stride=lengths[0], start=longest, **own)
    first = shared.model(scale, position=positions.rope(), mask=masks.causal(), layers=depths[0])
    for path, value in {
        "task": task,
        "model": first,
        "optim": optim.adamw(lr=RATE[scale], betas=(0.9, 0.95)),
        "schedule": schedules.wsd(warmup=0.05, decay=0.3),
        "clip": 1.0,
        "rows": ROWS[scale],
        "steps": STEPS[scale],
    }.items():
        base = patch(base, path, value)
    some = windows[0]  # the factor of windows sets the segment
    kinds = {
        "none": {},  # all of the row: what there is to be had
        "cut": {"model.memory": memories.recurrence(segment=some, cache=0)},
        "xl": {"model.memory": memories.recurrence(segment=some, through=1)},
        "xl-through": {"model.memory": memories.recurrence(segment=some)},
        "sliding": {"model.memory": memories.recurrence(segment=some, form="sliding")},
        "tokens": {"model.memory": memories.tokens(segment=some, tokens=8, through=2)},
        "retrieval": {"model.memory": memories.retrieval(segment=some, cache=0, top=8)},
        "linear": {"model.mixer": mixers.gated_linear(), "model.position": None},
    }
    if scale == "small":
        kinds = {k: v for k, v in kinds.items() if k not in LOOPED}
    memory = Factor("memory", kinds)
    windowed = memory[tuple(k for k in kinds if k not in ("none", "linear"))]
    window = Factor("window", windows, "model.memory.segment", when=windowed)
    layers = Factor("layers", depths, "model.layers")
    length = Factor("length", lengths, "task.length")
    loss = metric("loss", evaluation="lm")
    shallow, deep = layers[depths[0]], layers[depths[-1]]

    def beyond(w: int):
        """What context beyond the direct window, twice a segment, gives in nats."""
        return loss.at(length[2 * w]) - loss.at(length[longest])

    seen = [w for w in windows if 2 * w < longest]
    lags = sorted({3 * windows[0] // 4, *(k * w // 2 for w in windows for k in (3, 6))})
    span = 4 if scale == "smoke" else 16
    lag = probes.lag_sweep(delays=tuple(n - span for n in lags), span=span, sources=("meaningful",))

    def copied(n: int):
        """What the first presentation of a span adds to the second, ``n`` tokens later, in nats."""
        return metric("gain_nats", evaluation="lag", slice=f"lag={n}")

    def effective(w: int):
        """The cache is read, to the end of the direct window and from nowhere beyond it."""
        xl, cut = deep & memory["xl"] & window[w], deep & memory["cut"] & window[w]
        return all_of(
            better(xl, than=cut, on=copied(3 * w // 2), by=USED),
            same(xl, cut, on=copied(3 * w), within=f"{USED} nats"),
        )

    tokens = {}
    if "tokens" in kinds:
        tokens["tokens"] = better(
            deep & memory["tokens"] & window[middle],
            than=deep & memory["cut"] & window[middle],
            on=loss.at(length[longest]),
            by=0.005,
        )
    return Study(
        "effective-window",
        "How far back does a language model with a memory look, and does depth extend it?",
        base=base,
        factors=[layers, memory, window],
        seeds={"paper": 3, "small": 5, "smoke": 1}[scale],
        evaluate=[Eval("lm", over=[length]), Eval("lag", lag, by=("lag",))],
        baseline=memory["none"],
        primary="loss",
        names="L{layers}-{memory}-{window?}",
        skip=[
            (
                "windows vary with a cache and without; other memories have one",
                lambda c: (
                    c.levels["window"] not in (None, str(middle))
                    and c.levels["memory"] not in ("cut", "xl")
                ),
            ),
            (
                "other memories have the greater depth",
                lambda c: (
                    c.levels["layers"] == str(depths[0])
                    and c.levels["memory"] not in ("none", "cut", "xl")
                ),
            ),
        ],
        hypotheses=dict(
            **{f"window_{w}": effective(w) for w in seen},
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
                deep & memory["xl-through"] & window[middle],
                deep & memory["xl"] & window[middle],
                on=beyond(middle),
                within=".01 nats",
            ),
            **tokens,
        ),
        checks=dict(
            **shared.learned_at(deep & memory["none"], loss.at(length[longest]), scale),
            context=criterion(
                deep & memory["none"],
                on=loss.at(length[lengths[0]]) - loss.at(length[longest]),
                above=0.0 if scale == "smoke" else 0.02,
            ),
            copies=criterion(deep & memory["none"], on=copied(lags[1]), above=0.05),
        ),
    )
