"""Generation with parallel branches: every step is what one pass over the finished row computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paribus import parts
from paribus.contracts import View
from paribus.engine.generation import Columns, Rows, generate_branches, generate_rows
from paribus.errors import Refused
from paribus.nn.cache import generate
from paribus.nn.transformer import Transformer
from paribus.text.columns import columns
from tests.nn.models import VOCAB, model_with, parameters

masks, positions = parts.Namespace("masks"), parts.Namespace("positions")
F64 = torch.float64
ALONE = positions.rope2d(ratio=0.0, residual="time")  # a token's place in its own text is all
PLACES = {
    "ratio 0": positions.rope2d(ratio=0.0),
    "ratio .5": positions.rope2d(ratio=0.5),
    "ratio 1": positions.rope2d(ratio=1.0),
    "rest by time": positions.rope2d(ratio=0.5, residual="time"),
}
EQUAL = [[5, 3, 8, 2], [7, 7, 1, 4], [9, 0, 6, 3]]
UNEQUAL = [[5, 3, 8], [7, 7, 1, 4, 2], [9, 0]]
MAIN = [11, 12, 13]
LAYOUTS: dict[str, dict[str, Any]] = {
    "equal, left": {"prompts": EQUAL, "align": "left"},
    "unequal, right": {"prompts": UNEQUAL, "align": "right"},
    "equal, left, main": {"prompts": EQUAL, "align": "left", "main": MAIN},
    "unequal, right, main": {"prompts": UNEQUAL, "main": MAIN},
}


def made(
    reads: str = "columnar",
    position: Any = PLACES["ratio .5"],
    seeds: tuple[int, ...] = (0,),
    dtype: torch.dtype = F64,
    **overrides: Any,
) -> tuple[Transformer, dict[str, Tensor]]:
    fields = {"mask": masks.branch(reads=reads), "position": position, **overrides}
    core = Transformer(model_with(**fields))
    return core, {k: t.detach() for k, t in parameters(core.model, list(seeds), dtype).items()}


def of(p: dict[str, Tensor], e: int) -> dict[str, Tensor]:
    return {k: t[e : e + 1] for k, t in p.items()}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def full(
    core: Transformer, p: dict[str, Tensor], texts: list[list[int]], late: list[int], main: list
) -> list[Tensor]:
    """Logits [E,T,V] of each text, of one pass over the packed row; ``late``: when each begins."""
    every = [main, *texts] if main else texts
    delays = [0, *late] if main else late
    sizes = np.array([[len(x) for x in every]])
    at = columns(sizes, main=bool(main), offsets_Bn=np.array([delays]))
    text, order = at["text"].tolist(), at["order"].tolist()
    ids = torch.tensor([every[b][o] for b, o in zip(text, order, strict=True)])
    view = {"branch": torch.tensor(text), "time": torch.from_numpy(at["time"])}
    if main:
        view["main"] = (view["branch"] == 0).long()
    logits = core(p, ids[None, None], View(view))[:, 0]
    return [logits[:, view["branch"] == b + bool(main)] for b in range(len(texts))]


def greedy(
    core: Transformer, p: dict[str, Tensor], prompts: list, new: int, main: Any = (), stop: Any = -1
) -> tuple[list[list[int]], list[dict[int, Tensor]]]:
    """New ids, and each step's logits by live branch, where each step is a whole new pass (E = 1).
    A branch that ends gives the row no more tokens; times stay as the prompts' ends make them."""
    texts, out = [list(x) for x in prompts], [[] for _ in prompts]
    late = [max(map(len, prompts)) - len(x) for x in prompts]
    live, steps = set(range(len(prompts))), []
    for _ in range(new):
        last = [x[0, -1] for x in full(core, p, texts, late, list(main))]
        steps.append({b: last[b] for b in live})
        for b in sorted(live):
            out[b].append(int(last[b].argmax()))
            texts[b].append(out[b][-1])
        ended = {b for b in live if out[b][-1] == stop}
        live -= ended
        for b in ended:
            texts[b].pop()
    return out, steps


def decoded(state: Any, ids: list[list[int]], steps: list[dict[int, Tensor]]) -> list[Tensor]:
    """Logits [E,B,V] of each step, as the known ids are fed."""
    out = [state.logits_EBV]
    for place, live in enumerate(steps[1:]):
        alive = torch.tensor([[b in live for b in range(len(ids))]])
        fed = torch.tensor([[x[place] if place < len(x) else 0 for x in ids]])
        state.advance(fed, alive)
        out.append(state.logits_EBV)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
def test_decoding_is_a_pass_over_the_finished_row(reads, place, layout):
    core, p = made(reads, PLACES[place])
    how = dict(LAYOUTS[layout])
    prompts, main = how.pop("prompts"), how.get("main", ())
    ids, steps = greedy(core, p, prompts, 5, main)
    assert generate_branches(core, p, prompts, 5, **how) == [ids]
    got = decoded(Columns(core, p, prompts, 4, **how), ids, steps)
    for logits, step in zip(got, steps, strict=True):
        for b, want in step.items():
            close(logits[0, b], want)


@pytest.mark.parametrize(
    "fields",
    [
        {"position": positions.rope2d(choice="per_head")},
        {"position": positions.rope2d(choice="interleaved"), "kv_heads": 4},  # no shared key heads
        {"position": positions.fpe()},
        {"position": positions.alibi()},
        {"position": positions.rope(), "mask": masks.causal()},  # of the packed row
        {"position": positions.learned(length=40), "mask": masks.sliding_window(size=7)},
    ],
    ids=lambda f: f["position"].name,
)
def test_other_parts_decode_as_well(fields):
    core, p = made(**fields)
    for prompts in (EQUAL, UNEQUAL):
        ids, steps = greedy(core, p, prompts, 4, MAIN)
        assert generate_branches(core, p, prompts, 4, main=MAIN) == [ids]
        for logits, step in zip(
            decoded(Columns(core, p, prompts, 3, main=MAIN), ids, steps), steps, strict=True
        ):
            close(logits[0], torch.stack(list(step.values())))


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_in_single_precision(kernel):
    core, p = made(dtype=torch.float32)
    ids, steps = greedy(core, p, UNEQUAL, 5)
    got = decoded(Columns(core, p, UNEQUAL, 4, kernel=kernel), ids, steps)
    for logits, step in zip(got, steps, strict=True):
        close(logits[0], torch.stack(list(step.values())), 1e-5)
    low = Columns(core, p, UNEQUAL, 4, dtype=torch.bfloat16).logits_EBV
    assert low.dtype == torch.float32
    assert (low - got[0]).norm() < 0.05 * got[0].norm()


# ── beside the same prompts one by one, and as a batch ──


def test_isolated_branches_are_what_each_prompt_gives_alone():
    """Right alignment begins shorter prompts later; turns are relative, so that only rounding
    tells it from a prompt that begins at 0."""
    core, p = made("isolated", ALONE, seeds=(0, 1))
    how = {"temperature": 1.0, "top_p": 0.9, "seeds": [5, 6]}
    for sampling in ({}, how):
        alone = [
            generate(core, p, torch.tensor(x).expand(2, 1, -1), 6, first_row=b, **sampling)
            for b, x in enumerate(UNEQUAL)
        ]
        want = torch.cat(alone, 1).tolist()
        assert generate_branches(core, p, UNEQUAL, 6, **sampling) == want
        assert generate_rows(core, p, UNEQUAL, 6, **sampling) == want
    state = Columns(core, p, UNEQUAL, 0)
    for b, x in enumerate(UNEQUAL):
        close(state.logits_EBV[:, b], core(p, torch.tensor(x)[None, None])[:, 0, -1])
    columnar, q = made("columnar", ALONE)
    assert generate_branches(columnar, q, UNEQUAL, 6)[0] != generate_rows(core, q, UNEQUAL, 6)[0]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"position": positions.rope2d(ratio=1.0)},
        {"position": positions.alibi(), "mask": masks.causal()},
        {"position": positions.rope(), "mask": masks.sliding_window(size=4)},
        {"position": positions.learned(length=11)},  # padding takes no place of the table
    ],
)
def test_rows_of_a_batch_are_what_each_prompt_gives_alone(fields):
    core, p = made(**fields)
    for prompts in (EQUAL, UNEQUAL):
        got = generate_rows(core, p, prompts, 6)
        state = Rows(core, p, prompts, 5)
        for place in range(6):
            if place:
                state.advance(torch.tensor([[x[place - 1] for x in got[0]]]))
            for b, prompt in enumerate(prompts):
                text = torch.tensor(prompt + got[0][b][:place])
                last = core(p, text[None, None])[0, 0, -1]
                close(state.logits_EBV[0, b], last)
                assert int(last.argmax()) == got[0][b][place]


# ── sampling and stopping ──


def test_a_draw_is_keyed_by_seed_place_and_branch():
    core, p = made("isolated", ALONE, seeds=(0, 1))
    how = {"temperature": 1.0, "top_p": 0.95}
    warm = generate_branches(core, p, EQUAL, 6, seeds=[5, 6], **how)
    assert warm == generate_branches(core, p, EQUAL, 6, seeds=[5, 6], **how)
    one = generate_branches(core, of(p, 1), EQUAL, 6, seeds=[6], **how)
    assert one == warm[1:], "a trial draws as it does alone"
    assert warm != generate_branches(core, p, EQUAL, 6, seeds=[5, 7], **how)
    assert warm != generate_branches(core, p, EQUAL, 6)
    # Isolated branches do not see each other, nor do their draws.
    others = [[4, 4, 4, 4], EQUAL[1], [2, 2, 2, 2], [8]]
    assert generate_branches(core, p, others, 6, seeds=[5, 6], **how)[0][1] == warm[0][1]
    stop = warm[0][0][1]
    ended = generate_branches(core, p, EQUAL, 6, seeds=[5, 6], stop=stop, **how)
    assert ended[0][0] == warm[0][0][: warm[0][0].index(stop) + 1]
    for got, whole in zip(ended[0] + ended[1], warm[0] + warm[1], strict=True):
        assert got == whole[: len(got)] and (len(got) == 6 or got[-1] == stop)


@pytest.mark.parametrize("reads", ["columnar", "isolated", "prefix"])
def test_a_branch_that_stops_leaves_the_row(reads):
    core, p = made(reads)
    free, _ = greedy(core, p, UNEQUAL, 8, MAIN)
    stop = free[1][2]  # branch 1 ends early, and what others say from then on may differ
    ids, steps = greedy(core, p, UNEQUAL, 8, MAIN, stop)
    assert len(ids[1]) == free[1].index(stop) + 1 < 8 and ids[1][-1] == stop
    assert max(map(len, ids)) == 8, "the others go on"
    assert generate_branches(core, p, UNEQUAL, 8, main=MAIN, stop=stop) == [ids]
    state = Columns(core, p, UNEQUAL, 7, main=MAIN)
    for logits, step in zip(decoded(state, ids, steps), steps, strict=True):
        for b, want in step.items():
            close(logits[0, b], want)
    appended = sum(len(x) - 1 for x in ids)
    assert state.cache.length == len(MAIN) + sum(map(len, UNEQUAL)) + appended


def test_trials_stop_on_their_own():
    """Of a stack, each trial gives what it gives alone, though its branches end at other steps."""
    core, p = made(seeds=(0, 1, 2))
    alone = [generate_branches(core, of(p, e), UNEQUAL, 9)[0] for e in range(3)]
    assert generate_branches(core, p, UNEQUAL, 9) == alone
    ends = set()
    for stop in sorted({t for trial in alone for ids in trial for t in ids[2:6]})[::4]:
        want = [generate_branches(core, of(p, e), UNEQUAL, 9, stop=stop)[0] for e in range(3)]
        assert generate_branches(core, p, UNEQUAL, 9, stop=stop) == want
        assert generate_branches(core, of(p, 1), UNEQUAL, 9, stop=stop) == want[1:2]
        ends.add(tuple(tuple(map(len, trial)) for trial in want))
    assert any(len(set(trials)) == 3 for trials in ends), "a case where no two trials agree"
    state = Columns(core, p, UNEQUAL, 2)
    live = torch.tensor([[True, True, True], [False, True, True], [True, False, True]])
    fed = torch.tensor([[3, 4, 5]]).expand(3, 3)
    for _ in range(2):
        state.advance(fed, live)
    for e in range(3):
        own = Columns(core, of(p, e), UNEQUAL, 2)
        for _ in range(2):
            own.advance(fed[:1], live[e : e + 1])
        close(state.logits_EBV[e, live[e]], own.logits_EBV[0, live[e]])


def test_all_may_stop_and_nothing_may_be_asked():
    core, p = made()
    same = [EQUAL[0]] * 3
    ((first, *_),) = generate_rows(core, p, same, 1)
    assert generate_rows(core, p, same, 5, stop=first[0]) == [[first] * 3]
    assert generate_branches(core, p, same[:1], 5, stop=first[0]) == [[first]]
    assert generate_branches(core, p, EQUAL, 0) == [[[], [], []]]


# ── what it takes, and what is refused ──


def test_the_cache_tells_what_it_takes():
    core, p = made(dtype=torch.float32)
    prompts = [[i % VOCAB for i in range(8)]] * 4
    for state, slots in ((Columns(core, p, prompts, 5), 1), (Rows(core, p, prompts, 5), 4)):
        assert state.cache.length == 4 * 8 // slots
        assert state.cache.bytes == 2 * 2 * 2 * 16 * 4 * 4 * (8 + 5)  # k and v, layers, heads …


def test_refusals():
    core, p = made()
    with pytest.raises(Refused, match=r'2 … 5 tokens: the longer ones.*use align="right"'):
        generate_branches(core, p, UNEQUAL, 2, align="left")
    for prompts in ([], [[1], []]):
        with pytest.raises(Refused, match="one token at least"):
            generate_branches(core, p, prompts, 2)
    with pytest.raises(Refused, match="flex"):
        generate_branches(core, p, EQUAL, 2, kernel="flex")
    core, p = made(mask=masks.full())
    for way in (generate_branches, generate_rows):
        with pytest.raises(Refused, match="later tokens"):
            way(core, p, EQUAL, 2)


def test_left_alignment_would_differ():
    """Why unequal prompts aligned on the left are refused: of the finished row, tokens of the
    longer prompt read what the shorter branch says at the same times; when decoding they cannot."""
    core, p = made()
    prompts, late = [[5, 3, 8, 2, 6], [7, 7]], [0, 0]
    grown = [prompts[0], [*prompts[1], 4, 4]]
    before = full(core, p, prompts, late, [])[0][0, 3:]
    after = full(core, p, grown, late, [])[0][0, 3:]
    assert (before - after).abs().max() > 1e-2
