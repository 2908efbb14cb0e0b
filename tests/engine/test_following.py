"""Places that are asked about in rows of any length."""

from __future__ import annotations

import numpy as np
import torch

from paribus.engine.following import at_places, follow
from paribus.readers import Rows


def test_a_row_of_one_token_has_nothing_to_follow() -> None:
    logits = at_places(lambda ids: torch.nn.functional.one_hot(ids + 1, 9).float())
    rows = [Rows(np.array([[3]]), np.array([1])), Rows(np.array([[3, 4, 7]]), np.array([0, 1, 2]))]
    one, three = follow(logits, rows)
    assert not one.right.any()
    assert np.isnan(one.nats).all()
    assert three.right.tolist() == [[False, True, False]]
    assert np.isnan(three.nats).tolist() == [[True, False, False]]
