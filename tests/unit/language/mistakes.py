"""One small rule file for each code, with the mistake that the code is about."""

from __future__ import annotations

from engine.language import Diagnostics, Position, Reader, Schema, check, parse_yaml

SCHEMA = Schema.of(
    {
        "txn.amount_base": "double", "user.payments_1h": "int", "user.vip": "bool", "card.bin": "string",
        "event.time": "timestamp", "basket.items": "list(string)", "attributes": "map(string, string)",
    },
    lists={"bins": "string"},
    places={"user.payments_1h": Position("features.yaml", 12, 3)},
)  # fmt: skip


def report(text: str | bytes) -> Diagnostics:
    """Read a rule file the way policies are read, and give back every mistake."""
    diagnostics = Diagnostics()
    reader = Reader(diagnostics)
    top = reader.fields(parse_yaml(text, "rules.yaml", diagnostics), {"rules"}, {"limit"})
    top.integer("limit", 0, minimum=1, maximum=100)
    for rule in top.fields_list("rules", {"id", "when"}, {"status", "rollout", "from", "within"}):
        rule.text("id")
        rule.choice("status", ("enforce", "observe", "off"), "enforce")
        rule.share("rollout", 1.0)
        rule.timestamp_us("from", None)
        rule.duration_us("within", None)
        when = rule.scalar("when")
        if when is not None:
            check(when, SCHEMA, diagnostics)
    return diagnostics


def rule(when: str) -> str:
    """A rule file with one condition."""
    return f"rules:\n  - id: sample\n    when: {when}\n"


FILES: dict[str, str | bytes] = {
    "E102": "x" * 5_000_001,
    "E103": b"rules:\n  - id: \xe9t\xe9\n    when: user.vip\n",
    "E104": "rules:\n  - id: sample\n    when: a: b\n",
    "E105": "rules:\n  - id: sample\n\t  when: user.vip\n",
    "E106": "rules:\n  - &first\n    id: sample\n    when: user.vip\n",
    "E107": "rules:\n  - id: !!python/name:os.system sample\n    when: user.vip\n",
    "E108": "rules:\n  - id: sample\n    when: user.vip\n    id: other\n",
    "E109": "",
    "E110": "rules: " + "[" * 70 + "]" * 70,
    "E111": "rules:\n  - id: sample\n    when: user.vip\n    statsu: off\n",
    "E112": "rules:\n  - id: sample\n",
    "E113": "rules:\n  id: sample\n",
    "E114": "rules:\n  - id: sample\n    when: user.vip\n    from: 2026-11-27T00:00\n    within: 30 days\n",
    "E115": "limit: 500\nrules:\n  - id: sample\n    when: user.vip\n    rollout: 125%\n",
    "E116": "rules:\n  - id: sample\n    when: user.vip\n    status: enforced\n",
    "E201": rule("txn.amount_base = 500"),
    "E202": rule("card.bin == 'abc"),
    "E203": rule("card.bin.matches('\\d+')"),
    "E204": rule("user.payments_1h > 99999999999999999999"),
    "E205": rule("user.vip and txn.amount_base > 5"),
    "E206": rule("package > 5"),
    "E207": rule("(" * 1000 + "user.vip" + ")" * 1000),
    "E208": rule("has(card)"),
    "E301": rule("txn.amout_base > 500"),
    "E302": rule('card.bin.startWith("42")'),
    "E303": rule("size(user.vip) > 3"),
    "E304": rule("card.bin && user.vip"),
    "E305": rule('user.payments_1h == "three"'),
    "E306": rule("user.payments_1h > 2.5"),
    "E307": rule("txn.amount_base * 2"),
    "E308": rule('in_list("bin", card.bin)'),
    "E309": rule('card.bin.first == "4"'),
    "E310": rule("type(card.bin) == string"),
    "E311": rule('card.bin.matches("(42")'),
}
