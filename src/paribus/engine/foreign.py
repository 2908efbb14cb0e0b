"""Models of Hugging Face folders: config.json and safetensors, without the transformers library."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from paribus.errors import SpecError
from paribus.nn.convert import from_hf_gpt2, from_hf_llama
from paribus.spec import Model

KINDS = {"gpt2": from_hf_gpt2, "llama": from_hf_llama}


class _Held:
    """What the converters read of a model of theirs."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = SimpleNamespace(**config), tensors

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


def hugging_face(folder: Path) -> tuple[Model, dict[str, Tensor]]:
    """(model, parameters [1, …]) of a GPT-2 or Llama folder; fp32."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{folder / 'config.json'}: {error}") from None
    kind = config.get("model_type")
    if kind not in KINDS:
        raise SpecError(f"{folder}: models of type {kind!r} cannot be read; {', '.join(KINDS)} can")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SpecError(f"{folder} has no .safetensors file")
    tensors = {k: t.float() for file in files for k, t in load_file(file).items()}
    if kind == "gpt2":  # the published files leave the first name out
        tensors = {
            k if k.startswith(("transformer.", "lm_head.")) else f"transformer.{k}": t
            for k, t in tensors.items()
        }
    with torch.no_grad():
        return KINDS[kind](_Held(config, tensors))
