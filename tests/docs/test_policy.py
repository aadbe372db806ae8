"""The page on the policy shows what the commands give."""

from tests.conftest import ROOT


def test_the_shown_difference_is_what_the_command_gives():
    """The block is the golden text of `arbiter policy diff`, whose test runs the command."""
    golden = (ROOT / "tests" / "golden" / "cli" / "policy_diff.txt").read_text()
    assert f"```text\n{golden}```" in (ROOT / "docs" / "policy.md").read_text()
