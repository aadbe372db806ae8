"""The command as a whole: its list, its help, how it ends, how fast it starts, and completion."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from engine import errors
from engine.cli import app as module
from engine.cli.app import COMMANDS, app
from engine.cli.endings import ending
from engine.cli.options import arbiter_command
from engine.cli.reference import helps
from tests.conftest import ROOT
from tests.unit.cli.conftest import golden, payment

CODES = {
    "InvalidInput": 2, "MappingError": 2, "PolicyError": 3, "SettingsError": 3, "ModelError": 3, "NotFound": 3,
    "Unavailable": 3, "JournalUnavailable": 3, "ProfilesUnavailable": 3, "ArbiterError": 3,
}  # fmt: skip


def test_help(call):
    """`arbiter --help` is exactly this text."""
    done = call("--help")
    assert done.exit_code == 0
    golden("help", done.stdout)


def test_every_command_explains_itself():
    """Each command has its line of the list as its first sentence, and its help ends with examples."""
    found = dict(helps(app, "arbiter", None))
    for name, (_, line) in COMMANDS.items():
        text = found[f"arbiter {name}"]
        first = " ".join(text.split("\n\n")[1].split())
        assert first.startswith(line.rstrip(".")), name
    for path, text in found.items():
        is_group = "Commands:" in text
        assert is_group or f"Examples:\n    {path}" in text, path


def test_an_unknown_command_names_the_nearest(call):
    """A slip of the finger is helped."""
    done = call("decid")
    assert done.exit_code == 2
    assert "did you mean 'decide'?" in done.stderr


@pytest.mark.parametrize("name", CODES)
def test_exit_codes(name):
    """Each known error leaves with its code and its own words."""
    kind = getattr(errors, name)
    problem = kind([errors.Violation("a.b", "is wrong")]) if name == "InvalidInput" else kind("words")
    found = ending(problem)
    assert found is not None
    assert found.exit_code == CODES[name]
    assert ("a.b: is wrong" if name == "InvalidInput" else "words") in found.message


def test_an_error_nobody_foresaw_stays_what_it_is():
    """A mistake in the code is no message for users."""
    assert ending(KeyError("x")) is None
    assert ending(BrokenPipeError()) is None


def test_errors_are_messages(call, tmp_path):
    """Without --debug there is no traceback; with it the error comes through."""
    done = call("serve", "--folder", tmp_path)
    assert done.exit_code == 3
    assert done.stderr.startswith("error: there is no policy in ")
    assert "Traceback" not in done.output
    done = call("serve", "--folder", tmp_path, "--debug")
    assert isinstance(done.exception, errors.SettingsError)


def test_ctrl_c(call, monkeypatch):
    """Ctrl-C ends with 130 and a word, whatever was running."""

    @arbiter_command("version", "arbiter version")
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "import_module", lambda _: type("Module", (), {"command": stopped}))
    done = call("version")
    assert done.exit_code == 130
    assert "stopped" in done.stderr


def test_help_imports_nothing_heavy():
    """`arbiter --help` loads none of the packages that take long; it starts in a fraction of a second."""
    code = (
        "import sys; from engine.cli.app import app; app.main(['--help'], standalone_mode=False);"
        "heavy = {'pydantic', 'numpy', 'grpc', 'onnxruntime', 'pandas', 'pyarrow', 'rich', 'yaml'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(call, shell):
    """Each script calls the command itself."""
    done = call("completion", shell)
    assert done.exit_code == 0
    assert "_ARBITER_COMPLETE" in done.stdout


def test_completion_knows_commands_and_options():
    """Names are completed without importing any command, options with those of the command."""
    shell = BashComplete(app, {}, "arbiter", "_ARBITER_COMPLETE")
    named = [name for name in COMMANDS if name.startswith("re")]
    assert [item.value for item in shell.get_completions([], "re")] == named
    assert {"replay", "rebuild", "review"} <= set(named)
    assert "--misses" in [item.value for item in shell.get_completions(["decide"], "--m")]


def test_version(call):
    """The version of Arbiter comes first."""
    for words in (["version"], ["--version"]):
        done = call(*words)
        assert done.exit_code == 0
        assert done.stdout.startswith("arbiter ")


@pytest.mark.parametrize(("surroundings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal_unless_refused(folder, surroundings, coloured):
    """A terminal gets colour, in results and errors alike; with NO_COLOR it gets none."""
    code = "from engine.cli import main; main()"
    for words in (["decide", "-", "--folder", folder], ["serve", "--folder", "nowhere"]):
        text = on_terminal([sys.executable, "-c", code, *words], payment(), surroundings)
        assert (b"\x1b[3" in text) == coloured, text


def on_terminal(words, stdin, surroundings):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", **surroundings}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, cwd=ROOT, env=environ) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        found = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while part := os.read(ours, 65536):
                found += part
    os.close(ours)
    return found


def test_no_colour_elsewhere(call, folder):
    """Text that is not for a terminal carries no escape codes."""
    assert "\x1b" not in call("decide", "-", "--folder", folder, stdin=payment()).output
    assert "\x1b" not in call("serve", "--folder", "nowhere").output
