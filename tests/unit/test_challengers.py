"""Challengers score in the shadow of the model that decides: in the record, never in the decision, shed first."""

import asyncio
import time
from dataclasses import replace

import orjson
import pytest

from engine import pipeline
from engine.bootstrap import open_activations, open_engine, open_program
from engine.errors import ModelError
from engine.pipeline import Allowance
from engine.records import decision_of
from engine.scoring import registry
from engine.snapshot import canonical, redecide
from tests.conftest import payment
from tests.small_model import make_model, make_shop

CHALLENGED = "models: {payment: small/1}\nchallengers: {payment: [small/2, small/3]}\n"


@pytest.fixture
def settings(tmp_path, settings_of):
    """A shop with one model that decides and two that challenge it."""
    folder = make_shop(tmp_path / "shop", CHALLENGED)
    for version in (2, 3):
        make_model(folder / "models", str(version), seed=version)
    return settings_of(rules=str(folder / "rules"), models=str(folder / "models"))


@pytest.fixture
async def shop(settings):
    """Its started engine."""
    runtime = open_engine(settings)
    await runtime.start(watch=False)
    yield runtime
    await runtime.close()


async def decided(runtime, number, **options):
    """A decision, and what its record keeps of challengers."""
    decision = await runtime.decide(payment(number, at_s=number, txn__amount_minor=number * 97_00), **options)
    stored = await runtime.journal.find(f"e{number}")
    return decision, orjson.loads(stored.record.public)["challengers"]


async def test_their_scores_are_in_the_record_and_nowhere_else(shop):
    """Each score is the challenger's own for the same features; the decision made again without them is the same."""
    program = shop.pipeline.live.program
    for number in range(1, 8):
        decision, scores = await decided(shop, number)
        stored = await shop.journal.find(decision.id)
        body = orjson.loads(stored.record.public)
        assert list(scores) == ["small/2", "small/3"]
        row = program.open(payment(number, at_s=number, txn__amount_minor=number * 97_00), 0).row | body["features"]
        for model in program.challengers["payment"]:
            assert scores[model.name] == model.score([row.get(name) for name in model.features])[1]
        assert canonical(redecide(stored, replace(program, challengers={}))) == canonical(decision_of(stored))
        assert decision.score not in scores.values()


async def test_a_dry_run_asks_no_challenger(shop, monkeypatch):
    """What leaves no record needs no comparison."""
    monkeypatch.setattr(type(shop.pipeline.live.program), "challenge", lambda *_: pytest.fail("asked"))
    await shop.decide(payment(1), dry_run=True)


async def test_a_slow_challenger_is_left_out_and_decisions_go_on(shop, monkeypatch):
    """After its allowance is used up it is not asked; what was left out is there as null."""
    asked = []

    def slow(program, case, model):
        asked.append(model.name)
        time.sleep(2 * pipeline.CHALLENGERS_BURST_S)
        case.challenged[model.name] = 0.5

    monkeypatch.setattr(type(shop.pipeline.live.program), "challenge", slow)
    both = [await decided(shop, number) for number in range(1, 10)]
    found = [scores for _, scores in both]
    assert found[0] == {"small/2": 0.5, "small/3": None}
    assert sum(score is not None for scores in found for score in scores.values()) == len(asked) == 1
    assert all(decision.score is not None and not decision.degraded for decision, _ in both)


async def test_a_deadline_that_is_near_leaves_challengers_out(shop):
    """What is left of the time belongs to the commit and the answer."""
    near = asyncio.get_running_loop().time() + pipeline.ANSWER_RESERVE_S / 2
    _, scores = await decided(shop, 1, deadline=near)
    assert scores == {"small/2": None, "small/3": None}


async def test_a_challenger_that_fails_harms_nobody(shop, monkeypatch):
    """Its score is null; the others' and the decision stand, and nothing is degraded."""
    broken, whole = shop.pipeline.live.program.challengers["payment"]

    def fail(_):
        raise ModelError("broken")

    monkeypatch.setattr(broken.model, "margin", fail)
    decision, scores = await decided(shop, 1)
    assert (scores[broken.name], decision.degraded) == (None, ())
    assert scores[whole.name] is not None


def test_an_allowance_is_a_share_of_the_time_that_passes():
    """Saved up to the burst, spent by what is used, and earned again."""
    allowance = Allowance(0.1, 1.0)
    assert allowance.left(1_000.0)
    allowance.spend(1.5)
    assert not allowance.left(1_000.0)
    assert not allowance.left(1_004.9)
    assert allowance.left(1_005.1)
    allowance.spend(0.02)
    assert not allowance.left(1_005.1)


@pytest.mark.parametrize(("names", "said"), [
    ("[small/2, small/3, small/4, small/5]", "at most 3 challengers"),
    ("[small/1]", "`small/1` is the model that decides"),
    ("[small/2, small/2]", "named once"),
])  # fmt: skip
def test_impossible_challengers_are_refused_at_their_place(settings, names, said):
    """Too many, the model itself, and one twice: each with its place in policy.yaml."""
    policy = settings.rules / "policy.yaml"
    policy.write_text(policy.read_text().replace("[small/2, small/3]", names))
    with pytest.raises(Exception, match=rf"policy\.yaml:\d+:24: error\[E531\]: .*{said}"):
        open_program(settings)


def test_a_challenger_that_is_not_there_or_retired_is_refused(settings):
    """A policy that names it can't go live; the words say what to do."""
    registry.retire(settings.models / "small" / "3", "2026-11-25 by ana: too many false alarms")
    with pytest.raises(
        ModelError, match=r"small/3 was retired: 2026-11-25 by ana: too many false alarms\. Name another"
    ):
        open_program(settings)
    registry.retire(settings.models / "small" / "3", "again")
    assert registry.retired(settings.models / "small" / "3").endswith("too many false alarms")
    policy = settings.rules / "policy.yaml"
    policy.write_text(policy.read_text().replace("small/3", "small/9"))
    with pytest.raises(ModelError, match=r"small/9/manifest\.yaml: No such file"):
        open_program(settings)


async def test_what_was_live_with_a_retired_model_can_be_had_again(shop, settings):
    """A draft that names it is refused; decisions of then are still explained and made again with it."""
    activations = open_activations(settings, shop.journal)
    _, bundle = activations.draft()
    registry.retire(settings.models / "small" / "1", "2026-11-25 by ana: old")
    with pytest.raises(ModelError, match="small/1 was retired"):
        activations.draft()
    assert activations.of(bundle).digest == bundle.digest


def test_a_model_in_the_folder_of_another_is_refused(settings):
    """A copied or renamed folder would let records name a model that is not there."""
    (settings.models / "small" / "3").rename(settings.models / "small" / "4")
    policy = settings.rules / "policy.yaml"
    policy.write_text(policy.read_text().replace("small/3", "small/4"))
    with pytest.raises(ModelError, match="small/4 holds the model small/3"):
        open_program(settings)
