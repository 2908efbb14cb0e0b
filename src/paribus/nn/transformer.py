"""The Transformer: one pure function of parameters and tokens, for a whole stack of trials.

E trials of the stack, B rows, T tokens (queries), S tokens (keys), D width, H query heads, G key
heads, d head size, V vocabulary, C classes, n numbers of an input vector.  A lower-case e or b is
1 or its capital.

    x = embed(tokens)                     normed where the model says so (+ position)
    x = x + o(attention(norm1(x)))        for each block; q and k normed, then rotated; or a mixer
    x = x + mlp(norm2(x))
    logits = head(final_norm(x))          capped where the model says so

What plugs in (position, mask, memory, mixer, norms, mlp, logit scale) are parts; this file knows
none by name.

Precision: parameters are cast to the compute dtype where they are used, by ``linear.cast`` alone.
The residual stream, norms, rotations, softmax statistics and the returned logits are fp32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paribus.contracts import View
from paribus.errors import Refused
from paribus.nn import segments
from paribus.nn.attention import Pattern, attend, attend_packed, repeated
from paribus.nn.cache import Cache
from paribus.nn.dropout import Dropout
from paribus.nn.inside import Tap
from paribus.nn.linear import cast, embed, linear, linears, on_gpu
from paribus.nn.places import QUERIES, Params, Places, Ready
from paribus.nn.segments import Held
from paribus.parts import describe
from paribus.spec import Model


class Pass(NamedTuple):
    """What all layers of a pass share; as of ``forward``."""

    tables: Params
    cache: Cache | Held | None
    drop: Dropout | None
    kernel: str
    dtype: torch.dtype | None
    tap: Tap | None
    valid: Tensor | None = None  # for mixers; patterns of attention hold it


class Transformer(Places):
    """A model of a stack; it holds no parameters.

    Attributes:
        model: the resolved model.
        declared: path -> declaration of every parameter, without the trial axis.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        model = self.model
        # q and k are each multiplied by the temperature, so their product is by its square.
        self.scale = model.logit_scale.factor(self.dims) * model.temperature**2

    def lowered(self) -> list[str]:
        """The parameters that a pass casts to the compute dtype before anything else: given in it,
        they make the same values, and the same gradients, in it."""
        products = [f"{x}{end}" for x in "qkvo" for end in ("", "_bias")]
        own = {f"blocks.{i}.attn.{x}" for i in range(self.model.layers) for x in products}
        mlps = tuple(f"blocks.{i}.mlp." for i in range(self.model.layers))
        return [k for k in self.declared if k in own or k.startswith(mlps) or k == "head"]

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
        kernel: str | None = None,
        dtype: torch.dtype | None = None,
        ready: Ready | None = None,
        outputs: bool | Tensor = True,
        tap: Tap | None = None,
    ) -> Tensor:
        """Logits [E,B,T,V], [E,B,T,C] of classes or [E,B,T] of a scalar read-out, at every token;
        where ``ready`` leaves tokens out, of those that leave the last layer.

        Args:
            p: parameters [E, …] by path.
            inputs: ids [e,B,T] or vectors [e,B,T,n].
            view: coordinates of the tokens, each [T], [b,T] or [e,b,T]; ``index`` and ``token``
                count from 0 unless given; ``valid`` stands for ``valid_EBT``.
            tables: from ``tables``, where they are to be computed once or differ in the stack.
            valid_EBT: false where a token is padding: no query reads it.
            cache: keys and values of earlier tokens; these tokens are appended.
            drop: dropout of this pass; None: none.
            kernel: "sdpa", "short" or "reference"; "flex" needs ``ready``; None: "reference" where
                the position replaces the scores, else "sdpa".
            dtype: compute dtype; None: that of the parameters.
            outputs: places [N] or [B,N] of the tokens that have outputs, or all of them; false: the
                cache is filled, and nothing comes out (T = 0).
            ready: from ``ready``; then view, tables and validity are not looked at.
            tap: looks at queries, keys and logits of every layer; not of the flex kernel.
        """
        model = self.model
        kernel = kernel or ("reference" if self.replaced else "sdpa")
        if cache is not None and self.model.memory is not None and self.model.memory.tokens:
            raise Refused(
                f"{describe(self.model.memory)} reads whole segments, and a cache hands on single "
                "tokens; give the whole row, without a cache"
            )
        if self.looped and cache is None:
            x = self._segments(p, inputs, view, valid_EBT, Pass({}, None, drop, kernel, dtype, tap))
            return self._read_out(p, self.normed(p, _wanted(x, outputs)), dtype)
        if ready is None:
            ready = self._places(p, inputs, view, tables, valid_EBT, cache)
        tables, reads, go = ready
        go = go or [None] * (model.layers + 1)
        now = Pass(tables, cache, drop, kernel, dtype, tap, _validity(view, valid_EBT))
        x = _those(self._read_in(p, inputs, tables, dtype), go[0])
        if drop is not None:
            x = drop.apply(x, model.embed_dropout, 0)
        x = self.blocks(p, x, reads, go, now)
        if cache is not None:
            cache.advance(inputs.shape[2])
        return self._read_out(p, self.normed(p, _wanted(x, outputs)), dtype)

    __call__ = forward

    def _segments(
        self, p: Params, inputs: Tensor, view: View | None, valid_EBT: Tensor | None, now: Pass
    ) -> Tensor:
        """What leaves the last block of rows that are read in segments."""
        T, device = inputs.shape[2], inputs.device
        given = {} if view is None else dict(view.coordinates)
        valid = _validity(view, valid_EBT)
        given.pop("valid", None)
        master = next(iter(p.values())).dtype
        whole = self.view(T, device=device, given=given)
        if given or valid is not None or self.written:
            found = segments.pieces(self, p, whole, valid, master)
        else:
            found = self.pieces(T, device, master)
        tables: Params = {}
        if self.model.position is not None and self.model.position.embed is not None:
            tables = self.tables(whole, self.stack, master)
        x = self._read_in(p, inputs, tables, now.dtype)
        if now.drop is not None:
            x = now.drop.apply(x, self.model.embed_dropout, 0)
        return segments.run(self, p, x, found, now)

    def pieces(self, T: int, device: Any, dtype: torch.dtype) -> list[segments.Piece]:
        """The segments of rows of plain tokens, made once."""
        view = self.view(T, device=device)
        key = ("segments", T, device, dtype)
        made: list[segments.Piece] = self._keep(
            key, lambda: segments.pieces(self, {}, view, None, dtype)
        )
        return made

    def normed(self, p: Params, x: Tensor) -> Tensor:
        """What leaves the last block, as the head reads it."""
        return self._norm(p, "final_norm", self.model.norm, x)

    def blocks(
        self,
        p: Params,
        x: Tensor,
        reads: Sequence[Pattern],
        go: Sequence[Tensor | None],
        now: Pass,
    ) -> Tensor:
        """All blocks; ``go`` as of ``Ready``, of every layer."""
        model, drop = self.model, now.drop
        y: Tensor | None = None  # what the last sublayer gave, not yet added
        for i in range(model.layers):
            x, h = self._added(p, f"blocks.{i}.norm1", x, y)
            y = self._attention(p, i, h, go[i + 1], reads[i], now)
            y = y if drop is None else drop.apply(y, model.dropout, 3 * i + 1)
            x, h = self._added(p, f"blocks.{i}.norm2", _those(x, go[i + 1]), y)
            weights = {n: cast(w, now.dtype) for n, w in self._own(p, f"blocks.{i}.mlp").items()}
            y = model.mlp.forward(weights, cast(h, now.dtype))
            y = y if drop is None else drop.apply(y, model.dropout, 3 * i + 2)
        return x if y is None else x + y

    def _added(self, p: Params, prefix: str, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + y, and the block's norm of it."""
        if y is None:
            return x, self._norm(p, prefix, self.model.norm, x)
        made: tuple[Tensor, Tensor] = self.model.norm.added(self._gains(p, prefix, x), x, y)
        return made

    def _norm(self, p: Params, prefix: str, norm: Any, x: Tensor) -> Tensor:
        return norm.forward(self._gains(p, prefix, x), x)  # type: ignore[no-any-return]

    def _gains(self, p: Params, prefix: str, x: Tensor) -> Params:
        """Parameters of a norm of x, to be broadcast against it."""
        shape = [1] * (x.ndim - 2)
        return {n: w.view(w.shape[0], *shape, -1) for n, w in self._own(p, prefix).items()}

    def _read_in(
        self, p: Params, inputs: Tensor, tables: Params, dtype: torch.dtype | None
    ) -> Tensor:
        """x_EBTD: embedded inputs, with their positions where the part adds them."""
        if self.model.read_in == "tokens":
            x = embed(inputs, p["embed.tokens"])
        else:
            weight = p["read_in.weight"]
            x = linear(inputs, cast(weight, dtype), p["read_in.bias"]).to(weight.dtype)
        if self.model.embed_norm is not None:
            x = self._norm(p, "embed_norm", self.model.embed_norm, x)
        position = self.model.position
        if position is not None and position.embed is not None:
            x = position.embed(tables, self._own(p, "position"), x)
        return x

    def _attention(
        self, p: Params, i: int, h_EBSD: Tensor, go: Tensor | None, at: Pattern, now: Pass
    ) -> Tensor:
        """The attention sublayer of block i, without its norm, for the tokens that go on."""
        own = self._own(p, f"blocks.{i}.attn")
        compute = now.dtype or own["q"].dtype
        h_EBSD = cast(h_EBSD, compute)

        def out(o_EBHTd: Tensor) -> Tensor:
            o_EBTD = o_EBHTd.transpose(2, 3).flatten(3)
            return linear(o_EBTD, cast(own["o"], compute), own.get("o_bias"))

        if go is None and on_gpu(h_EBSD) and self._packed(now):
            weights = [cast(own[x], compute) for x in "qkv"]
            x_EBT3Hd = linears(h_EBSD, weights).unflatten(3, (3, -1, self.dims.head_dim))
            biases = torch.stack([cast(own[f"{x}_bias"], compute) for x in "qkv"])
            add_3EHd = biases.unflatten(2, (-1, self.dims.head_dim))
            return out(attend_packed(x_EBT3Hd, add_3EHd, at, scale=self.scale))

        def heads(h: Tensor, name: str, count: int) -> Tensor:
            y = linear(h, cast(own[name], compute), own.get(f"{name}_bias"))
            return y.unflatten(-1, (count, self.dims.head_dim)).transpose(2, 3)

        q_EBHTd = heads(_those(h_EBSD, go), "q", self.dims.heads)
        k_EBGTd = heads(h_EBSD, "k", self.dims.kv_heads)
        v_EBGTd = heads(h_EBSD, "v", self.dims.kv_heads)
        if now.tap is not None:
            now.tap.lengths(i, q_EBHTd, k_EBGTd)
        q_EBHTd = self._normed_turned(p, i, "q", q_EBHTd, now.tables)
        k_EBGTd = self._normed_turned(p, i, "k", k_EBGTd, now.tables)
        if QUERIES in now.tables:
            q_EBHTd = q_EBHTd * _those(now.tables[QUERIES], go)[:, :, None, :, None]
        q_EBHTd, k_EBGTd = cast(q_EBHTd, compute), cast(k_EBGTd, compute)
        if self.model.mixer is not None:
            return out(self._mixed(p, i, q_EBHTd, k_EBGTd, v_EBGTd, h_EBSD, now))
        if self.parted and now.cache is None:
            k_EBGTd = torch.cat([k_EBGTd, k_EBGTd.detach()], 3)
            v_EBGTd = torch.cat([v_EBGTd, v_EBGTd.detach()], 3)
        if now.cache is not None:
            k_EBGTd, v_EBGTd = now.cache.put(i, k_EBGTd, v_EBGTd)
        if now.tap is not None:
            now.tap.reads(i, q_EBHTd, k_EBGTd, at, self.scale)
        o_EBHTd = attend(
            q_EBHTd,
            k_EBGTd,
            v_EBGTd,
            at,
            scale=self.scale,
            kernel=now.kernel,
            dropout=self.model.attn_dropout,
            drop=now.drop,
            site=3 * i + 3,
        )
        return out(o_EBHTd)

    def _packed(self, now: Pass) -> bool:
        """Whether queries, keys and values are one product, and their biases added within
        attention: for the short kernel, where nothing else reads or changes them before."""
        model = self.model
        turned = model.position is not None and model.position.rotate is not None
        if now.kernel != "short" or not model.attn_bias or turned or QUERIES in now.tables:
            return False
        other = self.dims.heads != self.dims.kv_heads or model.q_norm or model.k_norm or model.mixer
        refused = self.replaced or model.attn_dropout  # by ``attend``, which says why
        return not (other or refused or self.parted or now.tap or now.cache)

    def _mixed(
        self,
        p: Params,
        i: int,
        q_EBHTd: Tensor,
        k_EBGTd: Tensor,
        v_EBGTd: Tensor,
        h_EBTD: Tensor,
        now: Pass,
    ) -> Tensor:
        """o_EBHTd of the mixer of block i; its state goes through the cache."""
        mixer: Any = self.model.mixer
        times = q_EBHTd.shape[2] // k_EBGTd.shape[2]
        k_EBHTd, v_EBHTd = (repeated(x, times) for x in (k_EBGTd, v_EBGTd))
        cache = now.cache if isinstance(now.cache, Cache) else None
        state = None if cache is None else cache.state(i)
        own = self._own(p, f"blocks.{i}.attn.mixer")
        q_EBHTd = q_EBHTd * self.scale
        o, state = mixer.forward(own, q_EBHTd, k_EBHTd, v_EBHTd, h_EBTD, state, now.valid)
        if cache is not None:
            cache.remember(i, state)
        return o

    def _normed_turned(
        self, p: Params, i: int, name: str, x_EBHTd: Tensor, tables: Params
    ) -> Tensor:
        """Queries or keys of block i, normed and turned, in the order that the norm asks for."""
        block, position = f"blocks.{i}", self.model.position
        norm = self.model.q_norm if name == "q" else self.model.k_norm
        if norm is not None and not norm.after_rotation:
            x_EBHTd = self._norm(p, f"{block}.attn.{name}_norm", norm, x_EBHTd)
        if position is not None and position.rotate is not None:
            turning = self._own(p, f"{block}.position" if self._per_layer else "position")
            x_EBHTd = position.rotate(tables, turning, x_EBHTd)
        if norm is not None and norm.after_rotation:
            x_EBHTd = self._norm(p, f"{block}.attn.{name}_norm", norm, x_EBHTd)
        return x_EBHTd

    def _read_out(self, p: Params, x_EBTD: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Logits in fp32 at least; with a lower compute dtype their products are its."""
        if self.model.read_out != "lm":
            weight, bias = cast(p["read_out.weight"], dtype), p["read_out.bias"]
            y = linear(x_EBTD, weight, bias).to(bias.dtype)
            return y.squeeze(-1) if self.model.read_out == "scalar" else y
        table = p["head"] if "head" in self.declared else p["embed.tokens"]
        z = linear(x_EBTD, cast(table, dtype))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        cap = self.model.softcap
        return z if cap is None else cap * torch.tanh(z / cap)


def _validity(view: View | None, valid_EBT: Tensor | None) -> Tensor | None:
    """Which tokens are no padding [e,b,T]; None: all."""
    if valid_EBT is None and view is not None:
        valid_EBT = view.coordinates.get("valid")
    if valid_EBT is None:
        return None
    return valid_EBT.reshape((1,) * (3 - valid_EBT.ndim) + tuple(valid_EBT.shape))


def _wanted(x_EBTD: Tensor, outputs: bool | Tensor) -> Tensor:
    """What leaves the last block at the tokens that are to have outputs."""
    if isinstance(outputs, bool):
        return x_EBTD if outputs else x_EBTD[:, :, :0]
    at_EBND = outputs.expand(*x_EBTD.shape[:2], -1)[..., None].expand(-1, -1, -1, x_EBTD.shape[3])
    return x_EBTD.gather(2, at_EBND)


def _those(x_EBTD: Tensor, places: Tensor | None) -> Tensor:
    return x_EBTD if places is None else x_EBTD.index_select(2, places)
