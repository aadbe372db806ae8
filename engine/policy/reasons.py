"""`reasons.yaml`: one list of stable codes, each with what an analyst reads, what a customer may read, and a category.

Rules, bands and fallbacks name a code; with `features:` it is also what those features mean when they raise a score. A
reason that is used in a single place may be written out there instead, as `{code, analyst, customer}`: it joins the
same list, and a code has one meaning wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.language import Diagnostics, Fields, Position, Reader, Related, Scalar, load_yaml
from engine.schema import FIELDS
from engine.values import Reason

Translations = Mapping[str, Mapping[str, str]]
"""Language (en, de …) → reason code → customer text; the default language is not among them."""


def said_in(language: str, reasons: tuple[Reason, ...], translations: Translations) -> tuple[Reason, ...]:
    """Reasons with their customer texts in a language (a BCP 47 tag), where there are any."""
    texts = translations.get(language.partition("-")[0].lower())
    if not texts:
        return reasons
    return tuple(replace(reason, customer=texts.get(reason.code, reason.customer)) for reason in reasons)


@dataclass(slots=True)
class Reasons:
    """All reasons of one policy, as they are met."""

    diagnostics: Diagnostics
    known: dict[str, Reason] = field(default_factory=dict)
    translations: dict[str, dict[str, str]] = field(default_factory=dict)
    _explained: dict[str, tuple[str, Scalar]] = field(default_factory=dict)
    """Feature, or `user.*` for all of an entity → code of its reason, and where that is said."""
    _places: dict[str, Position] = field(default_factory=dict)

    def load(self, path: Path) -> None:
        """Read the list, if there is one."""
        if not path.exists():
            return
        reader = Reader(self.diagnostics)
        top = reader.fields(load_yaml(path, self.diagnostics, path.name), {"reasons"}, {"languages", "texts"})
        languages = top.texts("languages") or ("en",)
        self.translations = {language: {} for language in languages[1:]}
        texts = {name.value: self._text(name, reader.fields(node, languages)) for name, node in top.entries("texts")}
        for code, node in top.entries("reasons"):
            item = reader.fields(node, {"category", "analyst"}, {"customer", "features"})
            said = texts.get(item.text("customer", ""), {})
            if not said and "customer" in item:
                name = item.text("customer")
                item.mistake("E515", f"unknown text `{name}`", "customer", self.diagnostics.did_you_mean(name, texts))
            customer = said.get(languages[0], "")
            self.known[code.value] = Reason(code.value, item.text("analyst"), customer, "", item.text("category"))
            self._places[code.value] = code.position()
            self._explain(code.value, item)
            for language in languages[1:] if said else ():
                self.translations[language][code.value] = said.get(language, "")

    def _explain(self, code: str, item: Fields) -> None:
        for node in filter(None, map(item.reader.scalar, item.items("features"))):
            if node.value in self._explained:
                places = (Related(self._explained[node.value][1].position(), "explained here"),)
                message = f"`{node.value}` has a reason already"
                self.diagnostics.error("E530", message, node.position(), node.length, related=places)
            self._explained[node.value] = code, node

    def explains(self, names: Collection[str]) -> dict[str, Reason]:
        """Feature → the reason when it raises a model's score; `names` are all features and fields of the policy."""
        found: dict[str, Reason] = {}
        for pattern in sorted(self._explained, key=lambda name: not name.endswith("*")):  # a name of its own comes last
            code, node = self._explained[pattern]
            start = pattern.removesuffix("*") if pattern.endswith(".*") else None
            matches = [name for name in names if name == pattern or (start and name.startswith(start))]
            if not matches:
                hint = self.diagnostics.did_you_mean(pattern, names)
                message = f"no feature or field is called `{pattern}`"
                self.diagnostics.error("E530", message, node.position(), node.length, hint=hint)
            found |= dict.fromkeys(matches, self.known[code])
        return found

    def read(self, item: Fields, source: str, key: str = "reason") -> Reason:
        """What the reason of a rule, band or fallback is; one without a code if there is none."""
        node = item.get(key)
        if node is None:
            return Reason("", "", "", source)  # a band that gives nobody a reason, such as the lowest
        if not isinstance(node, Scalar):
            return replace(self._inline(item.fields(key, {"code", "analyst"}, {"customer", "category"})), source=source)
        if node.value not in self.known:
            hint = self.diagnostics.did_you_mean(node.value, self.known) or "add it to reasons.yaml"
            item.mistake("E515", f"unknown reason `{node.value}`", key, hint)
            return Reason("", "", "", source)
        return replace(self.known[node.value], source=source)

    def _inline(self, inner: Fields) -> Reason:
        customer = inner.text("customer", "")
        given = Reason(inner.text("code"), inner.text("analyst"), customer, "", inner.text("category", ""))
        if problem := _telling(customer):
            inner.mistake("E516", problem, "customer")
        known = self.known.setdefault(given.code, given)
        place = self._places.setdefault(given.code, inner.position("code"))
        if known != given:
            message, related = f"reason `{given.code}` has other texts elsewhere", Related(place, "declared here")
            where, length = inner.position("code"), len(given.code)
            self.diagnostics.error("E504", message, where, length, related=(related,))
        return known

    def _text(self, name: Scalar, said: Fields) -> dict[str, str]:
        """A customer text by language; none may teach what was looked at."""
        texts = {language: said.text(language) for language in said.values}
        for language, text in texts.items():
            if problem := _telling(text):
                said.mistake("E516", problem, language)
        return texts


def _telling(text: str) -> str:
    """What a text for customers gives away: a number, which may be a threshold, or the name of a field."""
    digit = re.search(r"\d", text)
    named = next((name for name in FIELDS if "." in name and name in text), "")
    what = f"the number {digit.group()}" if digit else f"the field {named}" if named else ""
    return f"a text for customers must not name {what}" if what else ""
