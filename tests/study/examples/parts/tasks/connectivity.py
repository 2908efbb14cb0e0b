"""A stand-in: is there a join path?"""

from paribus.contracts import Io, Metric, Task


class Connectivity(Task, frozen=True, kw_only=True):
    metrics = {"balanced_accuracy": Metric("", better="higher")}
    V: int
    C: int = 3
    examples: int = 256
    mode: str = "published"

    def io(self) -> Io:
        return Io(in_dim=self.V * self.C)
