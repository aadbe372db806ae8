"""The `arbiter` command line: one module for each command, loaded when it is called."""

from engine.cli.app import main

__all__ = ["main"]
