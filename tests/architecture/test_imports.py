"""The house's arrows, as import-linter sees them: lazy and typing-only imports count."""

from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]


def test_imports_run_one_way(monkeypatch, capsys):
    """Every contract of pyproject.toml is kept."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0, capsys.readouterr().out
