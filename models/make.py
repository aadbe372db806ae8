"""The one command that made the shipped model: `python models/make.py [FOLDER]`; about four minutes on one core.

A simulated shop, without the scheme that is held out of rules and models, becomes a history in files; `arbiter train`
learns from it what `models/payment.yaml` says. The same seed gives the same bytes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from engine.cli.app import app

HERE = Path(__file__).parent
SHOP = """
    --seed 20250301 --start 2025-03-01 --days 265 --tail-days 30 --shoppers 17000 --payments-per-day 850
    --browsing 0.15
""".split()
MATURE_AFTER = "60d"
"""In this shop a fraud that is ever heard of is heard of within 60 days."""


def make(models: Path) -> None:
    """Write models/payment/VERSION; an existing version is never changed."""
    with tempfile.TemporaryDirectory() as folder:
        app.main(["simulate", "--out", folder, *SHOP], standalone_mode=False)
        app.main(
            ["train", str(HERE / "payment.yaml"), "--from", folder, "--mature-after", MATURE_AFTER,
             "--folder", str(HERE.parent), "--models", str(models), "--state", folder],
            standalone_mode=False,
        )  # fmt: skip


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
