"""Any causal language model of the transformers library, as probes see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from paribus.engine.following import at_places, follow
from paribus.errors import Refused, SpecError
from paribus.nn import spans
from paribus.nn.questions import Question, Scored, cropped
from paribus.nn.reach import Seen, cached
from paribus.readers import Answers, Reader, Rows
from paribus.text.lengths import ordinary
from paribus.text.need import need
from paribus.text.paths import digest

Found = TypeVar("Found")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class HuggingFace(Reader):
    """Its tokenizer, its weights, its own forward pass.

    Args:
        name: a folder, or a name that the library resolves (and may download).
        dtype: fp32, bf16 or fp16; None: that of the file.
        budget: tokens of a pass.
    """

    def __init__(
        self, name: str, device: str, dtype: str | None = None, budget: int = 8192
    ) -> None:
        library = need("transformers", "--hf", "hf")
        given = Path(name).expanduser()
        if not given.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise SpecError(f"--hf {name}: no such folder")
        self.name = str(given.resolve()) if given.is_dir() else name
        try:
            self.tokenizer = library.AutoTokenizer.from_pretrained(self.name)
            self.model = library.AutoModelForCausalLM.from_pretrained(
                self.name, dtype=DTYPES[dtype] if dtype else "auto"
            )
        except (OSError, ValueError, KeyError) as error:
            raise SpecError(f"--hf {name}: {' '.join(str(error).split())}") from None
        self.model = self.model.to(device).eval()
        self.device, self.budget, self.kernel = device, budget, "transformers"
        config = self.model.config
        self.limit = getattr(config, "max_position_embeddings", None)
        self.window, self.field, self.said, self.work = _reach(config, self.limit)
        begin = self.tokenizer.bos_token_id
        self.begin = self.tokenizer.eos_token_id if begin is None else begin

    @property
    def told(self) -> dict[str, Any]:
        """Which weights these are: hashes of a folder's files, else the commit of the download."""
        files = sorted(Path(self.name).glob("*.safetensors")) if Path(self.name).is_dir() else []
        hashes = [digest(p) for p in files]
        mark = hashes[0] if len(hashes) == 1 else "+".join(h[:12] for h in hashes)
        return {
            "name": Path(self.name).name if files else self.name,
            "trial": "-",
            "seed": None,
            "attempt": None,
            "step": None,
            "weights": self.name,
            "sha256": mark or getattr(self.model.config, "_commit_hash", None) or "unknown",
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        before = [] if self.begin is None else [self.begin]
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [before + list(ids) for ids in found]

    def ordinary(self) -> Any:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        size = self.model.get_input_embeddings().num_embeddings
        if backend is not None:
            ids = ordinary(json.loads(backend.to_str()))
        else:
            ids = np.array(sorted({*self.tokenizer.get_vocab().values()}
                                  - {*self.tokenizer.added_tokens_decoder}), np.int64)  # fmt: skip
        marks = np.array(self.tokenizer.all_special_ids, np.int64)
        return ids[(ids < size) & ~np.isin(ids, marks)]

    def scores(self, questions: Sequence[Question]) -> list[list[Scored]]:
        cut = [[cropped(s, self.limit) for s in q] for q in questions]
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        kinds = {str(x.get("rope_type")) for x in (rope, *rope.values()) if isinstance(x, dict)}
        grows = bool(kinds & {"longrope", "dynamic"})  # frequencies go by the length of a pass
        reads = spans.Whole(self._logits, self.device, unpadded=grows)
        return self._fitting(lambda: spans.scores(reads, cut, self.budget))

    def follow(self, asked: Sequence[Rows]) -> list[Answers]:
        logits = at_places(self._logits)
        return self._fitting(lambda: follow(logits, asked, self.budget, self.device))

    def attention(self, ids: Any, back: int, start: int) -> Any:
        rows_BT = torch.from_numpy(np.ascontiguousarray(ids, np.int64)).to(self.device)
        was = self.model.config._attn_implementation
        try:
            self.model.set_attn_implementation("eager")
            with torch.inference_mode():
                found = self.model(rows_BT, output_attentions=True, use_cache=False).attentions
        except (ValueError, NotImplementedError, AttributeError) as error:
            raise Refused(f"it does not show its attention: {error}") from None
        finally:
            self.model.set_attn_implementation(was)
        if not found or any(a is None for a in found):
            raise Refused("it does not show its attention")
        each = [a.diagonal(-back, -2, -1)[:, :, max(start - back, 0) :] for a in found]
        return torch.stack([a.double().mean((0, 2)) for a in each]).cpu().numpy()

    def _logits(self, ids_BT: Tensor) -> Tensor:
        z_BTV: Tensor = self.model(ids_BT, use_cache=False).logits
        return z_BTV

    def _fitting(self, ask: Callable[[], Found]) -> Found:
        """What is found in passes that fit into memory."""
        while True:
            try:
                return ask()
            except torch.OutOfMemoryError:
                if self.budget < 256:
                    raise
                self.budget //= 2
                torch.cuda.empty_cache()


def _reach(config: Any, limit: int | None) -> Seen:
    """By its configuration: a sliding window where each layer has one, else all of the row."""
    size = getattr(config, "sliding_window", None)
    kinds = {*(getattr(config, "layer_types", None) or ["sliding_attention"])}
    if size and getattr(config, "use_sliding_window", True) and kinds == {"sliding_attention"}:
        return cached(config.num_hidden_layers, min(size, limit or size) - 1, 1)
    return Seen(limit, limit, "all of the row" if limit else "")
