"""The study: what a study file builds."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from paribus.contracts import Probe, Task
from paribus.errors import SpecError, nearest
from paribus.spec import Phased, Spec
from paribus.study.factors import Arm, Factor
from paribus.study.hypotheses import Criterion, Hypothesis

if TYPE_CHECKING:
    from paribus.study.expand import Condition, Expansion, Trial, Variant


@dataclass(frozen=True)
class Eval:
    """An evaluation: a task or probe, over factors of evaluation.

    Args:
        name: how it prints.
        what: a task or a probe; None: the trial's own task.
        over: factors whose levels are conditions (paths of the task or of the model).
        by: slices, columns of the record.
        every: also every so many steps of training.
        when: only for trials of this arm.
        split: "test" judges; "validation" is for choosing.
        examples: at most so many examples; None: the task's own number.
    """

    name: str
    what: Task | Probe | str | None = None
    over: Sequence[Factor] = ()
    by: Sequence[str] = ()
    every: int | None = None
    when: Arm | None = None
    split: str = "test"
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation", "test"):
            raise SpecError(
                f"evaluation {self.name!r}: split {self.split!r}; "
                f"{nearest(self.split, ('train', 'validation', 'test'))}"
            )
        for field_ in ("every", "examples"):
            given = getattr(self, field_)
            if given is not None and given < 1:
                raise SpecError(f"evaluation {self.name!r}: {field_}={given} must be at least 1")


def _best(what: str) -> tuple[str, str]:
    key, _, metric = what.removeprefix("best:").rpartition("/")
    return key.strip(), metric.strip()


@dataclass(frozen=True)
class Budget:
    """What every arm gets the same of; the steps follow."""

    unit: str
    amount: float


def equal(unit: str, amount: float) -> Budget:
    """``budget=equal("tokens", 1e9)``: every arm trains for the same tokens, steps or flops."""
    units = ("tokens", "steps", "flops", "seconds")
    if unit not in units:
        raise SpecError(f"budget: no unit {unit!r}; {nearest(unit, units)}")
    if not amount > 0:
        raise SpecError(f"budget: {amount!r} {unit} is not a positive amount")
    return Budget(unit, amount)


@dataclass
class Study:
    """One question, answered by an ablation.

    Args:
        name, question: what is asked.
        base: the spec that the factors patch (with further phases where given).
        factors: in order of declaration; the first varies slowest, seeds fastest.
        seeds: a number (1 … n) or a list.
        evaluate: evaluations; each trial is trained once and evaluated under every condition.
        baseline: the arm that others are compared with.
        primary: the metric of the table and the figure; default: the task's first.
        names: template of trial names: ``{factor}``, ``{factor?}`` (dropped with its hyphen where
            the factor is absent), ``{model.width}``, ``{seed}``, ``{run}``.
        columns: template of the wide table.
        skip: ``[(reason, predicate)]``; the predicate sees a cell's values and ``.spec``.
        hypotheses, criteria, checks: by name; checks are manipulation checks: where one fails,
            the hypotheses are not testable.
        accept: refusals that are meant, with the reason.
        references: arms that are evaluated, never trained.
        budget: ``equal(unit, amount)``.
        alpha: the family-wise error rate of the hypotheses.
        test: "paired_t" (default), "signflip" (exact, of means) or "signed_rank" (exact, of ranks).
        looks: numbers of seeds after which results are looked at, such as ``[3, 5, 10]``; alpha is
            spent over them (Lan and DeMets 1983, O'Brien–Fleming), so that stopping early claims no
            more often.  The last is the number of seeds.
        on_missing: "missing" (default): a claim with a missing cell has no verdict;
            "drop_seed_block": seeds with one are left out; "worst": a run that diverged counts as
            worst of all (needs test="signed_rank").
        scale: ``name@scale`` is a study of its own.
        keep: what stays of each trial: "last", the last weights; "state", the final optimizer
            state too; "best:<condition>/<metric>", the weights of the best step of an interval
            evaluation, such as "best:lm/loss".  It changes no number and no identity.
    """

    name: str
    question: str
    base: Spec | Phased
    factors: Sequence[Factor] = ()
    seeds: int | Sequence[int] = 1
    evaluate: Sequence[Eval] = ()
    baseline: Arm | None = None
    primary: str | None = None
    names: str | None = None
    columns: str | None = None
    skip: Sequence[tuple[str, Callable[[Any], bool]]] = ()
    hypotheses: Mapping[str, Any] = field(default_factory=dict)
    criteria: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    accept: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    alpha: float = 0.05
    test: str = "paired_t"
    looks: Sequence[int] = ()
    on_missing: str = "missing"
    scale: str = "main"
    keep: Sequence[str] = ("last",)

    def __post_init__(self) -> None:
        named = self.name and not any(c not in NAME for c in self.name)
        if not named or self.name[0] == "." or len(self.name) > 100:
            raise SpecError(f"study {self.name[:60]!r}: a name is letters, digits, '-', '_', '.'")
        if any(c not in NAME for c in self.scale):
            raise SpecError(f"study {self.name!r}: scale {self.scale!r} is no name")
        if not isinstance(self.baseline, Arm | None):
            raise SpecError(
                f"study {self.name!r}: baseline is an arm, such as factor[level], "
                f"not a {type(self.baseline).__name__}"
            )
        if isinstance(self.base, Spec):
            self.base = Phased(self.base)
        if not isinstance(self.base, Phased):
            raise SpecError(
                f"study {self.name!r}: base is a Spec, not a {type(self.base).__name__}"
            )
        if isinstance(self.seeds, bool) or not self.seeds:
            raise SpecError(f"study {self.name!r}: seeds={self.seeds!r}; give at least one")
        self.seeds = (
            list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else list(self.seeds)
        )
        for s in self.seeds:
            if not isinstance(s, int) or isinstance(s, bool) or s < 0:
                raise SpecError(f"study {self.name!r}: seed {s!r} is not a whole number from 0 on")
        twice = sorted({s for s in self.seeds if self.seeds.count(s) > 1})
        if twice:
            raise SpecError(f"study {self.name!r}: seed {twice[0]} is repeated")
        if not 0 < self.alpha < 0.5:
            raise SpecError(f"study {self.name!r}: alpha={self.alpha!r} must lie in (0, 0.5)")
        self._shapes()
        self._tests()
        self._kept()
        self._unique("factor", [f.name for f in self.all_factors()])
        self._unique("evaluation", [e.name for e in self.evaluate])
        kinds = {"hypotheses": Hypothesis, "criteria": Criterion, "checks": Criterion}
        for field_, kind in kinds.items():
            for name, claim in getattr(self, field_).items():
                if not isinstance(claim, kind):
                    what = f"{field_}[{name!r}] is a {type(claim).__name__}"
                    raise SpecError(f"study {self.name!r}: {what}, not a {kind.__name__.lower()}")
        self._unique("claim", [*self.hypotheses, *self.criteria, *self.checks])

    def _shapes(self) -> None:
        """Lists of the right things, before anything walks over them."""
        for field_, kind in (("factors", Factor), ("evaluate", Eval)):
            given = getattr(self, field_)
            if isinstance(given, kind) or not all(isinstance(x, kind) for x in given):
                raise SpecError(f"study {self.name!r}: {field_} is a list of {kind.__name__}(…)")
        for field_ in ("hypotheses", "criteria", "checks", "accept", "references"):
            if not isinstance(getattr(self, field_), Mapping):
                raise SpecError(f"study {self.name!r}: {field_} is a dict of name -> claim")
        for rule in self.skip:
            if not (isinstance(rule, tuple) and len(rule) == 2 and callable(rule[1])):
                raise SpecError(f"study {self.name!r}: skip is a list of (reason, predicate)")

    def _tests(self) -> None:
        """How hypotheses are tested, and on which data tuned factors are chosen."""
        for field_, known in (("test", TESTS), ("on_missing", ON_MISSING)):
            if (given := getattr(self, field_)) not in known:
                raise SpecError(f"study {self.name!r}: {field_}={given!r}; {nearest(given, known)}")
        if self.on_missing == "worst" and self.test != "signed_rank":
            raise SpecError(
                f'study {self.name!r}: on_missing="worst" gives a diverged run a rank alone; it '
                'needs test="signed_rank"'
            )
        looks, n = list(self.looks), len(list(self.seeds))  # type: ignore[arg-type]
        whole = all(type(k) is int and k > 1 for k in looks)
        if looks and not (whole and looks == sorted(set(looks)) and (n in looks or n > looks[-1])):
            raise SpecError(
                f"study {self.name!r}: looks={looks} with {n} seeds: give ascending numbers of "
                "seeds from 2 on, the last of which is the study's; between two looks nothing is "
                "judged"
            )
        if looks and n < looks[-1] and self.seeds != list(range(1, n + 1)):
            raise SpecError(f"study {self.name!r}: looks={looks}: list all {looks[-1]} seeds")
        rules = list(dict.fromkeys(f.tuned for f in self.factors if f.tuned))
        if len(rules) > 1:
            raise SpecError(
                f"study {self.name!r}: tuned by {rules[0]!r} and by {rules[1]!r}; choose by one"
            )
        for rule in rules:
            where, _, metric = rule.rpartition("/")
            names = [e.name for e in self.evaluate]
            if where in VALID and where not in names:
                self.evaluate = [*self.evaluate, Eval(where, split="validation")]
            elif where not in names or not metric:
                near = nearest(where, [*names, "valid"])
                raise SpecError(
                    f"tuned={rule!r}: write <evaluation>/<metric>, such as 'valid/loss' (the "
                    f"trial's own task on its validation split); {near}"
                )
        for e in (e for e in self.evaluate if rules and e.name == rules[0].rpartition("/")[0]):
            if e.over:
                raise SpecError(
                    f"tuned={rules[0]!r}: {e.name!r} has conditions of its own, and a choice needs "
                    "one number an arm and seed"
                )

    @property
    def planned_seeds(self) -> list[int]:
        """The seeds that are registered: with looks those of the last one, else the study's."""
        assert isinstance(self.seeds, list)
        if self.looks and len(self.seeds) < self.looks[-1]:
            return list(range(1, self.looks[-1] + 1))
        return self.seeds

    def _kept(self) -> None:
        if isinstance(self.keep, str):
            raise SpecError(f'study {self.name!r}: keep is a list, such as ("last", "state")')
        for what in self.keep:
            known = ("last", "state", "best:<condition>/<metric>")
            kind = what.partition(":")[0] if isinstance(what, str) else None
            if what not in known[:2] and kind != "best":
                raise SpecError(f"study {self.name!r}: keep={what!r}; {nearest(str(what), known)}")
            if kind == "best" and not all(_best(what)):
                raise SpecError(f'study {self.name!r}: keep={what!r}; write "{known[2]}"')
        if "last" not in self.keep:
            raise SpecError(
                f'study {self.name!r}: keep={list(self.keep)!r} lacks "last": evaluations use the '
                "last weights"
            )

    @property
    def best(self) -> list[tuple[str, str]]:
        """(condition key, metric) of the best weights that are kept."""
        return [_best(what) for what in self.keep if what.startswith("best:")]

    def check_kept(self, conditions: Sequence[Condition], task: Task) -> None:
        """Refuse best weights of an interval evaluation that there is not."""
        at_times = {c.key: c.evaluation for c in conditions if c.evaluation.every}
        for key, metric in self.best:
            where = f'keep="best:{key}/{metric}"'
            if key not in at_times:
                if key in {c.key for c in conditions}:
                    raise SpecError(f"{where}: {key!r} is evaluated at the end alone: give every=")
                raise SpecError(f"{where}: no evaluation {key!r}; {nearest(key, at_times)}")
            what = at_times[key].what
            known = getattr(task if what is None else what, "metrics", {})
            if metric not in known:
                raise SpecError(f"{where}: no metric {metric!r}; {nearest(metric, known)}")

    def _unique(self, what: str, names: Iterable[str]) -> None:
        names = list(names)
        for n in names:
            if names.count(n) > 1:
                raise SpecError(f"study {self.name!r}: {what} {n!r} is declared twice")

    def condition_factors(self) -> list[Factor]:
        """Factors of evaluation, each once, in order of declaration."""
        out: list[Factor] = []
        for e in self.evaluate:
            out += [f for f in e.over if f not in out]
        return out

    def all_factors(self) -> list[Factor]:
        return [*self.factors, *self.condition_factors()]

    @property
    def instance(self) -> str:
        return f"{self.name}@{self.scale}"

    @property
    def phased(self) -> Phased:
        assert isinstance(self.base, Phased)
        return self.base

    def with_(self, **changes: Any) -> Study:
        """A copy with some fields changed (``seeds=``, ``scale=``)."""
        return replace(self, **changes)

    def expand(self) -> Expansion:
        """Every variant, trial and condition, in order of declaration."""
        from paribus.study.expand import expand

        return expand(self)

    def variants(self) -> tuple[list[Variant], list[dict[str, Any]]]:
        """(variants, skipped cells with reasons)."""
        e = self.expand()
        return e.variants, e.skipped

    def trials(self) -> list[Trial]:
        return self.expand().trials

    def conditions(self) -> list[Condition]:
        return self.expand().conditions


TESTS = ("paired_t", "signflip", "signed_rank")
ON_MISSING = ("missing", "drop_seed_block", "worst")
VALID = ("valid", "validation")  # the evaluation that a tuned factor adds where there is none

NAME = frozenset(string.ascii_letters + string.digits + "-_.")
