"""The policy of the benchmark: 24 windows over six entities, 200 rules whose results have known shares, 300 trees.

Thresholds are set on rows that the preloaded shop really gives, so that of all results 5 % are hits, 10 % UNKNOWN and
30 % reach the third comparison with two that were true, and one payment in ten is not allowed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.manifest import Booster
from engine.scoring.train import train
from engine.values import Row

RULES, TREES, DEPTH = 200, 300, 6
HIT_SHARE, THIRD_SHARE, UNKNOWN_SHARE, NOT_ALLOWED_SHARE = 0.05, 0.30, 0.10, 0.10
UNKNOWN_RULES = 40
"""Rules that read `SPARSE`, which about half of the payments lack; their other comparisons are always true."""

WINDOWS = """
user.payments_1h: count 1h
user.payments_24h: count 24h
user.spend_24h: sum 24h txn.amount_base
user.amount_mean_30d: mean 30d txn.amount_base
user.amount_stddev_30d: stddev 30d txn.amount_base
user.devices_30d: distinct 30d device.id
user.ips_24h: distinct 24h ip.address
device.payments_1h: count 1h
device.cards_24h: distinct 24h card.token
device.users_7d: distinct 7d user.id
device.spend_24h: sum 24h txn.amount_base
card.payments_1h: count 1h
card.spend_24h: sum 24h txn.amount_base
card.amount_max_30d: max 30d txn.amount_base
card.users_30d: distinct 30d user.id
card.seconds_since: since_last 30d
ip.payments_1h: count 1h
ip.users_24h: distinct 24h user.id
ip.cards_24h: distinct 24h card.token
email.payments_24h: count 24h
email.users_30d: distinct 30d user.id
email.amount_mean_30d: mean 30d txn.amount_base
address.payments_7d: count 7d
address.users_30d: distinct 30d user.id
"""
"""Name: measure, window and the field that is summed or told apart; all of them over payments."""
DERIVED = {
    "user.amount_to_mean": "txn.amount_base / user.amount_mean_30d",
    "user.amount_above_mean": "(txn.amount_base - user.amount_mean_30d) / user.amount_stddev_30d",
    "card.amount_to_max": "txn.amount_base / card.amount_max_30d",
    "email.amount_to_mean": "txn.amount_base / email.amount_mean_30d",
    "device.spend_to_amount": "device.spend_24h / txn.amount_base",
    "ip.payments_per_user": "double(ip.payments_1h) / double(ip.users_24h + 1)",
}
PLAIN = (
    "txn.amount_base", "event.local_hour", "event.utc_hour", "event.weekday", "basket.quantity", "ip.proxy",
    "email.disposable", "geo.latitude", "geo.longitude", "coupon.value_base",
)  # fmt: skip
"""Event fields that the model reads beside the features: 40 inputs in all."""
SPARSE = "coupon.value_base"
DISTINCT = 8
"""A field with fewer values can't be cut where a share wants it."""
TELLING = (
    "txn.amount_base", "user.amount_to_mean", "card.amount_to_max", "email.amount_mean_30d", "basket.quantity",
    "geo.latitude",
)  # fmt: skip
"""What the labels go by: fields that a run of the benchmark does not shift, as it does counts of the last hour."""
Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Comparison = tuple[str, Mask]
"""CEL, and the rows on which it is true."""


def feature_names() -> tuple[str, ...]:
    """The windows, then the derived features."""
    return (*(line.partition(":")[0] for line in WINDOWS.split("\n") if line), *DERIVED)


MODEL_INPUTS = (*feature_names(), *PLAIN)


def write_features(folder: Path) -> None:
    """A policy folder with features and without rules: enough to preload profiles and to compute rows."""
    folder.mkdir(parents=True)
    lines = ["features:"]
    for line in filter(None, WINDOWS.split("\n")):
        name, measure, window, *of = line.replace(":", "").split()
        given = f"measure: {measure}, on: payment, window: {window}" + (f", of: {of[0]}" if of else "")
        lines.append(f"  {name}: {{{given}, unit: events, meaning: part of the benchmark}}")
    for name, text in DERIVED.items():
        lines.append(f'  {name}: {{derive: "{text}", unit: ratio, meaning: part of the benchmark}}')
    (folder / "features.yaml").write_text("\n".join(lines) + "\n")
    (folder / "labels.yaml").write_text("fraud: [chargeback, fraud_warning, confirmed_fraud]\nmature_after: 90d\n")
    _write_settings(folder, (), "")


def write_model_of(rows: Sequence[Row], folder: Path) -> str:
    """Train, export and write the model on such rows; returns its name as the policy wants it.

    The labels are noise with a little meaning: what counts here is the shape of the trees, not what they know.
    """
    matrix = _matrix(rows, MODEL_INPUTS)
    rnd = np.random.default_rng(1)
    seen = np.nan_to_num((matrix - np.nanmean(matrix, axis=0)) / (np.nanstd(matrix, axis=0) + 1e-9))
    label = seen[:, [MODEL_INPUTS.index(name) for name in TELLING]].sum(axis=1) + 4 * rnd.normal(size=len(rows)) > 6
    time_us = np.arange(len(rows)) * (DAY_US // len(rows))
    columns = {name: matrix[:, at] for at, name in enumerate(MODEL_INPUTS)}
    rest = {"event_time": time_us, "label": label, "label_known": time_us, "group": np.arange(len(rows))}
    config = TrainConfig(
        name="benchmark", version="1", event_kind="payment", features=MODEL_INPUTS, window=Span(0, DAY_US), folds=2,
        booster=Booster(max_depth=DEPTH, rounds=TREES, learning_rate=0.02, max_bin=256, min_child_weight=0.2),
    )  # fmt: skip
    written = write_model(folder, train(pa.table(columns | rest), config))
    return f"{written.parent.name}/{written.name}"


def write_scored(folder: Path, model: str) -> None:
    """The same folder with the model, so that rows hold a score."""
    _write_settings(folder, (), model)


def write_rules(folder: Path, rows: Sequence[Row], model: str) -> None:
    """Rules and bands whose thresholds give the shares above on such rows, which hold their scores."""
    scores = _matrix(rows, ("score",))[:, 0]
    bands = [float(np.quantile(scores, 1 - NOT_ALLOWED_SHARE * part)) for part in (1.0, 0.4, 0.15)]
    _write_settings(folder, bands, model)
    conditions = list(_Conditions(rows).all())
    random.Random(3).shuffle(conditions)
    lines = ["ruleset: benchmark", "on: payment", "rules:"]
    for number, condition in enumerate(conditions):
        lines += [
            f"  - id: rule-{number:03}",
            f"    when: {condition}",
            "    then: {tier: LOW, action: ALLOW}",
            f"    reason: {{code: R{number:03}, analyst: rule {number} of the benchmark, customer: All is well.}}",
        ]
    (folder / "risk").mkdir()
    (folder / "risk" / "benchmark.yaml").write_text("\n".join(lines) + "\n")


def _write_settings(folder: Path, bands: Sequence[float], model: str) -> None:
    given = ["    - {from_score: 0.0, tier: LOW, action: ALLOW}"]
    for start, tier, action in zip(bands, ("MEDIUM", "HIGH", "HIGH"), ("CHALLENGE", "REVIEW", "DECLINE"), strict=False):
        reason = f"{{code: S{tier}{action}, analyst: the model's score, customer: Please confirm this payment.}}"
        given.append(f"    - {{from_score: {start!r}, tier: {tier}, action: {action}, reason: {reason}}}")
    lines = ["name: benchmark", "base_currency: EUR", "markets: {DE: Europe/Berlin}", "bands:", "  payment:", *given]
    lines.append("default_actions: {LOW: ALLOW, MEDIUM: CHALLENGE, HIGH: REVIEW}")
    lines += ["models:", f"  payment: {model}"] if model else []
    (folder / "policy.yaml").write_text("\n".join(lines) + "\n")


def _matrix(rows: Sequence[Row], names: Sequence[str]) -> Column:
    """Row × name; NaN where a row lacks the name."""
    return np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)


class _Conditions:
    """Writes conditions of three comparisons; what one rule missed of a share the later ones make up for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        names = (*MODEL_INPUTS, "score")
        self._columns: Mapping[str, Column] = dict(zip(names, _matrix(rows, names).T, strict=True))
        self._whole = {name for name in names if all(isinstance(row.get(name, 0), int) for row in rows)}
        self._steady = [
            name for name, column in self._columns.items()
            if not np.isnan(column).any() and len(np.unique(column)) >= DISTINCT
            and not name.startswith("event.") and not name.endswith(("_1h", "seconds_since"))
        ]  # fmt: skip
        self._everywhere = np.ones(len(rows), np.bool_)
        self._random = random.Random(2)

    def all(self) -> Iterator[str]:
        """Every condition of the benchmark."""
        third, hit = THIRD_SHARE * RULES, HIT_SHARE * RULES
        for number in range(RULES):
            left = RULES - number if number >= UNKNOWN_RULES else RULES
            parts = self._known(third / left, hit / left) if number >= UNKNOWN_RULES else self._unknown()
            yield " && ".join(text for text, _ in parts)
            two = parts[0][1] & parts[1][1]
            third, hit = third - float(two.mean()), hit - float((two & parts[2][1]).mean())

    def _unknown(self) -> list[Comparison]:
        """Always true but for one field, which only some payments have."""
        given = ~np.isnan(self._columns[SPARSE])
        parts = [self._compare(name, 1.0, self._everywhere) for name in self._random.sample(self._steady, 2)]
        parts.insert(self._random.randrange(3), self._compare(SPARSE, HIT_SHARE, given))
        return parts

    def _known(self, third: float, hit: float) -> list[Comparison]:
        """Fields that every payment has: both first comparisons true for a share `third`, all three for `hit`."""
        first, second, last = self._random.sample(self._steady, 3)
        one = self._compare(first, min(max(third, 0.01), 0.9) ** 0.5, self._everywhere)
        two = self._compare(second, third / max(one[1].mean(), 1e-9), one[1])
        reached = one[1] & two[1]
        return [one, two, self._compare(last, hit / max(reached.mean(), 1e-9), reached)]

    def _compare(self, name: str, share: float, among: Mask) -> Comparison:
        """A comparison that is true for about `share` of the rows in `among`; for all that may come where it is 1."""
        column, above = self._columns[name], self._random.random() < 0.5
        values = column[among] if among.any() else column[~np.isnan(column)]
        if share >= 1:
            bound = values.min() - 1 if above else 10 * values.max() + 1
        else:
            bound = np.quantile(values, 1 - max(share, 0.0) if above else max(share, 0.0))
        bound = int(np.floor(bound)) if name in self._whole else float(bound)
        return f"{name} {'>=' if above else '<'} {bound!r}", column >= bound if above else column < bound
