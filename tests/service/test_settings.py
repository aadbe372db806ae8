"""Settings: where they come from, and how a wrong one stops the start."""

import stat
from pathlib import Path

import pytest

from engine.errors import SettingsError
from engine.settings import hash_key, read_secret, read_settings, settings_table


def refused(folder: Path, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> str:
    """The words with which these settings are refused."""
    with pytest.raises(SettingsError) as caught:
        read_settings(folder, flags, environ or {})
    return str(caught.value)


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults give way to the file, the file to the environment, and that to the command line."""
    (tmp_path / "arbiter.yaml").write_text("port: 1\nworkers: 2\ngather_ms: 3\n")
    environ = {"ARBITER_WORKERS": "3", "ARBITER_GATHER_MS": "1.5"}
    settings = read_settings(tmp_path, {"workers": 4, "host": None}, environ)
    assert (settings.port, settings.workers, settings.gather_ms) == (1, 4, 1.5)
    assert settings.host == "127.0.0.1"


def test_paths_start_at_the_folder(tmp_path: Path) -> None:
    """Relative paths are relative to the folder, absolute ones stay."""
    settings = read_settings(tmp_path, {"rules": "/elsewhere/rules"}, {})
    assert settings.state == tmp_path / "state"
    assert settings.rules == Path("/elsewhere/rules")
    assert settings.notices_file is None


def test_settings_travel_to_a_worker(tmp_path: Path) -> None:
    """Settings written as JSON and read back are the same, so that a worker need not read them again."""
    settings = read_settings(tmp_path, {"port": 7}, {})
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    """A name that is no setting is refused in file and environment at once, and the nearest known one is named."""
    (tmp_path / "arbiter.yaml").write_text("wrkers: 2\n")
    words = refused(tmp_path, environ={"ARBITER_DRAIN": "3"})
    assert "arbiter.yaml:1:1: wrkers is not a setting; did you mean workers?" in words
    assert "ARBITER_DRAIN in the environment is not a setting; did you mean drain_s?" in words


def test_a_name_without_a_neighbour_points_to_the_list(tmp_path: Path) -> None:
    """Where no known setting is near, the place of the whole list is named."""
    assert "docs/operations.md" in refused(tmp_path, {"zzzzzz": 1})


def test_the_folder_is_no_setting_of_the_file(tmp_path: Path) -> None:
    """The folder can't be moved from inside itself."""
    (tmp_path / "arbiter.yaml").write_text("port: 1\nfolder: /other\n")
    assert "arbiter.yaml:2:1: folder is not a setting" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", 70_000, "less than or equal to 65535"),
        ("workers", 0, "greater than or equal to 1"),
        ("gather_ms", "soon", "valid number"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("otel_share", 1.5, "less than or equal to 1"),
        ("host", "shop.example", "IPv4 or IPv6 address"),
        ("host", "0.0.0.0", "plaintext: true"),
        ("webhook_url", "file:///etc/passwd", "https://example.org/path"),
        ("otel_endpoint", "127.0.0.1:4317", "https://example.org/path"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, name: str, value: object, words: str) -> None:
    """A value outside its range is refused with the range."""
    assert words in refused(tmp_path, {name: value})


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    """Unknown names and impossible values are reported together, one a line."""
    assert len(refused(tmp_path, {"prot": 1, "port": -1, "workers": 99}).splitlines()) == 3


def test_a_webhook_address_is_never_shown(tmp_path: Path) -> None:
    """A webhook's address may carry a token, so the refusal doesn't repeat it."""
    assert "s3cret" not in refused(tmp_path, {"webhook_url": ["https://example.org/?token=s3cret"]})


def test_a_broken_file_names_itself(tmp_path: Path) -> None:
    """A file that isn't names and single values, each once, is refused with its path and the place."""
    for text in ("- port\n", "port: [1\n", "port: [1]\n", "port: 1\nport: 2\n"):
        (tmp_path / "arbiter.yaml").write_text(text)
        assert f"{tmp_path / 'arbiter.yaml'} can't be used:\narbiter.yaml:" in refused(tmp_path)


def test_a_file_of_comments_states_nothing(tmp_path: Path) -> None:
    """A settings file in which every line is a comment leaves the defaults."""
    (tmp_path / "arbiter.yaml").write_text("# port: 1\n\n  # workers: 2\n")
    assert read_settings(tmp_path, {}, {}).port == 50051


def test_reflection_follows_the_host_unless_said(tmp_path: Path) -> None:
    """Callers are told the protos on loopback only, unless the setting says otherwise."""
    assert read_settings(tmp_path, {}, {}).reflects
    assert not read_settings(tmp_path, {"host": "0.0.0.0", "plaintext": True}, {}).reflects
    assert read_settings(tmp_path, {"host": "0.0.0.0", "plaintext": True, "reflection": True}, {}).reflects
    assert not read_settings(tmp_path, {"host": "::1", "reflection": False}, {}).reflects


def test_the_hash_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """The key is made with mode 0600 where there is none, and is the same at the next start."""
    path = tmp_path / "state" / "hash.key"
    key = hash_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert hash_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["hash.key"]


def test_a_damaged_hash_key_stops_the_start(tmp_path: Path) -> None:
    """A key file that holds something else is refused instead of replaced, because a new key loses every profile."""
    path = tmp_path / "hash.key"
    path.write_text("abc")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="restore it from a backup"):
        hash_key(path)


def test_secret_files_must_be_private(tmp_path: Path) -> None:
    """A secret that others can read, an empty one and a missing one are refused; the last line end is no part of it."""
    path = tmp_path / "token"
    path.write_text("abc\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == b"abc"
    path.write_text("\n")
    with pytest.raises(SettingsError, match="empty"):
        read_secret(path)
    with pytest.raises(SettingsError, match="can't be read"):
        read_secret(tmp_path / "none")


def test_the_docs_list_every_setting() -> None:
    """The table in docs/operations.md is the one that `python -m engine.settings` prints."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert settings_table() in page
