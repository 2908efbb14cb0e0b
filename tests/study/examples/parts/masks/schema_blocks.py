"""A stand-in: block diagonal, then block summaries."""

from paribus.contracts import Mask


class SchemaBlocks(Mask, frozen=True, kw_only=True):
    local_layers: int = 2
    summaries_causal: bool = True
