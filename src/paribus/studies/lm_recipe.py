"""Which recipe trains a small language model best on one epoch: batch, schedule, norm of keys?

The notes' two tables, batch sizes at a constant rate and stable ratios of WSD, in one design that
changes one thing at a time, at equal tokens; beside them the rows that the notes planned and never
filled in (cosine, plateau, KeyNorm), and batches that take the rate or the optimizer's memory
along.  The kernel is the same in all rows.  ``paribus results lm-recipe --format recipe`` is the
notes' own table.
"""

from paribus import Eval, Factor, Study, better, equal, norms, optim, probes, scales, schedules
from paribus.studies import _lm_recipe as shared

SCALES = shared.SCALES


def study(scale: str) -> Study:
    middle, warm = shared.BATCH[scale], shared.WARMUP[scale]
    sizes = {"half": middle * 2, "quarter": middle, "eighth": middle // 2, "sixteenth": middle // 4}

    # Table A.  A larger batch at one rate has fewer steps, less noise, and a longer memory in
    # tokens: the rules keep the memory, or move the rate, for the largest and the smallest.
    batch = Factor("batch", sizes, "task.tokens_per_step")

    def rule(size: str) -> Factor:
        def of(path: str, **how: str) -> dict:
            return {path: shared.batch(scale, sizes[size], **how)[path]}

        levels = {
            "fixed": {},
            "memory": of("optim.betas", memory="tokens"),
            "root": of("optim.lr", lr_rule="sqrt"),
        }
        return Factor(f"rule_{size}", levels, when=batch[size])

    # Table B, and what its rows are to be held against: the warm-up alone.
    def wsd(ratio: float, **fields: str):
        return schedules.wsd(warmup=warm, decay=1 - ratio, reach=False, **fields)

    looks = max(1, shared.TOKENS[scale] // middle // 100)
    held = {"paper": 128, "small": 64, "smoke": 8}[scale]
    schedule = Factor(
        "schedule",
        {
            "none": schedules.constant(),
            "warm-up": schedules.constant(warmup=warm),
            "wsd-50": wsd(0.5),
            "wsd-70": wsd(0.7),
            "wsd-90": wsd(0.9),
            "wsd-50-sqrt": wsd(0.5, shape="sqrt"),
            "cosine": schedules.cosine(warmup=warm, reach=False),
            "linear": schedules.linear(warmup=warm, reach=False),
            "plateau": schedules.plateau(
                warmup=warm, on="validation", every=looks, patience=3, by=0.5, examples=held
            ),
            "multistep": schedules.multistep(warmup=warm, milestones=(0.6, 0.85), by=0.1),
        },
        "schedule",
        when=batch["quarter"],
    )
    free = optim.schedule_free(lr=shared.RATE, betas=shared.BETAS, weight_decay=0.0, warmup=warm)
    optimizer = Factor(
        "optimizer", {"adam": {}, "schedule-free": {"optim": free}}, when=schedule["none"]
    )
    unit = {"model.logit_scale": scales.fixed(value=1.0)}
    norm = Factor(
        "norm",
        {
            "none": {},
            "key": {"model.k_norm": norms.l2(), **unit},
            "key-learned": {"model.k_norm": norms.l2(gain="scalar"), **unit},
            "qk": {"model.q_norm": norms.rmsnorm(), "model.k_norm": norms.rmsnorm()},
        },
        when=schedule["wsd-50"],
    )
    rule_half, rule_sixteenth = rule("half"), rule("sixteenth")
    plain = batch["quarter"] & schedule["none"] & optimizer["adam"]
    small = batch["sixteenth"] & rule_sixteenth["fixed"]
    decayed = schedule["wsd-50"] & norm["none"]
    loss = shared.loss
    return Study(
        "lm-recipe",
        "Which batch, which schedule and which norm of keys train best on one epoch?",
        base=shared.base(scale),
        budget=equal("tokens", shared.TOKENS[scale]),
        factors=[batch, rule_half, rule_sixteenth, schedule, optimizer, norm],
        seeds={"paper": 1, "small": 3, "smoke": 1}[scale],
        evaluate=[
            Eval("valid", split="validation"),
            Eval("test"),
            Eval(
                "inside",
                probes.inside(rows=2 if scale == "smoke" else 4),
                every={"paper": 1000, "small": 250, "smoke": 8}[scale],
                by=("layer",),
                split="validation",
            ),
        ],
        baseline=plain,
        primary="ppl",
        names="{batch}-{rule_half?}-{rule_sixteenth?}-{schedule?}-{optimizer?}-{norm?}",
        hypotheses=dict(
            # The notes: the smaller the batch the better, decay helps, and the earlier the more;
            # a cosine had better be tried.  Their differences of thousandths of a nat have n = 1.
            smaller=better(small, than=plain, on=loss),
            decays=better(decayed, than=schedule["warm-up"], on=loss, by=0.05),
            earlier=better(decayed, than=schedule["wsd-90"], on=loss),
            straight=better(schedule["linear"], than=schedule["cosine"], on=loss),
            plateau=better(decayed, than=schedule["plateau"], on=loss),
            keynorm=better(schedule["wsd-50"] & norm["key"], than=decayed, on=loss),
        ),
        checks=shared.learned_at(plain, loss, scale),
    )
