"""`python -m benchmarks` lists the benchmarks: the modules here that have a `main`."""

from pathlib import Path

for path in sorted(Path(__file__).parent.glob("*.py")):
    if '__name__ == "__main__"' in path.read_text() and path.stem not in {"__main__", "echo", "load"}:
        print(path.stem)
