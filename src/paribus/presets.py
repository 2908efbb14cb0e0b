"""Models to start from.  A preset states rules (ratios, multiples); ``resolve`` fills in numbers.

Every field of a model can be overridden by keyword: ``presets.gpt2(width=512, tied=False)``.
"""

from __future__ import annotations

from typing import Any

from paribus import parts
from paribus.spec import Model

positions, masks, norms, mlps, scales = (
    parts.Namespace(kind) for kind in ("positions", "masks", "norms", "mlps", "scales")
)


def _model(name: str, fields: dict[str, Any], overrides: dict[str, Any]) -> Model:
    model = parts.construct(Model, {**fields, **overrides}, f"presets.{name}")
    assert isinstance(model, Model)
    return model


def gpt2(*, width: int = 768, layers: int = 12, heads: int = 12, **overrides: Any) -> Model:
    """GPT-2 (Radford et al. 2019): pre-LayerNorm, GELU, learned positions, biases, tied."""
    fields: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "position": positions.learned(length=1024),
        "mask": masks.causal(),
        "norm": norms.layernorm(eps=1e-5),
        "mlp": mlps.gelu(ratio=4.0),
        "logit_scale": scales.sqrt_d(),
        "attn_bias": True,
        "tied": True,
    }
    return _model("gpt2", fields, overrides)


def gpt2_small(**overrides: Any) -> Model:
    """GPT-2's smallest: 124,439,808 parameters (124,402,944 with attn_bias=False)."""
    return gpt2(**{"width": 768, "layers": 12, "heads": 12, "vocab": 50257, **overrides})


def llama(*, width: int = 512, layers: int = 8, heads: int = 8, **overrides: Any) -> Model:
    """Llama (Touvron et al. 2023): pre-RMSNorm, SwiGLU, RoPE, no biases, untied."""
    fields: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "position": positions.rope(base=10000.0),
        "mask": masks.causal(),
        "norm": norms.rmsnorm(eps=1e-5),
        "mlp": mlps.swiglu(multiple=64),
        "logit_scale": scales.sqrt_d(),
        "tied": False,
    }
    return _model("llama", fields, overrides)


def minimind_512(*, width: int = 512, layers: int = 8, heads: int = 8, **overrides: Any) -> Model:
    """MiniMind's small model: Llama-like, two key heads, tied; 25,829,888 parameters.

    MiniMind draws its weights as torch's modules do: use it with init.torch_default().
    """
    fields = {"kv_heads": 2, "vocab": 6400, "tied": True, "position": positions.rope(base=1e6)}
    return llama(width=width, layers=layers, heads=heads, **{**fields, **overrides})


def quickstart(*, width: int = 64, layers: int = 2, heads: int = 4, **overrides: Any) -> Model:
    """A model that trains in seconds on one CPU core; it has no position encoding."""
    fields: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "position": None,
        "mask": masks.causal(),
        "norm": norms.layernorm(),
        "mlp": mlps.relu2(ratio=4.0),
        "logit_scale": scales.sqrt_d(),
        "tied": True,
    }
    return _model("quickstart", fields, overrides)
