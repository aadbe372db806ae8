"""A log that holds more rows than count is cut the same way, whether it is in order or not."""

import random

from engine.eventlog import LogLayout, LogView
from engine.values import EntityEvent

LAYOUT = LogLayout("user", ("payment||",), ("sum:txn.amount_base",), keep=10)


def test_the_newest_rows_by_time_and_id_count():
    """Logs in order, with equal times at the cut and with late rows, are all what a sort of their rows gives."""
    for seed in range(3_000):
        rnd, now = random.Random(seed), 1_000
        entries = []
        for _ in range(rnd.randrange(25)):
            now += rnd.choice([0, 1, 2, -3] if seed % 3 == 0 else [0, 1, 2])
            entries.append(EntityEvent("user", b"", rnd.randrange(1, 9**9), now, 0, b"\1", (now,)))
        numbered = list(enumerate(entries, 1))
        view = LogView(LAYOUT, b"".join(LAYOUT.encode(entry, number) for number, entry in numbered), dropped_us=3)
        by_age = sorted(numbered, key=lambda n: (n[1].time_us, n[1].id))
        kept = sorted(by_age[-LAYOUT.keep :], key=lambda n: (n[1].time_us, n[0]))
        assert view.column(1) == [entry.id for _, entry in kept]
        assert view.value(0) == view.times == [entry.time_us for _, entry in kept]
        assert view.cut_us == max([3] + [entry.time_us for _, entry in by_age[: -LAYOUT.keep]])
