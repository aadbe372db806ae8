"""What the marketplace sells: items with category, brand, price and nature, each from one seller."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp, log
from random import Random
from typing import Any

from engine.simulator.places import WORDS

# category: median price in EUR, log spread, can be sold on for cash, functions
_CATEGORIES: dict[str, tuple[float, float, bool, tuple[str, ...]]] = {
    "electronics": (140, 0.8, True, ("headphones", "tablet", "camera", "speaker")),
    "jewellery": (110, 0.8, True, ("ring", "watch", "necklace", "bracelet")),
    "gift_cards": (45, 0.5, True, ("voucher", "top-up", "game credit")),
    "shoes": (75, 0.4, True, ("trainer", "boot", "sandal")),
    "fashion": (42, 0.5, False, ("shirt", "dress", "jacket", "trousers")),
    "home": (38, 0.7, False, ("lamp", "rug", "chair", "shelf")),
    "kitchen": (45, 0.7, False, ("pan", "mixer", "knife", "kettle")),
    "sports": (50, 0.6, False, ("mat", "racket", "helmet", "bottle")),
    "toys": (24, 0.5, False, ("puzzle", "blocks", "board game")),
    "beauty": (20, 0.5, False, ("cream", "perfume", "brush")),
    "books": (14, 0.4, False, ("novel", "guide", "atlas")),
    "garden": (30, 0.6, False, ("planter", "hose", "seeds")),
}
CATEGORIES = tuple(_CATEGORIES)
STYLES = ("classic", "modern", "playful", "rustic", "minimal")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be bought."""

    id: str
    category: str
    brand: str
    style: str
    colour: str
    function: str
    price_minor: int
    """Price of one piece in minor units of EUR; it ends in 9."""
    price_level: float
    """Log ratio of the price to the category's median."""
    seller: str
    fault_rate: float
    """Share of buyers who are let down by it, 0..1."""
    part: dict[str, Any]
    """The `item` part of an event."""

    def document(self) -> dict[str, Any]:
        """The item as a line of `items.jsonl`."""
        title = f"{self.brand} {self.colour} {self.function}"
        return {
            "id": self.id, "category": self.category, "brand": self.brand, "title": title,
            "text": f"{title}: a {self.style} {self.function} for {self.category.replace('_', ' ')} lovers",
            "price_minor": self.price_minor, "currency": "EUR", "merchant_id": self.seller,
            "attributes": {"style": self.style, "colour": self.colour, "function": self.function},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tastes:
    """What one person truly likes. The shop sees only what follows from it."""

    favourites: tuple[str, str, str]
    """Categories, the dearest first: they make 45, 25 and 15 % of what the person looks at."""
    brands: frozenset[str]
    style: str
    price_level: float
    """Liked price as a log ratio to the category's median."""

    def category(self, rng: Random) -> str:
        """A category the person feels like looking at."""
        u = rng.random()
        for share, name in zip((0.45, 0.70, 0.85), self.favourites, strict=True):
            if u < share:
                return name
        return rng.choice(CATEGORIES)

    def liking(self, item: Item) -> float:
        """How well an item suits within its category, 0..1."""
        gap = item.price_level - self.price_level
        fit = exp(-gap * gap / 0.9)
        return fit * (1.0 if item.brand in self.brands else 0.35) * (1.0 if item.style == self.style else 0.6)

    def appeal(self, item: Item) -> float:
        """How much an item appeals to the person, 0..1: category and liking together."""
        weight = {self.favourites[2]: 0.33, self.favourites[1]: 0.55, self.favourites[0]: 1.0}
        return self.liking(item) * weight.get(item.category, 0.05)


@dataclass(slots=True)
class Catalogue:
    """All items, with the popularity by which people come across them."""

    items: list[Item]
    _shelves: dict[str, tuple[list[Item], list[float]]] = field(init=False)
    _by_id: dict[str, Item] = field(init=False)

    def __post_init__(self) -> None:
        shelves: dict[str, list[Item]] = {}
        for item in self.items:
            shelves.setdefault(item.category, []).append(item)
        # popularity falls with the place on the shelf (Zipf)
        self._shelves = {
            name: (shelf, list(accumulate(1 / (3 + rank) ** 0.8 for rank in range(len(shelf)))))
            for name, shelf in shelves.items()
        }
        self._by_id = {item.id: item for item in self.items}

    def __getitem__(self, item_id: str) -> Item:
        return self._by_id[item_id]

    def popular(self, rng: Random, category: str) -> Item:
        """An item of a category, popular ones more often."""
        shelf, weights = self._shelves[category]
        return shelf[bisect(weights, rng.random() * weights[-1])]

    def liked(self, rng: Random, tastes: Tastes) -> Item:
        """An item that a person comes across and looks at: popular, and mostly to the person's taste."""
        category = tastes.category(rng)
        for _ in range(4):
            item = self.popular(rng, category)
            if rng.random() < tastes.liking(item):
                break
        return item

    def sellable(self, rng: Random) -> Item:
        """An item worth much that is easily sold on, as fraudsters like it."""
        resale = [name for name in CATEGORIES if _CATEGORIES[name][2]]
        picks = [self.popular(rng, rng.choice(resale)) for _ in range(4)]
        return max(picks, key=lambda item: item.price_minor)

    def cheap(self, rng: Random) -> Item:
        """One of the cheaper items of the shop."""
        picks = [self.popular(rng, rng.choice(CATEGORIES)) for _ in range(12)]
        return min(picks, key=lambda item: item.price_minor)


def make_catalogue(rng: Random, size: int, sellers: int) -> Catalogue:
    """A catalogue of `size` items from `sellers` sellers, large sellers having more of them."""
    names = [head + tail for head in WORDS["brand heads"] for tail in WORDS["brand tails"]][:60]
    brands = {name: rng.sample(names, 12) for name in CATEGORIES}
    weights = list(accumulate(1 / (1 + n) ** 0.7 for n in range(sellers)))
    return Catalogue([_item(rng, n, brands, weights) for n in range(size)])


def _item(rng: Random, number: int, brands: dict[str, list[str]], seller_weights: list[float]) -> Item:
    category = CATEGORIES[number % len(CATEGORIES)]
    median, spread, _, functions = _CATEGORIES[category]
    price_minor = max(199, int(100 * median * rng.lognormvariate(0, spread)) // 10 * 10 + 9)
    seller = rng.choices(range(len(seller_weights)), cum_weights=seller_weights)[0]
    item_id = f"i-{number + 1:05d}"
    return Item(
        item_id, category, rng.choice(brands[category]), rng.choice(STYLES), rng.choice(WORDS["colours"]),
        rng.choice(functions), price_minor, log(price_minor / 100 / median), f"m-{seller + 1:03d}",
        0.25 if rng.random() < 0.015 else rng.betavariate(2, 50),
        {"id": item_id, "category": category},
    )  # fmt: skip


def tastes_of(seed: int, number: int, catalogue: Catalogue) -> Tastes:
    """The tastes of person `number`: the same whenever asked, so nobody has to store them."""
    rng = Random(f"tastes:{seed}:{number}")
    favourites = rng.sample(CATEGORIES, 3)
    loved = [catalogue.popular(rng, name).brand for name in favourites for _ in range(3)]
    return Tastes(
        (favourites[0], favourites[1], favourites[2]), frozenset(loved), rng.choice(STYLES), rng.gauss(0, 0.5)
    )
