"""What of it is orthogonality, what is size, what is freezing, what is stability?

In the document orthogonal queries and keys also begin with logits 4.9 times as large, frozen ones
are trained at 3.3 times the learning rate, and what freezing gains may be that logits cannot grow,
which normed queries and keys give as well.  Here each is varied alone, every arm at its best rate.
"""

from paribus import Factor, Study, better, init, no_worse, norms, same
from paribus.studies import _qk_freeze as shared

SCALES = shared.SCALES
RATES = {
    "paper": [3e-4, 1e-3, 3e-3],
    "small": [3e-4, 1e-3, 3e-3],
    "smoke": [1e-3],
}
FROZEN = {"none": (), "qk": shared.QK, "q": shared.QK[:1], "k": shared.QK[1:]}


def study(scale: str) -> Study:
    first = Factor(
        "first",
        {
            "std02": None,  # as every other matrix
            "gaussian": shared.matched(scale),
            "headwise": init.orthogonal(per="head"),
            "whole": init.orthogonal(),
        },
        "init.qk",
    )
    freeze = Factor("frozen", FROZEN, "freeze")
    norm = Factor(
        "norm",
        {"none": {}, "qk": {"model.q_norm": norms.rmsnorm(), "model.k_norm": norms.rmsnorm()}},
    )
    lr = Factor("lr", RATES[scale], "optim.lr", tuned="valid/loss")
    loss, plain, free, both = shared.loss, norm["none"], freeze["none"], freeze["qk"]

    def partly(cell: object) -> bool:
        levels = cell.levels  # type: ignore[attr-defined]
        return levels["frozen"] in ("q", "k") and (
            levels["first"] != "whole" or levels["norm"] != "none" or scale == "small"
        )

    def normed(cell: object) -> bool:
        levels = cell.levels  # type: ignore[attr-defined]
        return levels["norm"] == "qk" and levels["first"] not in ("std02", "whole")

    return Study(
        "qk-freeze-factorial",
        "What helps or harms when orthogonal queries and keys are frozen: orthogonality, their "
        "size, freezing, or stability?",
        base=shared.base(scale),
        factors=[first, freeze, norm, lr],
        seeds=1 if scale == "smoke" else 3,
        evaluate=[*shared.judged(scale), shared.chosen()],
        baseline=first["std02"] & free & plain,
        primary="ppl",
        names="{first}-{frozen}-{norm}-lr{lr}",
        columns="first, frozen, norm, lr, loss, ppl",
        skip=[
            (
                "alone, queries or keys are frozen where they are orthogonal and not normed, "
                "and not at small",
                partly,
            ),
            ("normed are the ordinary and the orthogonal first values", normed),
        ],
        hypotheses=dict(
            freezing=no_worse(both, than=free, on=loss.mean(first), where=plain, within="5% ppl"),
            orthogonality=better(
                first["whole"], than=first["gaussian"], on=loss, where=both & plain, by="1% ppl"
            ),
            size=better(
                first["gaussian"], than=first["std02"], on=loss, where=both & plain, by="1% ppl"
            ),
            heads=same(
                first["whole"], first["headwise"], on=loss, where=both & plain, within="1% ppl"
            ),
            stability=better(
                norm["qk"], than=plain, on=loss, where=first["std02"] & free, by="1% ppl"
            ),
            freezing_normed=no_worse(
                both, than=free, on=loss.mean(first), where=norm["qk"], within="5% ppl"
            ),
        ),
        checks=shared.learned(first["std02"] & free & plain),
    )
