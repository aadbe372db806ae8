"""The parts of `docs/rules.md` that are generated, so that the page can't say anything else than the code."""

from __future__ import annotations

from engine.language.functions import FUNCTIONS, Function
from engine.language.truth import truth_table


def truth_page() -> str:
    """How the four truth values combine, as a Markdown table."""
    lines = ["| a | b | a && b | a \\|\\| b | !a | a == b |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in truth_table()])


def functions_page() -> str:
    """All functions by name, each form with its types, as a Markdown table."""
    lines = ["| written | gives | meaning |", "| --- | --- | --- |"]
    for function in sorted(FUNCTIONS.values(), key=lambda f: (f.name.lower(), f.receiver)):
        results = dict.fromkeys(str(form.result) for form in function.overloads)
        written = ", ".join(f"`{text}`" for text in _written(function))
        meaning = next((form.meaning for form in function.overloads if form.meaning), "")
        meaning = meaning.partition("\n")[0].removesuffix(".")
        lines.append(f"| {written} | {', '.join(results)} | {meaning} |")
    return "\n".join(lines)


def _written(function: Function) -> list[str]:
    """Each form as it is called; a function of any number of arguments once for each type."""
    if len(function.overloads) > 12:
        kinds = dict.fromkeys(str(form.params[0]) for form in function.overloads)
        return [f"{function.name}({kind}{'' if '(' in kind else ', …'})" for kind in kinds if kind != "dyn"]
    forms = []
    for form in function.overloads:
        names = [str(param) for param in form.params]
        target = f"{names.pop(0)}." if function.receiver else ""
        forms.append(f"{target}{function.name}({', '.join(names)})")
    return forms
