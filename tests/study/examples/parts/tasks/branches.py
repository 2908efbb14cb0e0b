"""A stand-in: several texts advance as branches of one sample."""

from paribus.contracts import Corpus, Io, Metric, Task


class Branches(Task, frozen=True, kw_only=True):
    metrics = {"loss": Metric("nats/token"), "ppl": Metric("", of="loss", transform="exp")}
    corpus: Corpus
    branches: int | tuple[int, int] = 1
    texts_per_step: int = 64

    def io(self) -> Io:
        return Io(vocab=6400)

    def rows(self) -> int:
        """Samples a step: texts over the mean number of branches."""
        mean = self.branches if isinstance(self.branches, int) else sum(self.branches) / 2
        return max(1, round(self.texts_per_step / mean))
