"""Can a Transformer do with queries and keys that are random, orthogonal and never trained?

The document's three groups: an ordinary GPT, one whose queries and keys begin orthogonal, and one
whose orthogonal queries and keys stay as they are.  Beside them, at the small scale, a control that
is frozen and not orthogonal; and every group has the same grid of learning rates.
"""

from paribus import Factor, Study, better, criterion, init, metric, no_worse, same
from paribus.studies import _qk_freeze as shared

SCALES = shared.SCALES
RATES = {"small": [3e-4, 1e-3, 3e-3], "smoke": [1e-3]}


def study(scale: str) -> Study:
    orthogonal = init.orthogonal()
    groups = {
        "gpt_base": {},
        "oelm_no_freeze": {"init.qk": orthogonal},
        "oelm_freeze": {"init.qk": orthogonal, "freeze": shared.QK},
    }
    paper = scale == "paper"
    if not paper:
        groups["gaussian_freeze"] = {"init.qk": shared.matched(scale), "freeze": shared.QK}
    group = Factor("group", groups)
    lr = [] if paper else [Factor("lr", RATES[scale], "optim.lr", tuned="valid/loss")]
    a, b, c = (group[name] for name in ("gpt_base", "oelm_no_freeze", "oelm_freeze"))
    loss, ppl, seconds = shared.loss, shared.ppl, metric("seconds")
    trained = metric("parameters_trained")
    frozen = metric("parameters") - trained
    five = {"above": "-5%", "below": "5%"}
    return Study(
        "qk-freeze",
        "Do queries and keys that are random, orthogonal and frozen save parameters and time at "
        "little loss of quality?",
        base=shared.base(scale),
        factors=[group, *lr],
        seeds={"paper": [42], "small": 5, "smoke": 1}[scale],
        evaluate=shared.judged(scale) + ([] if paper else [shared.chosen()]),
        baseline=a,
        primary="ppl",
        names="{group}" if paper else "{group}-lr{lr}",
        columns="group, loss, ppl",
        hypotheses=dict(
            H2=same(c, b, on=loss, within="5% ppl"),
            H3=better(c, than=b, on=seconds),
            H4=no_worse(c, than=a, on=loss, within="10% ppl"),
            **(
                {}
                if paper
                else {"orthogonal": better(c, than=group["gaussian_freeze"], on=loss, by="1% ppl")}
            ),
        ),
        # The document states each twice: as a plan, on the last step, and as its analysis computes
        # it, on the best of a hundred looks at the text that judges.  Hypotheses take the last.
        criteria=dict(
            H1_plan=criterion(c, on=frozen, above=shared.most_frozen(scale)),
            H1_code=criterion(c, than=b, on=trained, above="-20%", below="-10%"),
            H2_plan=criterion(c, than=b, on=ppl, **five),
            H2_code=criterion(c, than=b, on=ppl.best(), **five),
            H3_plan=criterion(c, than=b, on=seconds, below=0),
            H3_code=criterion(c, than=b, on=seconds, below=0),
            H4_plan=criterion(c, than=a, on=ppl, below="10%"),
            H4_code=criterion(c, than=a, on=ppl.best(), below="10%"),
        ),
        checks=shared.learned(a),
    )
