"""Files of a policy with something inserted, lost or doubled anywhere: each loads, or is refused with a place."""

import random
import re
import shutil
from pathlib import Path

import pytest

from engine.errors import PolicyError
from engine.loader import load_program
from engine.profiles.identity import Identity
from tests.conftest import NOW_US, POLICY

FILES = (
    "lists/cards.csv", "lists/trusted.csv", "lists/lists.yaml", "tables/refund.csv", "risk/refunds.yaml",
    "reasons.yaml", "snoozes.yaml", "policy.yaml",
)  # fmt: skip
PIECES = (
    b'"', b",", b";", b"\n", b"\r\n", b"\x00", b"\xff", b"..", b"not ", b"param.large", b">=", b"- ", b"{", b"}",
    b"[", b"]", b":", b"9" * 20, b"2026-13-01", b"\xe2\x82\xac", b"null", b"\t", b"\nscorecards: 3\n",
)  # fmt: skip
ROUNDS = 25


def worse(data: bytes, rnd: random.Random) -> bytes:
    """The data with up to three accidents."""
    changed = bytearray(data)
    for _ in range(rnd.randint(1, 3)):
        at = rnd.randrange(len(changed) + 1)
        accident = rnd.randrange(3)
        if accident == 0:
            changed[at:at] = rnd.choice(PIECES)
        elif accident == 1:
            del changed[at : at + rnd.randint(1, 12)]
        else:
            changed[at:at] = changed[: rnd.randint(1, 40)]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_with_a_place_or_loads(name, tmp_path):
    """No other error comes out, and what is said names a file and a line."""
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    good, rnd = (folder / name).read_bytes(), random.Random(name)
    for _ in range(ROUNDS):
        (folder / name).write_bytes(worse(good, rnd))
        said = ""
        try:
            load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False)
        except PolicyError as problem:
            said = str(problem)
        assert not said or re.match(r"\S+:\d+:\d+: (error|warning)\[\w+\]: ", said)
