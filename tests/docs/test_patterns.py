"""docs/patterns.md: its pattern, rule and cases do what the page says, and so does its Python."""

import re
import shutil
from pathlib import Path

from engine.batch.rule_tests import run_tests
from engine.cli.findings import report_as_text
from engine.loader import load_program
from engine.profiles.identity import Identity
from tests.conftest import POLICY, ROOT

PAGE = (ROOT / "docs" / "patterns.md").read_text()


def test_the_page_runs(tmp_path: Path) -> None:
    """`not`, `same` and `within` each tell a case apart; the rule of the page has hits and misses."""
    folder = Path(shutil.copytree(POLICY, tmp_path / "rules"))
    (folder / "tests").mkdir()
    for name, text in re.findall(r"^```yaml (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(text)
    report = run_tests(load_program(folder, folder, Identity(bytes(32)), with_models=False), folder)
    assert report_as_text(report, coverage=False).startswith("ok: 5 cases")
    assert "unconfirmed-change" not in report.uncovered


def test_the_python_runs() -> None:
    """The example asserts its own result."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(code, {})
