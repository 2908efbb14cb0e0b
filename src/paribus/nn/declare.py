"""Every learned parameter of a model by path, and how many there are.  Loads no torch.

embed.tokens [V,D]                     or read_in.weight [D,n], read_in.bias [D]
position.<name>                        blocks.<i>.position.<name> where the part is per layer
embed_norm.<name>
memory.<name>
blocks.<i>.norm1.<name>                blocks.<i>.norm2.<name>
blocks.<i>.attn.{q,k,v,o} [out,in]     .{q,k,v,o}_bias [out], .q_norm.<name>, .k_norm.<name>
blocks.<i>.attn.mixer.<name>
blocks.<i>.mlp.<name>
final_norm.<name>
head [V,D] (untied)                    or read_out.weight [1,D], read_out.bias [1]; [C,D] and [C]
                                       where it reads C classes
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from paribus.contracts import Io, P
from paribus.spec import Model, _resolve_model

NORMS = ("norm1", "norm2", "final_norm")


def numbers(model: Model) -> Model:
    """The model with its rules filled in; its own vocabulary and input size must be given."""
    if model.kv_heads and model.head_dim:
        return model
    return _resolve_model(model, Io(vocab=model.vocab, in_dim=model.in_dim, classes=model.classes))


def declare(model: Model) -> dict[str, P]:
    """Path -> declaration, without the trial axis, in the order of the forward pass."""
    model = numbers(model)
    d = model.dims()
    D, queries, keys = d.width, d.heads * d.head_dim, d.kv_heads * d.head_dim
    out: dict[str, P] = {}

    def add(prefix: str, params: Mapping[str, P]) -> None:
        out.update({f"{prefix}.{name}": p for name, p in params.items()})

    def linear(prefix: str, fan_out: int, fan_in: int, role: str, bias: bool, sep: str) -> None:
        out[prefix + (".weight" if sep == "." else "")] = P((fan_out, fan_in), role=role)
        if bias:
            out[f"{prefix}{sep}bias"] = P((fan_out,), decay=False, role="bias", fan_in=fan_in)

    if model.read_in == "tokens":
        # A tied table is a linear map as well: its fan-in lets a scheme treat it as one.
        lm = model.tied and model.read_out == "lm"
        out["embed.tokens"] = P((d.vocab, D), role="embedding", fan_in=D if lm else 0)
    else:
        assert model.in_dim, "resolve() comes first"
        linear("read_in", D, model.in_dim, "read_in", True, ".")

    if model.embed_norm is not None:
        add("embed_norm", model.embed_norm.params(D))
    if model.memory is not None:
        add("memory", model.memory.params(d))
    position = model.position
    if position is not None and not position.per_layer:
        add("position", position.params(d))
    for i in range(d.layers):
        block = f"blocks.{i}"
        add(f"{block}.norm1", model.norm.params(D))
        linear(f"{block}.attn.q", queries, D, "q", model.attn_bias, "_")
        linear(f"{block}.attn.k", keys, D, "k", model.attn_bias, "_")
        linear(f"{block}.attn.v", keys, D, "v", model.attn_bias, "_")
        if model.q_norm is not None:
            add(f"{block}.attn.q_norm", model.q_norm.params(d.head_dim))
        if model.k_norm is not None:
            add(f"{block}.attn.k_norm", model.k_norm.params(d.head_dim))
        if model.mixer is not None:
            add(f"{block}.attn.mixer", model.mixer.params(d))
        if position is not None and position.per_layer:
            add(f"{block}.position", position.params(d))
        linear(f"{block}.attn.o", D, queries, "o", model.attn_bias, "_")
        add(f"{block}.norm2", model.norm.params(D))
        add(f"{block}.mlp", model.mlp.params(d))
    add("final_norm", model.norm.params(D))
    if model.read_out != "lm":
        outputs = 1 if model.read_out == "scalar" else model.classes
        assert outputs, "resolve() comes first"
        linear("read_out", outputs, D, "read_out", True, ".")
    elif not model.tied or model.read_in == "vectors":
        out["head"] = P((d.vocab, D), role="head")
    return out


def group(path: str) -> str:
    """The group of a path: embedding, position, attention, mlp, norm or head."""
    names = path.split(".")
    if names[0] in ("embed", "read_in", "memory"):
        return "embedding"
    if names[0] in ("head", "read_out"):
        return "head"
    if "position" in names:
        return "position"
    if names[0] in ("embed_norm", "final_norm") or names[2] in NORMS:
        return "norm"
    return {"attn": "attention", "mlp": "mlp"}[names[2]]


def counts(model: Model) -> dict[str, dict[str, int] | int]:
    """Parameters: ``total``, by ``groups`` and by ``roles``."""
    groups: dict[str, int] = {}
    roles: dict[str, int] = {}
    total = 0
    for path, p in declare(model).items():
        n = prod(p.shape)
        total += n
        groups[group(path)] = groups.get(group(path), 0) + n
        roles[p.role] = roles.get(p.role, 0) + n
    assert sum(groups.values()) == total == sum(roles.values()), "each parameter is counted once"
    return {"total": total, "groups": groups, "roles": roles}


def total(model: Model) -> int:
    """The number of parameters."""
    return sum(prod(p.shape) for p in declare(model).values())
