"""A disk that can lose its power: `fsync_shim.c`, compiled here, and what it leaves behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SHIM = Path(__file__).with_name("fsync_shim.c")


class Disk:
    """What of a watched folder would be there after a power cut, and a hand on the journal's fsync."""

    def __init__(self, folder: Path, watched: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("a power cut can't be shown without a C compiler: sudo apt-get install -y build-essential")
        self.folder = folder / "disk"
        self.folder.mkdir()
        self._library = folder / "fsync_shim.so"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SHIM), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self.env = {
            "LD_PRELOAD": str(self._library), "POWER_WATCH": str(watched), "POWER_DISK": str(self.folder),
        }  # fmt: skip

    def hold(self) -> None:
        """No fsync of the journal's log begins any more."""
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").touch()

    def held(self) -> bool:
        """Whether a commit waits for its fsync."""
        return (self.folder / "held").exists()

    def release(self) -> None:
        """Let them go on."""
        (self.folder / "hold").unlink(missing_ok=True)

    def fail(self, failing: bool) -> None:
        """Whether an fsync of the journal's log fails."""
        (self.folder / "fail").touch() if failing else (self.folder / "fail").unlink(missing_ok=True)

    def copy(self, to: Path) -> None:
        """Take the disk out as it is now; nobody may write to it meanwhile."""
        to.mkdir()
        for path in self.folder.iterdir():
            if path.name == "names" or path.name.isdigit():
                shutil.copy(path, to)


def plug_in(disk: Path, state: Path) -> None:
    """A state folder with the files of a disk: a name that was synced without its file's bytes is an empty file."""
    state.mkdir()
    for line in (disk / "names").read_text().splitlines():
        inode, _, name = line.partition(" ")
        if name.endswith((".lock", "-shm")):  # Written without fsync by design; made anew at a start.
            continue
        if (disk / inode).exists():
            shutil.copy(disk / inode, state / name)
        else:
            (state / name).touch()
        (state / name).chmod(0o600)
