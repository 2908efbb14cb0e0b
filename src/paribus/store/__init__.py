"""Results on disk: the only module that writes them.  Needs nothing but the standard library."""

from paribus.store.attempts import Attempt
from paribus.store.checkpoints import Checkpoint
from paribus.store.evaluations import EvaluationClaim
from paribus.store.files import Damaged, DiskError, Fenced, StoreError, at_once, settled
from paribus.store.gc import Removal
from paribus.store.history import AttemptView, History
from paribus.store.home import find_home, init_home
from paribus.store.runs import RunView
from paribus.store.store import Result, Store, TrialState
from paribus.store.workers import Beat, Worker

__all__ = [
    "Attempt",
    "AttemptView",
    "Beat",
    "Checkpoint",
    "Damaged",
    "DiskError",
    "EvaluationClaim",
    "Fenced",
    "History",
    "Removal",
    "Result",
    "RunView",
    "Store",
    "StoreError",
    "TrialState",
    "Worker",
    "at_once",
    "find_home",
    "init_home",
    "settled",
]
