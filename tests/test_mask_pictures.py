"""Pictures of masks: what each token may read, from the task's first example to the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paribus import masks, optim, parts, positions, presets, schedules, tasks
from paribus.analysis.plots import reading as plots
from paribus.cli import main
from paribus.contracts import Source
from paribus.engine.reading import reading
from paribus.errors import SpecError
from paribus.nn.transformer import Transformer
from paribus.spec import Spec, resolve
from paribus.text import paths

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_HOME", raising=False)
    yield
    parts.use_local(None)
    paths.use_base(None)


def schema(V: int, mask: Any, layers: int = 4) -> Spec:
    model = presets.gpt2(
        width=32, layers=layers, heads=4, position=positions.tiled(), mask=mask,
        read_in="vectors", read_out="scalar",
    )  # fmt: skip
    return resolve(Spec(
        model=model, task=tasks.connectivity(V=V, eval_examples=16), optim=optim.adam(lr=1e-3),
        schedule=schedules.constant(), rows=8, steps=2,
    ))  # fmt: skip


def copying(span: int, mask: Any, layers: int = 2) -> Spec:
    return resolve(Spec(
        model=presets.quickstart(width=32, layers=layers, vocab=None, mask=mask),
        task=tasks.copying(span=span), optim=optim.adam(lr=1e-3),
        schedule=schedules.constant(), rows=8, steps=2,
    ))  # fmt: skip


def told(read: dict[str, Any]) -> list[tuple[list[int], int]]:
    return [(p["layers"], plots.counts(p)[0]) for p in read["panels"]]


# ── the matrices ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("V", "causal", "first", "later"),
    [
        (20, False, 323, 529),
        (5, False, 83, 64),
        (3, False, 51, 36),
        (20, True, 203, 276),
        (5, True, 53, 36),
    ],
)
def test_schema_blocks(V: int, causal: bool, first: int, later: int) -> None:
    read = reading(schema(V, masks.schema_blocks(causal=causal)))
    assert told(read) == [([0, 1], first), ([2, 3], later)]
    T = 4 * V + 3
    assert len(read["names"]) == T
    assert read["names"][:5] == ["table 1", "1.1", "1.2", "1.3", "table 2"]
    assert read["names"][-3:] == ["SEP", "q1", "q2"]
    assert read["blocks"] == [*range(0, T, 4), T - 2, T - 1]
    assert {len(p["allowed"]) for p in read["panels"]} == {T}


def test_densities_of_the_document() -> None:
    """4.69 and 7.68 per cent; the document's 4.70 is a rounding error."""
    read = reading(schema(20, masks.schema_blocks(causal=False)))
    assert [plots.share(*plots.counts(p)) for p in read["panels"]] == ["4.69 %", "7.68 %"]


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_what_the_model_reads(causal: bool) -> None:
    spec = schema(3, masks.schema_blocks(causal=causal))
    row = spec.task.open(Split("test"), "cpu").examples(0, 1)  # type: ignore[arg-type]
    given = {k[4:]: t for k, t in row.items() if k.startswith("pos.")}
    core = Transformer(spec.model)  # type: ignore[arg-type]
    patterns = core.ready((1, 1, 15), given).reads
    for panel in reading(spec)["panels"]:
        for layer in panel["layers"]:
            mask, dead = patterns[layer].mask, patterns[layer].dead
            assert mask is not None
            read = mask[0, 0, 0] if dead is None else (mask & ~dead)[0, 0, 0]
            assert torch.equal(read, torch.from_numpy(panel["allowed"]))


class Split:
    """Data of which a task wants the split alone."""

    def __init__(self, split: str) -> None:
        self.split = split


def test_layers_that_agree_share_a_panel() -> None:
    full = masks.full()
    assert told(reading(schema(3, masks.schema_blocks(causal=False, local_layers=4)))) == [
        ([0, 1, 2, 3], 51)
    ]
    assert told(reading(schema(3, full))) == [([0, 1, 2, 3], 225)]
    assert told(reading(copying(4, masks.causal()))) == [([0, 1], 36)]
    assert told(reading(copying(4, masks.sliding_window(size=3)))) == [([0, 1], 8 * 3 - 3)]


def test_padding_is_left_out_and_branches_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} text {'and ' * i}more" for i in range(60)))
    from paribus import corpora, tokenizers

    task = tasks.branches(
        corpus=corpora.files(path="text.txt"), tokenizer=tokenizers.bytes(), length=8, branches=3,
        eval_texts=6, pad_to=32,
    )  # fmt: skip
    spec = resolve(Spec(
        model=presets.quickstart(width=32, vocab=None, mask=masks.branch(),
                                 position=positions.rope2d()),
        task=task, optim=optim.adam(lr=1e-3), schedule=schedules.constant(), rows=8, steps=2,
    ))  # fmt: skip
    read = reading(spec)
    names = read["names"]
    assert names[:4] == ["0,0", "1,0", "2,0", "0,1"]
    assert len(names) < 32
    (panel,) = read["panels"]
    at = [tuple(map(int, n.split(","))) for n in names]
    allowed = [[q == k or k[1] < q[1] for k in at] for q in at]
    assert panel["allowed"].tolist() == allowed


def test_a_source_without_names_has_numbers() -> None:
    assert Source().token_names(0) == []
    assert reading(copying(3, masks.causal()))["names"] == ["0", "1", "2", "3", "4", "5"]


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(SpecError, match="up to 4,096"):
        reading(copying(3000, masks.causal()))


# ── the drawing ─────────────────────────────────────────────────────────────────────────────


def test_layers_as_people_count() -> None:
    assert plots.layers([0, 1]) == "1–2"
    assert plots.layers([2]) == "3"
    assert plots.layers([0, 1, 4, 6, 7]) == "1–2, 5, 7–8"


@pytest.mark.parametrize("V", [5, 20])
def test_every_name_has_room(V: int) -> None:
    read = reading(schema(V, masks.schema_blocks(causal=True)))
    canvas = plots.draw(read)
    svg = canvas.svg()
    for text in ("layers 1–2", "layers 3–4", "token that reads", "table 1", "SEP", "q1", "q2"):
        assert f">{text}<" in svg, text
    ones = "203 of 6,889, 2.95 %" if V == 20 else "53 of 529, 10.02 %"
    assert ones in svg
    assert "第 1–2 层" in canvas.svg("zh")
    canvas.png()  # places texts
    said = [t for t in canvas.axes[0][0].get_yticklabels() if t.get_text()]
    assert len(said) == 23  # all tokens, or the first of each block
    tops = sorted(t.get_window_extent().y0 for t in said)
    height = min(t.get_window_extent().height for t in said)
    assert min(b - a for a, b in pairwise(tops)) > 0.7 * height


def test_large_rows_are_drawn_coarsely() -> None:
    read = reading(copying(150, masks.causal()))
    assert plots.coarse(300) == 2
    assert plots.coarse(256) == 1
    (image,) = plots.draw(read).axes[0][0].get_images()
    cells = np.asarray(image.get_array())
    assert cells.shape == (150, 150)
    assert np.all(np.diag(cells) == 0.75)  # three of four pairs
    assert cells.sum() * 4 == 300 * 301 / 2


# ── the verb ────────────────────────────────────────────────────────────────────────────────

NAME = "table_connectivity_lowrank_V3_N64"


def show(*more: str) -> int:
    return main(["show", "table-connectivity", "--scale", "smoke", *more])


def test_show_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(NAME, "--mask", "out/mask.png") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "layers 1–2: 33 of 225 pairs, 14.67 %",
        "layer 3: 21 of 225 pairs, 9.33 %",
        "out/mask.png",
    ]
    assert (tmp_path / "out/mask.png").read_bytes().startswith(PNG)
    assert not (tmp_path / "runs").exists()
    assert show(f"{NAME}_run1", "--mask", "mask.svg", "--lang", "zh", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["panels"][0] == {"layers": [1, 2], "pairs": 33, "of": 225}
    assert re.search(r"第 1–2 层", (tmp_path / "mask.svg").read_text(encoding="utf-8"))


def test_show_mask_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for name, file, why in (
        (NAME, "mask.gif", r"no format is called \.gif"),
        (NAME, "mask", r"ends in \.png, \.svg or \.pdf"),
        (NAME.replace("low", "lo"), "mask.png", f"did you mean '{NAME}'"),
    ):
        assert show(name, "--mask", file) == 2
        assert re.search(why, capsys.readouterr().err)
