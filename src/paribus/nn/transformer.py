"""The Transformer: one pure function of parameters and tokens, for a whole stack of trials.

E trials of the stack, B rows, T tokens (queries), S tokens (keys), D width, H query heads, G key
heads, d head size, V vocabulary, n numbers of an input vector.  A lower-case e or b is 1 or its
capital.

    x = embed(tokens)  (+ position)
    x = x + o(attention(norm1(x)))        for each block; q and k normed, then rotated
    x = x + mlp(norm2(x))
    logits = head(final_norm(x))

What plugs in (position, mask, norms, mlp, logit scale) are parts; this file knows none by name.

Precision: parameters are cast to the compute dtype where they are used, by ``linear.cast`` alone.
The residual stream, norms, rotations, softmax statistics and the returned logits are fp32 at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paribus.contracts import View
from paribus.errors import SpecError
from paribus.nn.attention import Pattern, alike, attend, pattern, settle
from paribus.nn.cache import Cache
from paribus.nn.declare import declare, numbers
from paribus.nn.dropout import Dropout
from paribus.nn.linear import cast, embed, linear
from paribus.spec import Model

Params = Mapping[str, Tensor]
# What is kept of plain tokens from one call to the next, in entries; patterns can be large.
REMEMBERED = {"view": 8, "tables": 8, "patterns": 2}


class Transformer:
    """A model of a stack; it holds no parameters.

    Attributes:
        model: the resolved model.
        declared: path -> declaration of every parameter, without the trial axis.
    """

    def __init__(self, model: Model) -> None:
        self.model = model = numbers(model)
        self.dims = model.dims()
        self.declared = declare(model)
        if model.mask is None:
            raise SpecError("model.mask: not set; give masks.causal(), masks.full() or another")
        self.mask = model.mask
        # q and k are each multiplied by the temperature, so their product is by its square.
        self.scale = model.logit_scale.factor(self.dims) * model.temperature**2
        self._names: dict[str, dict[str, str]] = {}
        for path in self.declared:
            prefix, _, name = path.rpartition(".")
            self._names.setdefault(prefix, {})[name] = path
        self._kept: dict[Any, Any] = {}
        position = model.position
        self._biased = position is not None and position.bias is not None
        self._per_layer = position is not None and position.per_layer
        self._learned = position is not None and bool(position.params(self.dims))

    # ── coordinates and tables ──────────────────────────────────────────────────────────────

    def view(
        self, T: int, *, start: int = 0, device: Any = None, given: Params | None = None
    ) -> View:
        """Coordinates [e,b,T] of T tokens; ``index`` and ``token`` count from ``start`` unless
        given."""
        plain = torch.arange(start, start + T, device=device).view(1, 1, T)
        mine = {n: _three(c) for n, c in (given or {}).items()}
        return View({"index": plain, "token": plain, **mine})

    def tables(
        self,
        view: View,
        models: Sequence[Model] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """The position's tables, first axis 1 or E.

        Each trial's are computed in float64, as if it were alone, by its own model's part.

        Args:
            view: coordinates [e,b,T].
            models: the models of the stack, where their positions differ in numbers.
            dtype: what floating-point tables are cast to.
        """
        stack = [self.model] if models is None else list(models)
        E = max(c.shape[0] for c in view.coordinates.values())
        if E == 1 and all(m.position == stack[0].position for m in stack):
            stack = stack[:1]
        trials = []
        for i in range(max(E, len(stack))):
            part = stack[i if len(stack) > 1 else 0].position
            own = view.map(lambda c, i=i: _exact(c[i : i + 1] if c.shape[0] > 1 else c))
            trials.append({} if part is None else part.tables(self.dims, own))
        out = {}
        for name in trials[0]:
            each = [t[name] for t in trials]
            table = each[0] if len(each) == 1 else torch.cat(each)
            table = table.to(dtype) if table.is_floating_point() else table
            out[name] = table.to(view.index.device)
        return out

    def _keep(self, key: Any, make: Any) -> Any:
        """What ``make`` returns, remembered; made outside inference mode, so that it can serve a
        training step later."""
        if key not in self._kept:
            same = [k for k in self._kept if k[0] == key[0]]
            if len(same) >= REMEMBERED[key[0]]:
                del self._kept[same[0]]
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = make()
        return self._kept[key]

    # ── attention patterns ──────────────────────────────────────────────────────────────────

    def _promised(self, T: int, S: int) -> Pattern | None:
        """A pattern of tokens in order that needs no mask, by the mask's own promise."""
        if self.mask.sdpa == "full":
            return Pattern()
        if self.mask.sdpa == "causal" and (T == S or T == 1):  # the newest token reads all
            return Pattern(causal=T > 1)
        return None

    def _bias(self, own: Params, tables: Params, q: View, k: View) -> Tensor:
        """Bias [e,b,H,T,S] for views that broadcast against each other."""
        every = (*own.values(), *tables.values())
        E, device = max((x.shape[0] for x in every), default=1), q.index.device
        wide = {name: x.expand(E, *x.shape[1:]) for name, x in tables.items()}
        e = torch.arange(E, device=device).view(E, 1, 1, 1, 1)
        h = torch.arange(self.dims.heads, device=device).view(1, 1, -1, 1, 1)
        return self.model.position.bias(wide, own, e, h, q, k)  # type: ignore[union-attr]

    def patterns(
        self,
        p: Params,
        tables: Params,
        q: View,
        k: View,
        valid_EBS: Tensor | None,
        given: Params,
        keep: bool,
    ) -> Sequence[Pattern]:
        """Each layer's pattern, for queries [e,b,T] and keys [e,b,S] (``given`` of their
        coordinates by the caller).

        Patterns of plain tokens without parameters are the same in every step: they are made once,
        and layers that agree share one.
        """
        T, S = q.index.shape[2], k.index.shape[2]
        ordered = valid_EBS is None and "index" not in given
        promised = self._promised(T, S) if ordered else None
        if promised is not None and not self._biased:
            return [promised] * self.dims.layers
        q_view = q.map(lambda c: c[:, :, None, :, None])
        k_view = k.map(lambda c: c[:, :, None, None, :])

        def make(layer: int) -> Pattern:
            bias = mask = None
            if self._biased:
                own = self._own(p, f"blocks.{layer}.position" if self._per_layer else "position")
                bias = self._bias(own, tables, q_view, k_view)
            if promised is not None:
                return pattern(bias=bias, causal=promised.causal)
            mask = self.mask.allowed(layer, q_view, k_view)
            if valid_EBS is not None:
                mask = mask & valid_EBS[:, :, None, None, :]
            return pattern(mask, bias)

        def settled() -> tuple[Params, list[Pattern]]:
            out: list[Pattern] = []
            for layer in range(self.dims.layers):
                new = settle(make(layer))
                out.append(next((old for old in out if alike(old, new)), new))
            return tables, out  # the tables stay alive with the entry: their id is its key

        if keep and ordered and not given and not (self._biased and self._learned):
            return self._keep(("patterns", id(tables), T, q.index.device), settled)[1]
        return [make(layer) for layer in range(self.dims.layers)]

    # ── the forward pass ────────────────────────────────────────────────────────────────────

    def forward(
        self,
        p: Params,
        inputs: Tensor,
        view: View | None = None,
        *,
        tables: Params | None = None,
        valid_EBT: Tensor | None = None,
        cache: Cache | None = None,
        drop: Dropout | None = None,
        kernel: str = "sdpa",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Logits [E,B,T,V], or [E,B,T] of a scalar read-out at every token.

        Args:
            p: parameters [E, …] by path.
            inputs: ids [e,B,T] or vectors [e,B,T,n].
            view: coordinates of the tokens, each [T], [b,T] or [e,b,T]; ``index`` and ``token``
                count from 0 unless given; ``valid`` stands for ``valid_EBT``.
            tables: from ``tables``, where they are to be computed once or differ in the stack.
            valid_EBT: false where a token is padding: no query reads it.
            cache: keys and values of earlier tokens; these tokens are appended.
            drop: dropout of this pass; None: none.
            kernel: "sdpa" or "reference".
            dtype: compute dtype; None: that of the parameters.
        """
        model, T, device = self.model, inputs.shape[2], inputs.device
        start = 0 if cache is None else cache.length
        given = {} if view is None else {n: _three(c) for n, c in view.coordinates.items()}
        valid_EBS = given.pop("valid", None)
        valid_EBS = valid_EBS if valid_EBT is None else _three(valid_EBT)
        master = next(iter(p.values())).dtype
        if not given and cache is None:
            q = self._keep(("view", T, device), lambda: self.view(T, device=device))
            if tables is None:
                key = ("tables", T, device, master)
                tables = self._keep(key, lambda: self.tables(q, dtype=master))
        else:
            q = self.view(T, start=start, device=device, given=given)
            tables = self.tables(q, dtype=master) if tables is None else tables
        k = q
        if cache is not None:
            k, valid_EBS = cache.see(q, valid_EBS)
        reads = self.patterns(p, tables, q, k, valid_EBS, given, keep=cache is None)

        x = self._read_in(p, inputs, tables, dtype)
        if drop is not None:
            x = drop.apply(x, model.embed_dropout, 0)
        for i in range(model.layers):
            h = self._norm(p, f"blocks.{i}.norm1", model.norm, x)
            h = self._attention(p, i, h, reads[i], tables, cache, drop, kernel, dtype)
            x = x + (h if drop is None else drop.apply(h, model.dropout, 3 * i + 1))
            h = self._norm(p, f"blocks.{i}.norm2", model.norm, x)
            weights = {n: cast(w, dtype) for n, w in self._own(p, f"blocks.{i}.mlp").items()}
            h = model.mlp.forward(weights, cast(h, dtype))
            x = x + (h if drop is None else drop.apply(h, model.dropout, 3 * i + 2))
        if cache is not None:
            cache.advance(T)
        return self._read_out(p, self._norm(p, "final_norm", model.norm, x), dtype)

    __call__ = forward

    def _own(self, p: Params, prefix: str) -> dict[str, Tensor]:
        """The parameters below a prefix, by their last name."""
        return {name: p[path] for name, path in self._names.get(prefix, {}).items()}

    def _norm(self, p: Params, prefix: str, norm: Any, x: Tensor) -> Tensor:
        shape = [1] * (x.ndim - 2)
        own = {n: w.view(w.shape[0], *shape, -1) for n, w in self._own(p, prefix).items()}
        return norm.forward(own, x)

    def _read_in(
        self, p: Params, inputs: Tensor, tables: Params, dtype: torch.dtype | None
    ) -> Tensor:
        """x_EBTD: embedded inputs, with their positions where the part adds them."""
        if self.model.read_in == "tokens":
            x = embed(inputs, p["embed.tokens"])
        else:
            weight = p["read_in.weight"]
            x = linear(inputs, cast(weight, dtype), p["read_in.bias"]).to(weight.dtype)
        position = self.model.position
        if position is not None and position.embed is not None:
            x = position.embed(tables, self._own(p, "position"), x)
        return x

    def _attention(
        self,
        p: Params,
        i: int,
        h_EBTD: Tensor,
        at: Pattern,
        tables: Params,
        cache: Cache | None,
        drop: Dropout | None,
        kernel: str,
        dtype: torch.dtype | None,
    ) -> Tensor:
        """The attention sublayer of block i, without its norm."""
        model, block = self.model, f"blocks.{i}"
        own = self._own(p, f"{block}.attn")
        compute = dtype or own["q"].dtype
        h_EBTD = cast(h_EBTD, compute)

        def heads(name: str, count: int) -> Tensor:
            y = linear(h_EBTD, cast(own[name], compute), own.get(f"{name}_bias"))
            return y.unflatten(-1, (count, self.dims.head_dim)).transpose(2, 3)

        q_EBHTd = heads("q", self.dims.heads)
        k_EBGTd = heads("k", self.dims.kv_heads)
        v_EBGTd = heads("v", self.dims.kv_heads)
        if model.q_norm is not None:
            q_EBHTd = self._norm(p, f"{block}.attn.q_norm", model.q_norm, q_EBHTd)
        if model.k_norm is not None:
            k_EBGTd = self._norm(p, f"{block}.attn.k_norm", model.k_norm, k_EBGTd)
        position = model.position
        if position is not None and position.rotate is not None:
            turning = self._own(p, f"{block}.position" if self._per_layer else "position")
            q_EBHTd = position.rotate(tables, turning, q_EBHTd)
            k_EBGTd = position.rotate(tables, turning, k_EBGTd)
        q_EBHTd, k_EBGTd = cast(q_EBHTd, compute), cast(k_EBGTd, compute)
        if cache is not None:
            k_EBGTd, v_EBGTd = cache.put(i, k_EBGTd, v_EBGTd)
        o_EBHTd = attend(
            q_EBHTd,
            k_EBGTd,
            v_EBGTd,
            at,
            scale=self.scale,
            kernel=kernel,
            dropout=model.attn_dropout,
            drop=drop,
            site=3 * i + 3,
        )
        o_EBTD = o_EBHTd.transpose(2, 3).flatten(3)
        return linear(o_EBTD, cast(own["o"], compute), own.get("o_bias"))

    def _read_out(self, p: Params, x_EBTD: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Logits in fp32 at least; with a lower compute dtype their products are its."""
        if self.model.read_out == "scalar":
            weight, bias = cast(p["read_out.weight"], dtype), p["read_out.bias"]
            return linear(x_EBTD, weight, bias).squeeze(-1).to(bias.dtype)
        table = p["head"] if "head" in self.declared else p["embed.tokens"]
        return linear(x_EBTD, cast(table, dtype)).to(table.dtype)


def _exact(c: Tensor) -> Tensor:
    """A coordinate in float64, as parts are promised; on the CPU where the device has none."""
    return (c.cpu() if c.device.type == "mps" else c).double()


def _three(c: Tensor) -> Tensor:
    """A coordinate as [e,b,T]."""
    return c.reshape((1,) * (3 - c.ndim) + tuple(c.shape))
