"""`arbiter version`."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click

from engine.cli.options import arbiter_command

SHOWN = ("onnxruntime", "xgboost-cpu", "durable_rules", "grpcio", "protobuf", "pandas")


@arbiter_command("version", "arbiter version")
def command() -> None:
    """Say which version this is, and those of the packages that decide with it."""
    click.echo(f"arbiter {version('arbiter')}, Python {platform.python_version()}")
    click.echo(", ".join(f"{name} {version(name)}" for name in SHOWN))
