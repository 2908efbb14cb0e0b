"""Models to start from.  A preset states rules (ratios, multiples); ``resolve`` fills in numbers.

Every field of a model can be overridden by keyword: ``presets.gpt2(width=512, tied=False)``.
"""

from __future__ import annotations

from typing import Any

from paribus import parts
from paribus.errors import SpecError, nearest
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


def nanochat(depth: int = 20, **overrides: Any) -> Model:
    """nanochat (Karpathy 2025; its model of December 2025): everything follows from the depth.

    Width 64 · depth, heads of 128 numbers (as many as the width needs, rounded up), 65,536 tokens;
    RMSNorm without gains, of the embedding and of q and k too, squared ReLU, RoPE, logits capped at
    15, no biases, untied: 2 · V · D + 12 · L · D² parameters, 560,988,160 at depth 20.  Depths
    whose heads do not divide the width (5: 320 by 3) are refused, as nanochat refuses them.

    It turns q and k before their norms, which is the same function, and by −θ where we turn by θ:
    its weights have the other sign in the second half of each head's q and k, and no more differs.
    Its FLOPs a token count attention over all keys, ours over those that the mask lets be read:
    ``mask=masks.full()`` gives its number.  Its recipe: ``init.nanochat()``,
    ``optim.muon_adamw()``, ``schedules.wsd(decay=.2, reach=False)``, 524,288 tokens a step,
    ``clip=1.0``.
    """
    width = 64 * depth
    bare = norms.rmsnorm(gain=False, eps=2**-23)  # F.rms_norm's default: fp32's machine epsilon
    fields: dict[str, Any] = {
        "width": width,
        "layers": depth,
        "heads": -(-width // 128),
        "vocab": 65_536,
        "position": positions.rope(base=10000.0),
        "mask": masks.causal(),
        "norm": bare,
        "embed_norm": bare,
        "q_norm": bare,
        "k_norm": bare,
        "mlp": mlps.relu2(ratio=4.0),
        "logit_scale": scales.sqrt_d(),
        "tied": False,
        "softcap": 15.0,
    }
    return _model("nanochat", fields, overrides)


def wm83m_wide4(**overrides: Any) -> Model:
    """Four layers of width 1,024, tied: 83,108,864 parameters, 32,768,000 of them embeddings.

    One of two models that agree with all that is told of one of 83 million parameters, 32 of them
    embeddings, with heads of 64 numbers (notes on working memory, 2024); the other is
    ``wm83m_deep16``.
    """
    return _wm83m("wm83m_wide4", 1024, 4, True, overrides)


def wm83m_deep16(**overrides: Any) -> Model:
    """Sixteen layers of width 512, untied: 83,116,544 parameters, 32,768,000 of them embeddings and
    head; see ``wm83m_wide4``."""
    return _wm83m("wm83m_deep16", 512, 16, False, overrides)


def _wm83m(name: str, width: int, layers: int, tied: bool, overrides: dict[str, Any]) -> Model:
    """12 · L · D² + 32,768,000 parameters, and gains of norms."""
    fields: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": width // 64,
        "vocab": 32_000,
        "position": positions.rope(base=10000.0),
        "mask": masks.causal(),
        "norm": norms.rmsnorm(eps=1e-5),
        "mlp": mlps.gelu(ratio=4.0, bias=False),
        "logit_scale": scales.sqrt_d(),
        "tied": tied,
    }
    return _model(name, fields, overrides)


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


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    raise SpecError(f"no presets.{name}; {nearest(name, PRESETS)}")


PRESETS = tuple(
    name
    for name, x in globals().items()
    if callable(x) and getattr(x, "__module__", "") == __name__ and not name.startswith("_")
)
