"""Which program is live: what goes live is kept as a bundle first, and the journal says from when on.

With `activation: on_save` a saved folder goes live by itself; with `explicit` it is a draft until somebody activates
it. Either way every worker follows the newest activation, so `rollback` and `activate` reach all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from engine.errors import ModelError, NotFound, PolicyError
from engine.journal.journal import Programs
from engine.policy.bundle import digest_of, laid_out, read_files
from engine.program import Program
from engine.values import Activation, Bundle, Worker

LIVE_US = 10_000_000
"""A worker that has not signed in for so long is gone; a busy one may be late, and must not be overlooked."""
ON_SAVE = "on_save"
Load = Callable[[Path], Program]
"""Makes a program of a policy's folder."""


def now_us() -> int:
    """The time of this machine, µs."""
    return time.time_ns() // 1000


def awaits(live: Activation) -> str:
    """What a worker says for as long as the stored logs lack columns of the program that was activated."""
    return f"{live.digest[:12]} goes live as soon as the keeper has derived its log columns from the journal"


Test = Callable[[Path, Callable[[], bool]], str]
"""What the tests of a policy's folder say, in words; PolicyError when that is not what is asked for. "" where nothing
is asked for, or where nobody wants to know any more when its turn has come."""
NAMED = 10
"""So many tests that fail are named."""


def verdict(report: Mapping[str, Any], needs: str) -> str:
    """What the report of tests (`arbiter rules test --json`) says, in words; PolicyError when it needs to say more."""
    failed, uncovered = report["failed"], report["uncovered"]
    if failed:
        lines = [f"{len(failed)} of {report['cases']} tests fail; `arbiter rules test` shows why"]
        lines += [f"  {one['place']}: {one['name']}" for one in failed[:NAMED]]
        raise PolicyError("\n".join([*lines, *(["  …"] if failed[NAMED:] else [])]))
    if uncovered and needs == "coverage":
        raise PolicyError(
            f"no test hits and misses {', '.join(uncovered)}; add such tests, or set activation_needs: tests"
        )
    return f"{report['cases']} passed" if report["cases"] else ""


class Activations:
    """The way from a folder or a bundle to a live program, over what the journal knows of programs."""

    def __init__(self, store: Programs, load: Load, rules: Path, test: Test = lambda folder, wanted: "") -> None:
        self.store, self.load, self._rules, self._test = store, load, rules, test
        self._log = structlog.get_logger()

    def draft(self, folder: Path | None = None, author: str = ON_SAVE, reason: str = "saved") -> tuple[Program, Bundle]:
        """The program that a folder holds now, with its bundle; `PolicyError` when it changed while it was read."""
        folder = folder or self._rules
        try:
            files = read_files(folder)
            program, policy = self.load(folder), digest_of(files)
            changed = digest_of(read_files(folder)) != policy
        except OSError as problem:  # a file that somebody deletes just now, above all
            raise PolicyError(f"{problem.filename or folder} can't be read: {problem.strerror}") from problem
        if changed:
            raise PolicyError(f"{folder} was changed while it was read; it is read again at the next change")
        named = program.policy.settings.models
        models = {kind: f"{named.get(kind, kind)} {model.digest}" for kind, model in program.models.items()}
        return program, Bundle(program.digest, policy, files, models, author, reason, now_us(), "")

    def tested(self, bundle: Bundle) -> Bundle:
        """The folder's bundle with what its tests say, if it is not live yet; PolicyError when it must not go live."""

        def wanted() -> bool:
            live = self.store.newest()
            return live is None or live.digest != bundle.digest

        said = self._test(self._rules, wanted) if wanted() else ""
        if said and digest_of(read_files(self._rules)) != bundle.policy:
            raise PolicyError(f"{self._rules} was changed while its tests ran; it is read again at the next change")
        return replace(bundle, tests=said)

    def bundle(self, digest: str) -> Bundle:
        """The bundle whose digest begins so; NotFound when there is none, or more than one."""
        found = self.store.digests(digest)
        bundle = self.store.bundle(found[0]) if len(found) == 1 else None
        if bundle is None:
            words = "several bundles begin" if found else "no bundle begins"
            raise NotFound(f"{words} with {digest!r}; `arbiter policy list` shows what was live")
        return bundle

    def of(self, bundle: Bundle) -> Program:
        """The program of a bundle; `PolicyError` when it can't be had any more as it was."""
        with laid_out(bundle.files) as folder:
            program = self.load(folder)
        if program.models and program.digest != bundle.digest:
            raise PolicyError(
                f"program {bundle.digest[:12]} can't be had again: the models folder holds another model than "
                f"{', '.join(bundle.models.values()) or 'none'}"
            )
        return program

    def begin(self) -> tuple[Program, Activation]:
        """What a server starts with; `PolicyError` when the folder asks for an activation that nobody has made."""
        live = self.store.newest()
        if live is not None and (live.explicit or self._went_back(live)):
            self._tell_of_draft(live)
            return self.of(self.bundle(live.digest)), live
        loads = False
        try:
            program, bundle = self.draft(reason="the start of a server")
            loads = True
            if program.policy.settings.activation == ON_SAVE:
                bundle = self.tested(bundle)
        except (PolicyError, ModelError) as problem:
            if live is None or not (loads or self.workers()):
                raise
            # A worker takes the place of another: a broken file must not keep it from what is live.
            self._log.error("policy refused, the live one stays", live=live.digest, reason=str(problem))
            return self.of(self.bundle(live.digest)), live
        if program.policy.settings.activation == "explicit":
            raise PolicyError(
                "policy.yaml says `activation: explicit`, but this policy has not been activated; "
                "run: arbiter policy activate --reason '…'"
            )
        return self.follow(program, self.go_live(program, bundle, live.seq if live else 0))

    def fitting(self, shape: str) -> tuple[Program, Activation] | None:
        """The newest program that was live and that logs of a shape serve; None when none of the last 50 does."""
        for one in self.store.activations(50):
            with suppress(PolicyError, NotFound):
                program = self.of(self.bundle(one.digest))
                if program.features.shape == shape:
                    return program, one
        return None

    def current(self) -> Program:
        """The live program, or the folder's where nothing is live yet."""
        live = self.store.newest()
        return self.of(self.bundle(live.digest)) if live else self.draft()[0]

    def follow(self, program: Program, activation: Activation | None) -> tuple[Program, Activation]:
        """The program of the newest activation: this one, or another's that came first."""
        newest = activation or self.store.newest()
        assert newest is not None
        return (program if newest.digest == program.digest else self.of(self.bundle(newest.digest))), newest

    def go_live(self, program: Program, bundle: Bundle, after: int | None = None, origin: int = 0) -> Activation | None:
        """Keep the bundle, then activate it; None when something was activated since `after`."""
        self.store.keep(bundle)
        live = self.store.newest()
        if after is not None and live is not None and live.digest == bundle.digest:
            return live
        explicit = program.policy.settings.activation == "explicit"
        folder = digest_of(read_files(self._rules)) if self._rules.is_dir() else ""
        wanted = Activation(bundle.digest, bundle.author, bundle.reason, explicit, folder, origin)
        return self.store.activate(wanted, after)

    def before(self, live: Activation) -> Activation:
        """What a rollback goes back to: the program that was live before; of a rollback, before what that restored."""
        since = live.origin or live.seq
        for one in self.store.activations(10_000):
            if one.seq < since and one.digest != live.digest:
                return replace(one, origin=one.origin or one.seq)
        raise NotFound("nothing else was live before; there is nothing to go back to")

    def workers(self) -> list[Worker]:
        """Those that live."""
        return list(self.store.workers(now_us() - LIVE_US))

    def wait_for(self, live: Activation, wait_s: float) -> list[Worker]:
        """The workers, once all that live have an activation's program, or after so many seconds."""
        until_s = time.monotonic() + wait_s
        while any(worker.program != live.digest for worker in self.workers()) and time.monotonic() < until_s:
            time.sleep(0.05)
        return self.workers()

    def _went_back(self, live: Activation) -> bool:
        """Somebody activated another policy than the folder's, and the folder has not been saved since."""
        folder = digest_of(read_files(self._rules))
        return folder == live.folder and self.bundle(live.digest).policy != folder

    def _tell_of_draft(self, live: Activation) -> None:
        folder = digest_of(read_files(self._rules)) if self._rules.is_dir() else ""
        if folder != self.bundle(live.digest).policy:
            self._log.warning("the folder's policy is a draft", live=live.digest, folder=str(self._rules))
