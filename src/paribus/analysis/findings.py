"""Findings of the audit as sentences, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from paribus.analysis.settings import show
from paribus.study.finding import Finding, joined

SHOWN = 6  # values or names in a sentence; more are counted

BESIDE = (
    "{factor} moves {path} beside {beside}: {values}",
    "因子 {factor} 除 {beside} 外还改变 {path}：{values}",
)
BUDGET = (
    "{factor} moves {path} ({values}), so its levels differ in more than what is asked",
    "因子 {factor} 还改变 {path}（{values}），各水平之间的差别不止所问的那一项",
)
FOLLOWS = (
    "{number} differ between the levels of {factor}: {values}{because}",
    "因子 {factor} 各水平的 {number} 不同：{values}{because}",
)
COLUMN = (
    "{column} differs between {between}: {values}",
    "{column} 在{between}之间不同：{values}",
)

SAID: dict[str, tuple[str, str]] = {
    # before running
    "aliased": BESIDE,
    **dict.fromkeys(
        ("steps", "rows", "schedule", "optim", "precision", "data", "task", "start"), BUDGET
    ),
    "tokens": FOLLOWS,
    "claim_aliased": (
        "{claim}: {factor} is aliased with {other}, so the claim cannot tell them apart",
        "{claim}：{factor} 与 {other} 混叠，该命题无法区分二者",
    ),
    "two_factors": (
        "{claim} compares {joined} at once: the effect cannot be told apart between them",
        "{claim} 同时比较了 {joined}：无法区分效应来自哪一个",
    ),
    "compound": (
        "{factor} changes {joined} together: its effect is that of {both}",
        "因子 {factor} 同时改变 {joined}：其效应是它们共同的效应",
    ),
    "cost": (
        "the levels of {factor} differ in {costs}{because}",
        "因子 {factor} 各水平的 {costs} 不同{because}",
    ),
    "evaluation_data": (
        "the levels of {factor} are judged on data of their own ({conditions}): their values "
        "answer different questions; give the evaluation a task of its own",
        "因子 {factor} 的各水平在各自的数据上评测（{conditions}），数值不可比；请指定共同的任务",
    ),
    "evaluation_length": (
        "the levels of {factor} are judged at lengths of their own ({conditions}): {values}",
        "因子 {factor} 的各水平在各自的长度上评测（{conditions}）：{values}",
    ),
    "one_rate": (
        "the levels of {factor} are compared at one learning rate; what suits one may not suit "
        "another: add a tuned factor",
        "因子 {factor} 的各水平使用同一学习率；适合其一未必适合其他：可加一个 tuned 因子",
    ),
    "grid": (
        "{factor} is tuned over grids that differ between arms: {values}",
        "调参因子 {factor} 在各臂上的网格不同：{values}",
    ),
    "control": (
        "{factor} is a control: its levels must not change results",
        "{factor} 是对照因子：其各水平不应改变结果",
    ),
    "aliased_factors": (
        "{factor} and {other} never vary apart: {pairs}",
        "{factor} 与 {other} 总是同时变化：{pairs}",
    ),
    "apart": (
        "no two variants differ in {factor} alone: {groups} share no setting of the others",
        "没有两个变体只在 {factor} 上不同：{groups} 之间没有共同的其他设置",
    ),
    "seeds": (
        "arms have seeds of their own, so nothing is paired: {values}",
        "各臂的种子不同，无法配对：{values}",
    ),
    "one_seed": (
        "one seed: every hypothesis will be descriptive",
        "只有一个种子：所有假设都只能是描述性的",
    ),
    "too_few_seeds_at_the_last_look": (
        "{who}: at the last look, of {n} seeds, the smallest p of {test} is {least}, and the "
        "{alpha} left for it over {m} hypotheses asks for less than {level}: what no earlier look "
        "supports cannot be supported any more",
        "{who}：最后一次查看（{n} 个种子）时 {test} 的最小 p 为 {least}，而余下的 {alpha} 分给 {m} "
        "个假设后要求小于 {level}：此前未得到支持的假设不可能再得到支持",
    ),
    "too_few_seeds": (
        "{who}: with {n} seeds the smallest p of {test} is {least}, and {alpha} over {m} "
        "hypotheses asks for less than {level}: nothing can be supported; {need} seeds can",
        "{who}：{n} 个种子下 {test} 的最小 p 为 {least}，而 {alpha} 分给 {m} 个假设后要求小于 "
        "{level}：不可能得到支持；需要 {need} 个种子",
    ),
    "no_measurable": (
        "{who} names no measurable: “{text}” stays descriptive",
        "{who} 没有可测量的量：“{text}”只能是描述性的",
    ),
    "no_checks": (
        "no manipulation checks (checks=): a study whose models learned nothing would be judged",
        "没有操纵检验（checks=）：即使模型什么都没学到，也会给出判定",
    ),
    "selection": (
        "{factor} is chosen by {metric} of {evaluation}, which is the test split: choose on "
        'validation (split="validation")',
        "{factor} 按 {evaluation} 的 {metric} 选择，而它是测试集：请在验证集上选择"
        '（split="validation"）',
    ),
    "best_on_test": (
        "{keep} chooses weights on the test split; evaluations use the last weights, so no result "
        "rests on it: judge the chosen weights on other data",
        "{keep} 在测试集上挑选权重；评测使用最后的权重，结果不受影响：挑出的权重请换数据评测",
    ),
    "intervals": (
        "{conditions}: the test split is looked at during training; stopping or choosing by it "
        "would use it up",
        "{conditions}：训练中就查看测试集；据此停止或挑选会使它失去作用",
    ),
    "timing": (
        "{who} is about time ({metric}): trials share devices and stacks unless run one at a time "
        "(--workers 1 --stack 1) on one model of device",
        "{who} 涉及时间（{metric}）：除非在同型设备上逐个运行（--workers 1 --stack 1），"
        "否则各试验共用设备",
    ),
    "budget": (
        "the budget of {amount} {unit} is not kept: {values}",
        "未遵守 {amount} {unit} 的预算：{values}",
    ),
    "no_trivial": (
        "the task names no trivial baselines (chance, majority): a high score may mean nothing",
        "任务没有给出平凡基线（随机、多数类）：高分可能毫无意义",
    ),
    "unknown_accept": (
        "accept: {about!r} is nothing that the audit found; {nearest}",
        "accept：审计没有发现 {about!r}；{nearest}",
    ),
    "no_reason": (
        "accept: {about!r} needs a reason",
        "accept：{about!r} 需要理由",
    ),
    # after running
    **dict.fromkeys(
        (
            *("kernel", "dtype", "device", "engine", "code", "world", "torch", "paired_init"),
            *("python", "threads", "deterministic", "micro_batch"),
        ),
        COLUMN,
    ),
    "tokens_realised": (
        "tokens realised are not those planned: {planned}",
        "实际训练的词元数与计划不符：{planned}",
    ),
    "steps_realised": (
        "steps realised are not those planned: {planned}",
        "实际训练的步数与计划不符：{planned}",
    ),
    "schedule_realised": (
        "the schedule was never stepped: the learning rate stayed at {values}",
        "学习率日程从未生效：学习率一直是 {values}",
    ),
    "data_realised": (
        "other data were read than planned: {trials}",
        "读取的数据与计划不符：{trials}",
    ),
    "evaluation_set": (
        "arms were evaluated on different items at {condition}: {values} ({metric}){more}",
        "各臂在 {condition} 的评测样本不同：{values}（{metric}）{more}",
    ),
    "texts_realised": (
        "the texts that training held differ between arms by more than 1 %: {values}",
        "各臂训练中实际使用的文本数相差超过 1 %：{values}",
    ),
    "scored_realised": (
        "the conditions of {evaluation} scored different numbers of tokens of the same texts "
        "({metric}): {values}",
        "{evaluation} 的各条件在相同文本上评测的词元数不同（{metric}）：{values}",
    ),
    "truncated_realised": (
        "rows of training cut tokens off (pad_to): {values}",
        "训练中有词元因行长限制（pad_to）被截去：{values}",
    ),
    "list_realised": (
        "the conditions of {evaluation} scored different texts, so their values are of other "
        "items: {values}",
        "{evaluation} 的各条件评测的文本不同，数值来自不同样本：{values}",
    ),
    "unpaired": (
        "the seeds of the arms are not paired: {values}",
        "各臂的种子没有配对：{values}",
    ),
    "lost": (
        "trials without a result: {values}",
        "没有结果的试验：{values}",
    ),
    "collapsed": (
        "collapsed: {trials} equal the {baseline} baseline in {metric}",
        "塌缩：{trials} 的 {metric} 等于 {baseline} 基线",
    ),
    "learned_nothing": (
        "{who}: no better than {baseline} in {metric}, whatever the condition",
        "{who}：在任何条件下 {metric} 都不优于 {baseline} 基线",
    ),
    "edge": (
        "{factor} is best at the edge of its grid ({values}): the best may lie beyond",
        "{factor} 的最优值在网格边缘（{values}）：真正的最优可能在网格之外",
    ),
    "control_realised": (
        "{factor} is a control and changes results, by {relative} of the value ({where})",
        "{factor} 是对照因子，却改变了结果，相对差 {relative}（{where}）",
    ),
    "timing_stacks": (
        "{who} is about time, and {trials} trials ran in stacks of up to {stack}",
        "{who} 涉及时间，而 {trials} 个试验以最多 {stack} 个为一组同时训练",
    ),
}

COUNTED = ("tokens", "steps", "rows")

NAMES = {
    "tokens": ("tokens", "词元数"),
    "steps": ("steps", "步数"),
    "rows": ("rows a step", "每步行数"),
    "parameters": ("parameters", "参数量"),
    "flops": ("FLOPs", "FLOPs"),
    "kernel": ("the attention kernel", "注意力核"),
    "dtype": ("the precision", "精度"),
    "device": ("the device", "设备"),
    "engine": ("the engine", "引擎"),
    "code": ("the code", "代码版本"),
    "world": ("the number of devices a trial", "每个试验的设备数"),
    "torch": ("torch's version", "torch 版本"),
    "paired_init": ("paired initialisation", "初始化配对"),
    "python": ("Python's version", "Python 版本"),
    "threads": ("the number of threads", "线程数"),
    "deterministic": ("determinism", "确定性"),
    "micro_batch": ("the micro-batch", "微批大小"),
}

LEVEL = {
    "refuse": ("refused", "拒绝"),
    "warn": ("warning", "警告"),
    "note": ("note", "注意"),
}


def say(finding: Finding, lang: str = "en") -> str:
    """The finding as one sentence; with the reason where the study accepts it."""
    i = 0 if lang == "en" else 1
    follows = finding.rule in COUNTED and "number" in finding.facts
    text = (FOLLOWS if follows else SAID[finding.rule])[i].format_map(_words(finding, lang))
    if finding.accepted:
        text += f"; accepted: {finding.accepted}" if i == 0 else f"；已说明：{finding.accepted}"
    return text


def accept_line(finding: Finding) -> str:
    """What a study writes to declare a difference as meant."""
    return f'accept={{{json.dumps(finding.about, ensure_ascii=False)}: "why"}}'


def line(finding: Finding) -> str:
    """One line of the terminal; a refusal ends with the line that would allow it."""
    text = f"{LEVEL[finding.level][0]}: {say(finding)}"
    if finding.level == "refuse" and finding.rule not in ("unknown_accept", "no_reason"):
        text += f"; if it is meant: {accept_line(finding)}"
    return text


# ── facts as words ──────────────────────────────────────────────────────────────────────────


def _words(finding: Finding, lang: str) -> dict[str, Any]:
    facts, en = finding.facts, lang == "en"
    out: dict[str, Any] = {k: _plain(v, en) for k, v in facts.items()}
    out |= {"about": finding.about, "who": _several(finding.who, en), "because": ""}
    for name in ("number", "column"):
        if name in facts:
            out[name] = NAMES[facts[name]][0 if en else 1]
    for name, how in SPECIAL.items():
        if name in facts:
            out[name] = how(facts, en)
    if isinstance(facts.get("values"), Mapping):
        out["values"] = _values(facts["values"], en)
        out["trials"] = out["planned"] = ""
        if finding.rule in ("tokens_realised", "steps_realised", "data_realised"):
            out |= _trials(facts["values"], en)
    if finding.rule == "compound":
        out["both"] = "both" if len(facts["joined"]) == 2 else "all of them"
    if facts.get("budget"):
        said = f" (the budget is equal {facts['budget']})", f"（预算按 {facts['budget']} 相等）"
        out["because"] = said[0 if en else 1]
    if facts.get("root") and "number" in facts:
        out["because"] = (f", since {facts['root']}", f"，因为 {facts['root']}")[0 if en else 1]
    if finding.rule.startswith("too_few_seeds"):
        out["level"] = f"{facts['alpha'] / facts['m']:.2g}"
        out["least"] = f"{facts['least']:.2g}"
    return out


def _plain(value: Any, en: bool) -> str:
    if isinstance(value, list | tuple):
        return _several([show(v) for v in value], en)
    return f"{value:.3g}" if isinstance(value, float) else show(value)


def _several(names: Iterable[Any], en: bool) -> str:
    """Names in a row; beyond SHOWN they are counted."""
    every = [str(n) for n in names]
    shown = (", " if en else "、").join(every[:SHOWN])
    rest = len(every) - SHOWN
    if rest > 0:
        shown += f" and {rest} more" if en else f"等 {len(every)} 个"
    return shown


def _number(value: Any) -> str:
    """Large counts as people read them: 16.4M."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return show(value)
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if limit <= abs(value) < 1e12:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}" if abs(value) >= 1e12 else f"{value:g}"


def _values(values: Mapping[str, Any], en: bool) -> str:
    """Level -> values as "16 at a, b; 32 at c"; of column values the other way round."""
    of: dict[str, list[str]] = {}
    for name, found in values.items():
        if isinstance(found, list) and found and all(isinstance(x, str) for x in found):
            of[name] = found  # value -> names already
        else:
            every = found if isinstance(found, list) else [found]
            of.setdefault(" or ".join(map(_number, every)) or "none", []).append(name)
    way = "{} at {}" if en else "{}（{}）"
    parts = [way.format(value, _several(names, en)) for value, names in of.items()]
    if len(parts) > SHOWN:
        parts = [*parts[: SHOWN - 1], "…", parts[-1]]
    return ("; " if en else "；").join(parts)


def _trials(values: Mapping[str, Sequence[Any]], en: bool) -> dict[str, str]:
    """Trials whose [planned, got] differ, or that read other data: [name, planned, got]."""
    texts = []
    for trial, (*name, wanted, got) in values.items():
        if name:
            texts.append(
                f"{trial} ({name[0]} {str(got)[:8]}… {'not' if en else '≠'} {wanted[:8]}…)"
            )
        else:
            what = "of" if en else "/"
            texts.append(f"{trial} ({_number(got)} {what} {_number(wanted)})")
    said = _several(texts, en)
    return {"trials": said, "planned": said}


def _pairs(facts: Mapping[str, Any], en: bool) -> str:
    return _several([" with ".join(map(str, p)) if en else "–".join(map(str, p))
                     for p in facts["pairs"]], en)  # fmt: skip


def _groups(facts: Mapping[str, Any], en: bool) -> str:
    return (" and " if en else " 与 ").join("{" + ", ".join(g) + "}" for g in facts["groups"])


def _costs(facts: Mapping[str, Any], en: bool) -> str:
    out = []
    for what, values in facts["costs"].items():
        flat = [x for of in values.values() for x in of]
        shown = NAMES[what][0 if en else 1]
        out.append(f"{shown} ({_number(min(flat))} … {_number(max(flat))})")
    return (" and " if en else "和").join(out)


def _between(facts: Mapping[str, Any], en: bool) -> str:
    if facts["between"]:
        return "arms" if en else "各臂"
    return "seeds, on all arms alike" if en else "种子（各臂相同）"


def _more(facts: Mapping[str, Any], en: bool) -> str:
    n = facts["more"]
    return "" if not n else f", and {n} more places" if en else f"，另有 {n} 处"


def _joined(facts: Mapping[str, Any], en: bool) -> str:
    return joined(facts["joined"]) if en else "、".join(facts["joined"])


SPECIAL: dict[str, Callable[[Mapping[str, Any], bool], str]] = {
    "joined": _joined,
    "pairs": _pairs,
    "groups": _groups,
    "costs": _costs,
    "between": _between,
    "more": _more,
}
