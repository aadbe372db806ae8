"""The table of functions: signatures that the checker reads, and the Python behind them.

A signature is text: `size(string) int` is called as size(x), `string::contains(string) bool` as x.contains(y), and a
dot in a name is a namespace (`math.abs(int) int`). An implementation gets values of just these types and raises
ValueError for what its arguments can't give, which becomes ERROR. `in_list` and `coalesce` are not here: they are no
ordinary functions (`resolve.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from types import NoneType
from typing import Any, TypeVar

from engine.language.quantities import Duration, Failure, Timestamp, TypeName, UInt
from engine.language.types import Type, parse_type

F = TypeVar("F", bound=Callable[..., Any])

_SIGNATURE = re.compile(r"(?:(?P<receiver>[\w(), ]+)::)?(?P<name>[\w.]+)\((?P<params>.*)\) (?P<result>[\w(), ]+)")
KINDS: dict[type, str] = {
    bool: "bool", int: "int", UInt: "uint", float: "double", str: "string", bytes: "bytes", NoneType: "null",
    list: "list", tuple: "list", dict: "map", Timestamp: "timestamp", Duration: "duration", TypeName: "type",
    IPv4Address: "ip", IPv6Address: "ip", IPv4Interface: "cidr", IPv6Interface: "cidr",
}  # fmt: skip
"""Python type → name of the type in the language; values of other Python types don't exist here."""


@dataclass(frozen=True, slots=True)
class Overload:
    """One form of a function; the receiver, if there is one, is the first of `params`."""

    params: tuple[Type, ...]
    result: Type
    run: Callable[..., Any]
    meaning: str = ""
    """What it gives, for the page; "" where the name says it."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function with all its forms. `receiver` tells whether it is called as x.name() or name(x)."""

    name: str
    receiver: bool
    overloads: list[Overload] = field(default_factory=list)
    by_kinds: dict[tuple[str, ...], Overload] = field(default_factory=dict)

    def __call__(self, args: Sequence[Any]) -> Any:
        """The result for values that are neither UNKNOWN nor Failure; a Failure if no form fits or it can't be."""
        kinds = tuple([KINDS.get(type(value), "?") for value in args])
        chosen = self.by_kinds.get(kinds)
        if chosen is None:
            chosen = next((o for o in self.overloads if _accepts(o, kinds)), None)
            if chosen is None:
                return Failure(f"{self.name}() can't take ({', '.join(kinds)})")
            self.by_kinds[kinds] = chosen
        try:
            return chosen.run(*args)
        except (ValueError, OverflowError, KeyError) as error:
            return Failure(f"{self.name}(): {error}")

    def wants(self) -> str:
        """The forms as text, for messages."""
        forms = [f"({', '.join(map(str, o.params[self.receiver :]))})" for o in self.overloads]
        return " or ".join(forms[:4]) + (" …" if len(forms) > 4 else "")


def _accepts(form: Overload, kinds: tuple[str, ...]) -> bool:
    return len(form.params) == len(kinds) and all(p.name in (k, "dyn") for p, k in zip(form.params, kinds, strict=True))


FUNCTIONS: dict[tuple[str, bool], Function] = {}
"""(name, called on a receiver) → function. Filled when the modules below `functions_*` are imported."""


def define(*signatures: str) -> Callable[[F], F]:
    """Enter a Python function under signatures; its docstring is the meaning."""

    def enter(run: F) -> F:
        define_all(("; ".join(signatures), run, run.__doc__ or ""))
        return run

    return enter


def define_all(*rows: tuple[str, Callable[..., Any]] | tuple[str, Callable[..., Any], str]) -> None:
    """Enter what is said in one expression: signatures separated by `; `, the Python, and the meaning if any."""
    for signatures, run, *meaning in rows:
        for signature in signatures.split("; "):
            match = _SIGNATURE.fullmatch(signature)
            if match is None:
                raise ValueError(f"{signature!r} is not a signature")
            receiver, name = match["receiver"], match["name"]
            at_commas = re.split(r",(?![^(]*\))", match["params"])  # outside parentheses
            params = [parse_type(text) for text in (receiver or "", *at_commas) if text.strip()]
            function = FUNCTIONS.setdefault((name, bool(receiver)), Function(name, bool(receiver)))
            function.overloads.append(Overload(tuple(params), parse_type(match["result"]), run, *meaning))
