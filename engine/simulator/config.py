"""What a simulated shop is like: sizes, period, shares of fraud. Checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from engine.errors import SettingsError
from engine.simulator.places import COUNTRIES

FRAUD_SCHEMES = ("card_testing", "account_takeover", "new_account_abuse", "stolen_card", "velocity_spree")
ABUSE_SCHEMES = ("refund_abuse", "coupon_abuse", "reseller")
HELD_OUT_SCHEME = "triangulation"
"""Fraud that neither rules nor models were written for; it shows what they do with the unknown."""
CURRENCIES = ("EUR", "GBP", "USD")


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """A simulated shop. Raises `SettingsError` naming each impossible value."""

    start: datetime = datetime(2026, 6, 1, tzinfo=UTC)
    """First moment, with a zone."""
    days: int = 60
    """Length of the period in which people come, 1..3650."""
    shoppers: int = 10_000
    """People who may come; a fifth of them join during the period."""
    payments_per_day: float = 500.0
    """Honest payments wanted per day, on average; at most a quarter of `shoppers`."""
    fraud_share: float = 0.015
    """Fraudulent share of all payments, 0..0.5."""
    abuse_share: float = 0.008
    """Share of all payments that abuse refunds, coupons or stock, 0..0.5."""
    schemes: tuple[str, ...] = FRAUD_SCHEMES + ABUSE_SCHEMES
    """Schemes that run for the whole period."""
    held_out_from_day: int | None = None
    """Day from which the held-out scheme runs as well, 0 = from the start; None = never."""
    currencies: tuple[str, ...] = ("EUR",)
    """Currencies the shop takes; people whose own is not among them pay in the first."""
    markets: tuple[str, ...] = ("DE", "AT", "FR", "NL", "IT", "ES", "GB", "US")
    """Countries (ISO 3166 alpha-2) where shoppers live."""
    sellers: int = 50
    items: int = 2_000
    browsing: float = 1.0
    """Multiplies the pages looked at per session, 0..10; 0 leaves accounts, carts and payments."""
    tail_days: int = 0
    """Days after the period in which deliveries, refunds and outcomes of earlier payments still arrive."""

    def __post_init__(self) -> None:
        wrong = [text for ok, text in self._checks() if not ok]
        if wrong:
            raise SettingsError("simulator: " + "; ".join(wrong))

    def _checks(self) -> list[tuple[bool, str]]:
        known = FRAUD_SCHEMES + ABUSE_SCHEMES
        held = self.held_out_from_day
        return [
            (self.fraud_share + self.abuse_share <= 0.8,
             f"fraud_share {self.fraud_share} and abuse_share {self.abuse_share} leave under 0.2 for honest payments"),
            (self.start.tzinfo is not None, f"start {self.start} has no zone: add tzinfo=UTC"),
            (1 <= self.days <= 3650, f"days {self.days} is not in 1..3650"),
            (self.shoppers >= 10, f"shoppers {self.shoppers} is below 10"),
            (0 < self.payments_per_day <= self.shoppers / 4,
             f"payments_per_day {self.payments_per_day} is not above 0 and at most shoppers / 4 "
             f"({self.shoppers / 4:g}): raise shoppers"),
            (0 <= self.fraud_share <= 0.5, f"fraud_share {self.fraud_share} is not in 0..0.5"),
            (0 <= self.abuse_share <= 0.5, f"abuse_share {self.abuse_share} is not in 0..0.5"),
            (set(self.schemes) <= set(known),
             f"schemes {sorted(set(self.schemes) - set(known))} are unknown: choose from {list(known)}; "
             f"{HELD_OUT_SCHEME} is switched on by held_out_from_day"),
            (held is None or held >= 0, f"held_out_from_day {held} is negative"),
            (bool(self.currencies) and set(self.currencies) <= set(CURRENCIES),
             f"currencies {list(self.currencies)} must be one or more of {list(CURRENCIES)}"),
            (bool(self.markets) and set(self.markets) <= set(COUNTRIES),
             f"markets {list(self.markets)} must be one or more of {sorted(COUNTRIES)}"),
            (self.sellers >= 1, f"sellers {self.sellers} is below 1"),
            (self.items >= 100, f"items {self.items} is below 100"),
            (0 <= self.browsing <= 10, f"browsing {self.browsing} is not in 0..10"),
            (0 <= self.tail_days <= 365, f"tail_days {self.tail_days} is not in 0..365"),
        ]  # fmt: skip
