"""The words of the notebook, in English and Chinese."""

from __future__ import annotations

from datetime import date
from typing import Any

Text = dict[str, str]
"""Language -> text."""

SAID: dict[str, tuple[str, str]] = {
    "title": ("Lab notebook", "实验日志"),
    "made": (
        "Made {made} from the records of {home}. Times are those of the reader: {zone}.",
        "于 {made} 由 {home} 的记录生成。时间为读者所在时区：{zone}。",
    ),
    "day_zone": ("times: {zone}", "时间：{zone}"),
    "nothing": ("{days}: nothing", "{days}：无"),
    "empty": ("There are no entries yet.", "尚无记录。"),
    "work": ("{span} of work", "工作 {span}"),
    "work_note": (
        "Work is the time in which workers were at it; pauses between attempts are not counted.",
        "工作时间是进程实际运行的时间，两次尝试之间的停顿不计。",
    ),
    "others": (
        "{n} trials of studies that are no longer here were at work, too",
        "另有 {n} 个试验，其所属研究已不在此处",
    ),
    "finished": ("Finished", "完成"),
    "finished_one": (
        "{variant}: {n} done{seeds}, {first}–{last}",
        "{variant}：完成 {n} 个{seeds}，{first}–{last}",
    ),
    "seeds": (" (seeds {seeds})", "（种子 {seeds}）"),
    "seed": (" (seed {seeds})", "（种子 {seeds}）"),
    "came_out": ("What came out", "结果"),
    "verdicts": ("Verdicts that changed", "结论的变化"),
    "verdict": ("{before} → {now}. {line}", "{before} → {now}。{line}"),
    "failed": ("Failed", "失败"),
    "one_failed": ("{trial}: {state}: {reason}", "{trial}：{state}：{reason}"),
    "stopped": ("Stopped, to go on later", "已停止，可继续"),
    "one_stopped": ("{trial} at {at}: {reason}", "{trial}（{at}）：{reason}"),
    "running": ("Running", "正在运行"),
    "one_running": ("{trial} since {since}", "{trial}，始于 {since}"),
    "went_on": ("At work, ended on another day", "当日运行，他日结束"),
    "joined": ("In several parts", "分段运行"),
    "one_joined": (
        "{trial}: {parts}; {gap} between them, not counted",
        "{trial}：{parts}；其间停顿 {gap}，不计入",
    ),
    "removed": ("Removed by hand since", "此后被手工删除"),
    "table": (
        "Results by the end of the day: {metric}, {better} is better; {several}",
        "当日结束时的结果：{metric}，{better}越好；{several}",
    ),
    "lower": ("lower", "越低"),
    "higher": ("higher", "越高"),
    "several": ("mean ± sd over {n} seeds", "{n} 个种子的均值 ± 标准差"),
    "single": ("1 seed", "1 个种子"),
    "variant": ("variant", "变体"),
    "query": (
        "query: study={study}, metric={metric}, ended by {ended_by}, variants {variants}; "
        "{records} records, hash {hash}",
        "查询：study={study}，metric={metric}，截至 {ended_by}，变体 {variants}；"
        "{records} 条记录，散列 {hash}",
    ),
    "confound": ("differs beside the factors: {line}", "因子之外的差别：{line}"),
    "notes": ("Remarks", "附注"),
    "hypothesis": ("hypothesis", "假设"),
    "supported": ("supported", "得到支持"),
    "withdrawn": ("withdrawn", "已撤回"),
    "on": ("on {on}", "关于 {on}"),
    "said": ("{status} by {id}", "{status}（{id}）"),
    "mentioned": ("see {id}", "见 {id}"),
    "damaged": ("{id} is damaged and cannot be read", "{id} 已损坏，无法读取"),
    "broken": ("not read: {line}", "未能读取：{line}"),
    "more": ("… {n} more; --json has all of them", "… 另有 {n} 项；--json 列出全部"),
    "only_mean": (
        "{variant}: {metric} {mean}{where}, {n}{spread}",
        "{variant}：{metric} {mean}{where}，{n}{spread}",
    ),
    "spread": (", sd {sd}", "，标准差 {sd}"),
    "is_baseline": ("the baseline {variant}", "基线 {variant}"),
    "at": (" at {where}", "（{where}）"),
    "over": (" ({where})", "（对 {where} 取均值）"),
    "against": (
        "{variant} against {baseline}: {metric} {effect}{where}, {level} interval {low} … {high}, "
        "{n}",
        "{variant} 对 {baseline}：{metric} {effect}{where}，{level} 区间 {low} … {high}，{n}",
    ),
    "one_seed": (
        "{variant} against {baseline}: {metric} {effect}{where}; 1 seed: described, not tested",
        "{variant} 对 {baseline}：{metric} {effect}{where}；1 个种子：只描述，不检验",
    ),
    "constant": (
        "{variant} against {baseline}: {metric} {effect}{where}, the same for each of {n} seeds: "
        "described, not tested",
        "{variant} 对 {baseline}：{metric} {effect}{where}，{n} 个种子均相同：只描述，不检验",
    ),
    "unpaired": (
        "{variant} against {baseline}: {metric} {effect}{where}; no seed in common: described, "
        "not tested",
        "{variant} 对 {baseline}：{metric} {effect}{where}；没有共同的种子：只描述，不检验",
    ),
    "waits": ("; {baseline} is not there yet", "；{baseline} 尚未完成"),
    "n_seeds": ("{n} seeds", "{n} 个种子"),
    "n_seed": ("1 seed", "1 个种子"),
    "conditions": ("mean over {n} conditions", "{n} 个条件"),
    "index": ("Days", "日期"),
    "back": ("All days", "全部日期"),
    "language": ("中文", "English"),
    "seconds": ("{n} s", "{n} 秒"),
    "minutes": ("{n} min", "{n} 分钟"),
    "hours": ("{n} h", "{n} 小时"),
    "none": ("no reason was told", "未说明原因"),
}

STATES = {
    "failed": "失败",
    "diverged": "发散",
    "out of memory": "内存不足",
    "refused": "拒绝",
    "planned": "已计划",
    "damaged": "损坏",
}
"""How a trial can stand, in Chinese."""

MONTHS = (
    "January February March April May June July August September October November December".split()
)
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ZH_WEEKDAYS = "一二三四五六日"


def say(key: str, **values: Any) -> Text:
    """A sentence in both languages; values may be texts in both languages themselves."""
    out = {}
    for lang, form in zip(("en", "zh"), SAID[key], strict=True):
        own = {k: v[lang] if isinstance(v, dict) else v for k, v in values.items()}
        out[lang] = form.format(**own)
    return out


def same(text: str) -> Text:
    return {"en": text, "zh": text}


def state(name: str) -> Text:
    return {"en": name, "zh": STATES.get(name, name)}


def join(*texts: Text) -> Text:
    return {lang: "".join(t[lang] for t in texts) for lang in ("en", "zh")}


def title(day: str) -> Text:
    """``Tuesday, 31 March 2026``."""
    d = date.fromisoformat(day)
    return {
        "en": f"{WEEKDAYS[d.weekday()]}, {d.day} {MONTHS[d.month - 1]} {d.year}",
        "zh": f"{d.year}年{d.month}月{d.day}日 星期{ZH_WEEKDAYS[d.weekday()]}",
    }


def stretch(first: str, last: str) -> Text:
    """``1–3 April 2026``; what both ends share is said once."""
    a, b = date.fromisoformat(first), date.fromisoformat(last)
    end = f"{b.day} {MONTHS[b.month - 1]} {b.year}"
    zh = f"{a.year}年{a.month}月{a.day}日"
    if a == b:
        return {"en": end, "zh": zh}
    if a.year != b.year:
        begin = f"{a.day} {MONTHS[a.month - 1]} {a.year} – "
        return {"en": begin + end, "zh": f"{zh}至{b.year}年{b.month}月{b.day}日"}
    if a.month != b.month:
        begin = f"{a.day} {MONTHS[a.month - 1]} – "
        return {"en": begin + end, "zh": f"{zh}至{b.month}月{b.day}日"}
    return {"en": f"{a.day}–{end}", "zh": f"{zh}至{b.day}日"}


def span(seconds: float) -> Text:
    if seconds < 90:
        return say("seconds", n=f"{seconds:.0f}")
    if seconds < 5400:
        return say("minutes", n=f"{seconds / 60:.0f}")
    return say("hours", n=f"{seconds / 3600:.1f}")


def ranges(numbers: list[int]) -> str:
    """``1–3, 5``."""
    out: list[list[int]] = []
    for n in sorted(set(numbers)):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in out)
