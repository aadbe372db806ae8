"""The benchmark's child processes: started on a core of their own, spoken to by lines, and read from /proc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SERVE = (
    "import sys; from engine.settings import read_settings; from engine.service.supervisor import serve; "
    "serve(read_settings(sys.argv[1], {'port': 0, 'metrics_port': int(sys.argv[2])}, {}))"
)
"""The real service: supervisor, one worker, the keeper."""
_PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.executable, sys.argv[2:])"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Process:
    """A child process that writes lines, and may be asked by lines."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """Its next line; `SystemExit` when it has ended instead."""
        text = _pipe(self.process.stdout).readline()
        if not text:
            raise SystemExit(f"a process of the benchmark ended early with code {self.process.wait()}")
        return text

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Send the generator a job and wait for its figures; `SystemExit` when a single call failed."""
        pipe = _pipe(self.process.stdin)
        pipe.write(json.dumps(job) + "\n")
        pipe.flush()
        answer: dict[str, Any] = json.loads(self.line())
        if "error" in answer or answer["failed"]:
            raise SystemExit(f"round {job['run']}: {answer.get('error') or str(answer['failed']) + ' calls failed'}")
        return answer


@contextlib.contextmanager
def running(core: int, *command: str) -> Iterator[Process]:
    """A Python process, pinned to a core with all that it starts itself, for the length of a block."""
    pinned = [sys.executable, "-c", _PINNED, str(core), sys.executable, *command]
    process = subprocess.Popen(pinned, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Process(process)
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _pipe(pipe).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "started with pipes"
    return pipe


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_s(processes: Sequence[int]) -> float:
    """CPU seconds that processes have used so far: all their threads, user and system."""
    return sum(_used_s(Path(f"/proc/{process}/stat")) for process in processes)


def threads_s(processes: Sequence[int]) -> dict[str, float]:
    """The same by process and kind of thread."""
    used: dict[str, float] = {}
    for process in processes:
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        role = next((word for word in words if word in {"worker", "keeper"}), "supervisor")
        for task in Path(f"/proc/{process}/task").iterdir():
            name = f"{role}, {'main thread' if int(task.name) == process else 'other threads'}"
            used[name] = used.get(name, 0.0) + _used_s(task / "stat")
    return used


def _used_s(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def stages(port: int) -> dict[str, tuple[float, float]]:
    """Stage → (calls, seconds) so far, as the service's own metrics tell them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    found = re.findall(r'arbiter_stage_seconds_(count|sum)\{stage="(\w+)"\} (\S+)', text)
    values = {(what, stage): float(value) for what, stage, value in found}
    return {stage: (values["count", stage], values["sum", stage]) for _, stage in values}


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[int, int]:
    """The core of the servers and that of the generator; the same one where there is no other."""
    allowed = sorted(os.sched_getaffinity(os.getppid()))
    return allowed[0], allowed[-1]
