"""Results on disk: the only module that writes them.  Needs nothing but the standard library."""

from paribus.store.attempts import Attempt
from paribus.store.checkpoints import Checkpoint
from paribus.store.evaluations import EvaluationClaim
from paribus.store.files import DiskError, Fenced, StoreError
from paribus.store.home import find_home, init_home
from paribus.store.store import Result, Store, TrialState

__all__ = [
    "Attempt",
    "Checkpoint",
    "DiskError",
    "EvaluationClaim",
    "Fenced",
    "Result",
    "Store",
    "StoreError",
    "TrialState",
    "find_home",
    "init_home",
]
