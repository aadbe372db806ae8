"""What `arbiter train` is told: which rows, which features, how, and what for."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.scoring.codec import DAY_US, Span, decode
from engine.scoring.manifest import Booster

CANDIDATES = ("logistic", "tree", "forest", "svm", "ensemble")
SELECTIONS = ("mutual_information", "elimination", "l1", "gain")


@dataclass(frozen=True, slots=True)
class Validation:
    """Prequential: the last blocks of the training window, each scored by a model of what was known when it began."""

    blocks: int = 0
    """0 = no validation."""
    days: float = 7.0
    """Length of a block. Rows of the last `delay_days` before it are not learnt from: their labels were not known."""
    split: str = "time"
    """`random` draws the blocks by chance instead, which flatters: the manifest and the report say so."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Ways of choosing features, each judged on the validation blocks."""

    methods: tuple[str, ...] = SELECTIONS
    """mutual_information (filter), elimination (wrapper: recursive), l1 and gain (embedded)."""
    keep: int = 15
    """How many a method keeps; elimination keeps as many as do best, but no fewer than half of them."""
    use: str = ""
    """The method whose choice is trained on; without it the methods are only compared."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """A search of the booster's parameters by average precision on the validation blocks."""

    minutes: float = 5.0
    """No trial is begun later; a model is the same again only when `trials` end the search."""
    trials: int = 30
    storage: str = ""
    """An SQLite file from which a search goes on where it was left; without it nothing is kept."""


@dataclass(frozen=True, slots=True)
class Money:
    """What a stopped payment saves and costs, in the units of the amount."""

    per_alert: float = 0.0
    """What a look at one alert costs."""
    good_share: float = 0.0
    """Share of its amount that is lost when a good payment is stopped."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns beside the features."""

    time: str = "event_time"
    """When it happened: a timestamp, or int64 microseconds."""
    label: str = "label"
    """1 or true is fraud, 0 or false is good, null is neither (or not known yet)."""
    label_known: str = "label_known"
    """When the label was known: a timestamp, or int64 microseconds; null is never."""
    group: str = "group"
    """Whose payment it is (card or customer), of any type; null is nobody's."""
    amount: str = "txn.amount_base"
    """What is lost with a fraud, for the money saved; without such a column nothing is said of money."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, from which rows, and how. Readable from YAML with `read_config`."""

    name: str
    version: str
    event_kind: str
    features: tuple[str, ...]
    window: Span
    """Event times to learn from."""
    delay_days: float = 7.0
    """How long after the event its label is usually known."""
    calibrate: Span | None = None
    """A later window to calibrate on. Without it, training rows are used, each scored by a model that never saw it."""
    test: Span | None = None
    """A window to measure on; it must begin at the cut-off or later."""
    cut_off_us: int = 0
    """Labels known after it are not seen; 0 = end of the last learning window + delay."""
    columns: Columns = field(default_factory=Columns)
    booster: Booster = field(default_factory=Booster)
    monotone: dict[str, int] = field(default_factory=dict)
    """Feature → 1 or -1: the score never falls, or never rises, as the feature grows."""
    trusted: tuple[str, ...] = ()
    """Features that may tell fraud alone (AUC above 0.99), because they are truly known when the decision is made."""
    good_share: float = 1.0
    """Share of the good rows that is learnt from, drawn by the seed, weighted by its inverse: faster, a bit worse."""
    validate: Validation = field(default_factory=Validation)
    candidates: tuple[str, ...] = ()
    """Baselines beside XGBoost, in one table: logistic, tree, forest, svm, and the ensemble of all. Never served."""
    select: Selection | None = None
    tune: Tuning | None = None
    money: Money = field(default_factory=Money)
    seed: int = 0
    threads: int = 1
    folds: int = 7
    """Blocks of time for calibration without a window of its own."""
    parity_rows: int = 1_000
    alerts_per_day: int = 100
    """k of card precision@k."""
    leave_out_compromised: bool = True
    """Leave test rows out whose card was already known as defrauded."""
    compromised_days: float = 0.0
    """By a fraud of so many days before the test at most; 0 = since the training window began."""
    report: bool = True
    """Write `report.html`, which takes some seconds."""
    definitions_digest: str = ""
    label: str = "fraud: a fraud outcome known at the cut-off; good: let through, and none"
    intended_use: str = "Orders and prices the fraud risk of one event at decision time."
    limits: tuple[str, ...] = (
        "Learnt from what was let through; says nothing about what was always declined.",
        "Not for decisions about a person without an event, and not for setting prices.",
    )

    @property
    def cut_off(self) -> int:
        """The cut-off that is in force, µs."""
        return self.cut_off_us or (self.calibrate or self.window).end_us + round(self.delay_days * DAY_US)


def read_config(data: bytes, file: str) -> TrainConfig:
    """A training configuration from YAML; ModelError shows every mistake with its place in `file`."""
    return decode(TrainConfig, data, file)
