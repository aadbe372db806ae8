"""What the operator decides: one frozen object, read once at the start.

Later sources win: defaults < `arbiter.yaml` in the folder < `ARBITER_NAME` in the environment < the command line.
A name that is not a setting stops the start in all three. Secrets are no values here: a setting names their file.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import SettingsError
from engine.language.diagnostics import Diagnostics, did_you_mean
from engine.language.source import Scalar, Table, load_yaml

PREFIX = "ARBITER_"
FILE = "arbiter.yaml"
_FOR_TESTS = frozenset({"ARBITER_SHARED_DATA"})
"""Names with our prefix that are no settings: where tests and benchmarks find the public data sets."""
_PATHS = ("state", "rules", "models", "notices_file", "hash_key_file", "webhook_token_file")


class Settings(BaseModel):
    """Every setting with its meaning, unit, range and default; relative paths are relative to `folder`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(Path(), description="folder of this Arbiter; relative paths below start here")
    state: Path = Field(Path("state"), description="folder of the profile store and the journal")
    rules: Path = Field(Path("rules"), description="folder of the policy")
    models: Path = Field(Path("models"), description="folder of the models")
    host: str = Field("127.0.0.1", description="address to listen on; an IPv4 or IPv6 address, or localhost")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one and prints it")
    plaintext: bool = Field(False, description="allow a host other than loopback although the port is not encrypted")
    workers: int = Field(1, ge=1, le=64, description="processes that decide, all on one port; about one for each core")
    in_flight_max: int = Field(256, ge=1, le=100_000, description="calls at once in one worker; more are shed")
    connections_max: int = Field(1_000, ge=1, le=100_000, description="connections at once to one worker")
    streams_max: int = Field(1_000, ge=1, le=100_000, description="calls at once on one connection; more wait")
    message_max_bytes: int = Field(4_194_304, ge=1_024, le=67_108_864, description="largest request body")
    deadline_ms: float = Field(1_000, gt=0, le=60_000, description="deadline of a call that brings none, milliseconds")
    gather_ms: float = Field(2.0, ge=0, le=100, description="how long a commit waits for others, milliseconds")
    drain_s: float = Field(10, ge=0, le=600, description="how long calls in flight may take after SIGTERM, seconds")
    clock: Literal["wall", "event"] = Field(
        "wall", description="what time it is: the wall's, or each event's own time to replay history"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line written")
    log_format: Literal["json", "text"] = Field("json", description="log lines for machines or for people")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus metrics over HTTP on loopback; 0 is off")
    otel_endpoint: str = Field("", description="OTLP gRPC endpoint such as http://127.0.0.1:4317; empty is off")
    otel_share: float = Field(1.0, ge=0, le=1, description="share of decisions that are traced, 0..1")
    webhook_url: str = Field("", description="http(s) address that notices are posted to; empty is off")
    webhook_timeout_s: float = Field(5, gt=0, le=60, description="how long one delivery may take, seconds")
    webhook_token_file: Path | None = Field(None, description="file with a bearer token for the webhook")
    notices_file: Path | None = Field(None, description="file that notices are appended to as JSON lines")
    hash_key_file: Path = Field(
        Path(), description="file of the secret key of profile keys, made once; unset is hash.key in the state folder"
    )
    activation_needs: Literal["nothing", "tests", "coverage", None] = Field(
        None,
        description="what a policy needs to go live: nothing, that its tests pass, or also a hit and a miss of each "
        "enforced rule; unset asks `policy activate` for tests, and a saved file for nothing",
    )
    reflection: bool | None = Field(None, description="gRPC reflection; unset is on for loopback only")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for name in ("webhook_url", "otel_endpoint"):
            url = urlsplit(getattr(self, name))
            if (url.scheme or url.netloc or url.path) and (url.scheme not in ("http", "https") or not url.hostname):
                raise ValueError(f"{name} must be an address such as https://example.org/path")
        if self.host != "localhost":
            try:
                ipaddress.ip_address(self.host)
            except ValueError:
                raise ValueError("host must be an IPv4 or IPv6 address, or localhost") from None
        if not self.loopback and not self.plaintext:
            raise ValueError("host is not loopback and the port is not encrypted; set plaintext: true if that is meant")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def reflects(self) -> bool:
        """Whether the service tells callers its protos."""
        return self.loopback if self.reflection is None else self.reflection


_NAMES = tuple(name for name in Settings.model_fields if name != "folder")


def read_settings(
    folder: Path | str = ".", flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Read the settings of one folder; raises `SettingsError` that names every mistake, its place and the way out.

    A flag that is None was not given.
    """
    folder = Path(folder).resolve()
    env = {k[len(PREFIX) :].lower(): v for k, v in environ.items() if k.startswith(PREFIX) and k not in _FOR_TESTS}
    given: dict[str, _Given] = {}
    wrong: list[str] = []
    for found in (
        *_in_file(folder / FILE),
        *(_Given(n, v, f"{PREFIX}{n.upper()} in the environment") for n, v in env.items()),
        *(_Given(n, v, f"{n} on the command line") for n, v in (flags or {}).items() if v is not None),
    ):
        if found.name in _NAMES:
            given[found.name] = found
        else:
            nearest = did_you_mean(found.name, _NAMES, "") or "docs/operations.md lists them all"
            wrong.append(f"{found.place} is not a setting; {nearest}")
    try:
        settings = Settings(**{name: one.value for name, one in given.items()}, folder=folder)
    except ValidationError as problem:
        wrong += _reasons(problem, given)
    if wrong:
        raise SettingsError("\n".join(wrong))
    absolute = {name: folder / path for name in _PATHS if (path := getattr(settings, name)) is not None}
    if "hash_key_file" not in given:
        absolute["hash_key_file"] = absolute["state"] / "hash.key"
    return settings.model_copy(update=absolute)


class _Given(NamedTuple):
    """One value that a source states, and the words for its place."""

    name: str
    value: Any
    place: str


def _in_file(path: Path) -> list[_Given]:
    """What the settings file states; no file, or one of comments alone, states nothing."""
    diagnostics = Diagnostics()
    if not path.exists():
        return []
    node = load_yaml(path, diagnostics, FILE)
    if all(line.lstrip()[:1] in ("", "#") for line in diagnostics.sources.get(FILE, "x").splitlines()):
        return []
    if node is not None and not isinstance(node, Table):
        diagnostics.error("E113", "settings are lines of `name: value`, such as `port: 50051`", node.position())
    entries = node.entries if isinstance(node, Table) else ()
    for _, value in entries:
        if not isinstance(value, Scalar):
            diagnostics.error("E113", "a setting is a single value", value.position(), value.length)
    if diagnostics.failed:
        raise SettingsError(f"{path} can't be used:\n{diagnostics.render()}")
    return [_Given(n.value, v.value, f"{n.position()}: {n.value}") for n, v in entries if isinstance(v, Scalar)]


def _reasons(problem: ValidationError, given: Mapping[str, _Given]) -> Iterator[str]:
    for error in problem.errors(include_url=False):
        name = str(error["loc"][0]) if error["loc"] else ""
        reason = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        # A webhook's address may carry a token, so it is never shown.
        shown = f" is {error['input']!r}" if name and not name.startswith("webhook") else ""
        yield f"{given[name].place}{shown}: must be {reason}" if name else reason


def read_secret(path: Path) -> bytes:
    """The content of a secret file without its last line end; SettingsError when others may read it or it is empty."""
    try:
        mode = path.stat().st_mode & 0o777
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as problem:
        raise SettingsError(f"the secret file {path} can't be read: {problem.strerror}") from problem
    if mode & 0o077:
        raise SettingsError(f"the secret file {path} can be read by others (mode {mode:o}); run: chmod 600 {path}")
    if not secret:
        raise SettingsError(f"the secret file {path} is empty")
    return secret


def hash_key(path: Path) -> bytes:
    """The 32-byte key of profile keys, made with mode 0600 where there is none; if lost, no profile is found again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # Unlike a rename it never replaces the key that another process made meanwhile.
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    try:
        key = bytes.fromhex(read_secret(path).decode())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingsError(f"{path} does not hold 64 hexadecimal digits; restore it from a backup")
    return key


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settings_table() -> str:
    """The table of `docs/operations.md`: name, default, meaning, generated from the fields above."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name in _NAMES:
        field = Settings.model_fields[name]
        default = "" if field.default in (None, "", Path()) else f"`{str(field.default).lower()}`"
        lines.append(f"| `{name}` | {default} | {field.description}{_choices(field.annotation)} |")
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> str:
    choices = [c for c in get_args(annotation) if isinstance(c, str)]
    return f" ({', '.join(choices)})" if choices else ""


if __name__ == "__main__":
    print(settings_table(), end="")  # noqa: T201  the command that renews the table
