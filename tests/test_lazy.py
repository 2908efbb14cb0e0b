"""Handles to heavy libraries."""

from __future__ import annotations

import torch as real

from paribus import lazy


def test_names_may_be_filled_again():
    """Each compiled trial fills them, and torch has a name ``fill`` itself."""
    for _ in range(2):
        lazy.fill()
        assert lazy.torch.fill is real.fill
        assert vars(lazy.torch)["cat"] is real.cat, "looked up already"
        assert vars(lazy.F)["silu"] is real.nn.functional.silu
        assert "numpy" in repr(lazy.numpy)
