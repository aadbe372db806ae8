"""The page on the command line is what the commands say of themselves."""

import os

from engine.cli.reference import page
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "cli.md"


def test_the_page_is_fresh():
    """`python -m engine.cli.reference > docs/cli.md` would change nothing."""
    if os.environ.get("ARBITER_REWRITE_GOLDEN") == "1":
        PAGE.write_text(page())
    assert page() == PAGE.read_text()
