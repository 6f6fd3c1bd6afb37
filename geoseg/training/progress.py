"""Progress: what a run tells of its steps and epochs, and how far it is."""

from dataclasses import dataclass, field

_ERRORS = ("loss", "val_loss", "ece", "rmse", "mae")
"""Columns, or their last parts, of which the lowest value is the best."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What there is to say when an epoch ends."""

    number: int
    """From 1."""
    of: int
    """Epochs in all."""
    loss: float
    """Mean over the epoch's steps."""
    terms: dict[str, float]
    """The same for each term of the loss, before its factor."""
    lr: float
    """Learning rate of the last step."""
    iou: dict[str, float | None]
    """Per class on the validation ground; None for a class that is not there. Empty without such ground."""
    mean_iou: float | None
    """Mean over the classes after the background, of those there are."""
    shares: dict[str, float]
    """What each term had of its head's gradient in the epoch's first batch: near 1, no other term is heard."""
    further: dict[str, float | None]
    """Scores of further heads, see `Validation`."""
    samples_per_s: float
    """Speed of the steps, validation left out."""
    seconds: float
    """Since the first step, time between an end and its resumption left out."""
    saved: bool
    """Whether this epoch is the best so far and its checkpoint was written."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Everything that was scored on the validation ground, by its column of metrics.csv."""
    metric: str = "score"
    """The column that says which epoch is the best."""
    value: float | None = None
    """What this epoch has there; None without validation ground."""
    best: float | None = None
    """The best value so far, this epoch's included."""

    @property
    def columns(self) -> dict[str, float | None]:
        """Everything by its column of metrics.csv, but for the number of the epoch and the times."""
        shares = {f"share_{name}": value for name, value in self.shares.items()}
        return {"lr": self.lr, "loss": self.loss} | self.terms | self.metrics | shares

    def is_better_than(self, best: float | None) -> bool:
        """Whether this epoch's value beats another; where one of them is missing, only the first epoch is better."""
        if self.value is None or best is None:
            return best is None
        kind = self.metric.rpartition(".")[2]
        if kind == "bias":
            return abs(self.value) < abs(best)
        if kind in _ERRORS or self.metric in self.terms:
            return self.value < best
        return self.value > best

    def row(self) -> dict[str, str]:
        """The line of metrics.csv."""
        numbers = {name: "" if value is None else f"{value:.6g}" for name, value in self.columns.items()}
        times = {"samples_per_s": f"{self.samples_per_s:.1f}", "seconds": f"{self.seconds:.1f}"}
        return {"epoch": str(self.number)} | numbers | times


@dataclass(frozen=True, slots=True)
class Step:
    """What there is to say after a step: after a batch, or after all batches whose gradients it takes."""

    epoch: int
    """From 1."""
    epochs: int
    """In all."""
    number: int
    """Of the step in its epoch, from 1."""
    of: int
    """Steps in an epoch."""
    loss: float
    """Mean over the epoch so far."""
    samples_per_s: float
    """Speed of the epoch so far."""
    eta_s: float
    """Seconds until the last epoch is over, as things go, validation included."""
    metric: str
    """The column of metrics.csv that says which epoch is the best."""
    best: float | None
    """Its best value so far; None before the first validation."""


@dataclass(slots=True)
class Standing:
    """How far a run is, as its state keeps it."""

    epochs: int = 0
    """Whole ones."""
    best: float | None = None
    """Value of the metric in the best epoch."""
    best_epoch: int = 0
    """From 1; 0 before there is one."""
    seconds: float = 0.0
    """Spent on it."""
    rows: list[dict[str, str]] = field(default_factory=list)
    """Of metrics.csv."""

    def take(self, epoch: Epoch) -> None:
        """Count an epoch."""
        self.epochs, self.seconds = epoch.number, epoch.seconds
        self.rows.append(epoch.row())
        if epoch.saved:
            self.best, self.best_epoch = epoch.value, epoch.number

    def exhausted(self, patience: int | None) -> bool:
        """Whether there has been nothing better for so many epochs."""
        return patience is not None and self.epochs - self.best_epoch >= patience
