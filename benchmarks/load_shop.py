"""The shop of the benchmark: who pays what, when, as event documents. Seeded, so every run sends the same payments.

`each` users, devices, cards, addresses of mail, ips and parcels; a payment names one of each kind. A user mostly has
things of its own, and every fourth time those of a neighbour, so that nothing is shared by very many.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KINDS = 6
"""Entities of one payment: user, device, card, ip, email, address."""
HISTORY_US = 40 * 86_400_000_000
_CATEGORIES = ("books", "games", "garden", "kitchen", "phones", "shoes", "sport", "toys")


@dataclass(frozen=True, slots=True)
class Shop:
    """`each` shoppers, and so many profiles of every kind."""

    each: int
    seed: int = 4

    @property
    def profiles(self) -> int:
        """Profiles of all kinds."""
        return KINDS * self.each

    def history(self, rows: int, now_us: int) -> Iterator[dict[str, Any]]:
        """`rows` payments for each user (and each other entity), in order of time over the last 40 days.

        The nearer to now the denser: of 100 about three lie in the last hour and sixteen in the last day.
        """
        rnd = random.Random(self.seed)
        for turn in range(rows):
            for user in range(self.each):
                age = (1 - (turn + rnd.random()) / rows) ** 2
                yield self.payment(rnd, f"h-{turn}-{user}", now_us - int(age * HISTORY_US), user, turn)

    def payments(self, run: str, count: int, time_us: int) -> Iterator[dict[str, Any]]:
        """Payments to be decided, with distinct ids; each run goes round the users from another one on.

        So that nobody pays much more often than another, and histories stay what rules and model were fitted to.
        """
        rnd = random.Random(f"{self.seed} {run}")
        order = list(range(self.each))
        random.Random(self.seed).shuffle(order)
        first = rnd.randrange(self.each)
        for number in range(count):
            turn, place = divmod(first + number, self.each)
            yield self.payment(rnd, f"{run}-{number}", time_us, order[place], turn)

    def payment(self, rnd: random.Random, payment_id: str, time_us: int, user: int, turn: int) -> dict[str, Any]:
        """One payment as a flat event document: a full checkout, with some fields that are not always known."""
        near, far = (user + (turn % 4 == 1)) % self.each, (user + 7 * (turn % 4 == 2)) % self.each
        amount_minor = int(rnd.lognormvariate(3.4 + user % 7 / 5, 0.7) * 100) + 1
        lines = 1 + int(rnd.expovariate(0.8)) % 5
        document: dict[str, Any] = {
            "id": payment_id, "kind": "payment", "time_us": time_us, "event.market": "DE", "event.channel": "web",
            "event.zone": "Europe/Berlin", "event.stage": "checkout",
            "user.id": f"user-{user}", "user.language": "de-DE", "device.id": f"device-{near:08x}",
            "device.type": "phone", "device.os": "android", "card.token": f"tok_{far:010x}", "card.bin": "424242",
            "card.last4": f"{far % 10_000:04}", "card.country": "DE", "card.type": "credit",
            "ip.address": f"10.{near >> 16 & 255}.{near >> 8 & 255}.{near & 255}", "ip.country": "DE",
            "ip.proxy": rnd.random() < 0.05, "email.address": f"shopper.{user}@mail{far % 9}.example",
            "email.disposable": rnd.random() < 0.02, "address.street": f"Lindenallee {far}",
            "address.city": "Potsdam", "address.postcode": f"{14_000 + far % 900}", "address.country": "DE",
            "billing.country": "DE", "txn.amount_minor": amount_minor, "txn.currency": "EUR",
            "payment.id": f"pay-{payment_id}", "payment.method": "card",
            "basket.items": [f"item-{rnd.randrange(5_000)}" for _ in range(lines)],
            "basket.categories": [rnd.choice(_CATEGORIES) for _ in range(lines)],
            "basket.quantities": [1 + (rnd.random() < 0.2) for _ in range(lines)],
        }  # fmt: skip
        if rnd.random() < 0.5:
            document["coupon.value_base"] = round(rnd.expovariate(0.1), 2)
        if rnd.random() < 0.7:
            document["geo.latitude"], document["geo.longitude"] = rnd.uniform(47, 55), rnd.uniform(6, 15)
        return document
