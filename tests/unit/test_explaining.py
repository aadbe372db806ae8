"""Scores are explained in the background: every decision that is not ALLOW, once, whatever dies in between."""

from dataclasses import replace

import orjson
import pytest

from engine.bootstrap import open_engine, open_programs
from engine.errors import ModelError, NotFound
from engine.explaining import Explainers, Follower, explain, read_record
from engine.records import decision_of
from engine.values import Action
from tests.conftest import payment
from tests.small_model import make_model, make_shop


@pytest.fixture
async def shop(tmp_path, settings_of):
    """A started engine with a model, its settings, and some decisions: small payments, then large ones."""
    folder = make_shop(tmp_path / "shop")
    settings = settings_of(rules=str(folder / "rules"), models=str(folder / "models"))
    runtime = open_engine(settings)
    await runtime.start(watch=False)
    for number in range(40):
        large = number % 2 * 700_00
        await runtime.decide(payment(number, at_s=number, txn__amount_minor=990 + large, user__language="de"))
    yield runtime, settings
    await runtime.close()


def follower(runtime, settings):
    """One life of what explains."""
    return Follower(runtime.journal, Explainers(settings.models), open_programs(settings, runtime.journal))


def explanations(runtime):
    """What the journal holds of them."""
    return [stored.record for stored in runtime.journal.read(0, ("explanation",))]


def refused(runtime):
    """Decisions that must be explained."""
    decided = [decision_of(stored) for stored in runtime.journal.read(0, ("decision",))]
    return [decision for decision in decided if decision.action is not Action.ALLOW]


async def test_every_decision_that_is_not_allow_is_explained(shop):
    """Exactly these; contributions and bias sum to the margin, whose calibrated value is the stored score."""
    runtime, settings = shop
    before = [stored.record.public for stored in runtime.journal.read(0, ("decision",))]
    assert await follower(runtime, settings).follow() == len(refused(runtime)) > 10
    found = {record.id: read_record(record) for record in explanations(runtime)}
    assert list(found) == [decision.id for decision in refused(runtime)]
    model = runtime.pipeline.live.program.models["payment"]
    for decision in refused(runtime):
        one = found[decision.id]
        assert (one.model, one.score) == ("small/1", decision.score)
        assert abs(one.bias + sum(part.log_odds for part in one.contributions) - one.margin) < 1e-6
        assert model.calibration.score(one.margin) == decision.score
    assert [stored.record.public for stored in runtime.journal.read(0, ("decision",))] == before


async def test_reasons_are_those_of_the_policy_or_the_features_own_meaning(shop):
    """A feature that a reason names speaks by its code, another one by its name; the largest first."""
    runtime, settings = shop
    await follower(runtime, settings).follow()
    told = {reason for record in explanations(runtime) for reason in read_record(record).reasons}
    by_code = {reason.code: reason for reason in told}
    assert by_code["P1"].analyst == "the person pays often"
    assert (by_code["P1"].category, by_code["P1"].source) == ("score", "model:small/1")
    assert by_code["card.payments_1h"].analyst == "payments on this card in an hour"
    assert by_code["txn.amount_base"].category == "model"
    assert not {"device.id", "R1"} & set(by_code)


async def test_nothing_is_lost_or_done_twice(shop):
    """A life that ends after any commit is followed by one that goes on where it was."""
    runtime, settings = shop
    first = follower(runtime, settings)
    wanted = await first.follow()
    assert await first.follow() == 0
    assert await follower(runtime, settings).follow() == 0
    await runtime.decide(payment(99, at_s=99, txn__amount_minor=700_00))
    assert await follower(runtime, settings).follow() == 1
    assert len(explanations(runtime)) == wanted + 1 == len(refused(runtime))


async def test_a_commit_that_fails_is_done_again(shop, monkeypatch):
    """Explanations and how far they have come are one commit: when it fails, neither is there."""
    runtime, settings = shop
    dying = follower(runtime, settings)

    def full(*_):
        raise OSError("gone")

    monkeypatch.setattr(runtime.journal, "load", full)
    with pytest.raises(OSError, match="gone"):
        await dying.follow()
    monkeypatch.undo()
    assert explanations(runtime) == []
    assert await follower(runtime, settings).follow() == len(refused(runtime))


async def test_a_new_policy_and_model_on_the_way(shop):
    """A decision is explained by the model that scored it, though the policy names another one by now."""
    runtime, settings = shop
    make_model(settings.models, "2", seed=9)
    policy = settings.rules / "policy.yaml"
    policy.write_text(policy.read_text().replace("small/1", "small/2"))
    assert await runtime.reload()
    await runtime.decide(payment(99, at_s=99, txn__amount_minor=700_00))
    assert await follower(runtime, settings).follow() == len(refused(runtime))
    models = [read_record(record).model for record in explanations(runtime)]
    assert models == ["small/1"] * (len(models) - 1) + ["small/2"]


async def test_what_can_not_be_explained_is_told_and_stops_nothing(shop):
    """A model whose folder is gone leaves a decision without an explanation; the next one has its own."""
    runtime, settings = shop
    program = runtime.pipeline.live.program
    first, *_ = runtime.journal.read(0, ("decision",))
    gone = Explainers(settings.models / "elsewhere")
    with pytest.raises(ModelError, match=r"manifest\.yaml"):
        explain(first, program, gone)
    assert await Follower(runtime.journal, gone, open_programs(settings, runtime.journal)).follow() == 0
    for score, error, said in ((0.5, ModelError, r"was decided with 0\.5"), (None, NotFound, "without a score")):
        body = orjson.loads(first.record.public)
        body["decision"]["score"] = score
        changed = replace(first, record=replace(first.record, public=orjson.dumps(body)))
        with pytest.raises(error, match=said):
            explain(changed, program, Explainers(settings.models))


async def test_the_journal_finds_an_explanation_by_its_decision(shop):
    """By id, and none for a decision that was allowed."""
    runtime, settings = shop
    await follower(runtime, settings).follow()
    one = refused(runtime)[0]
    assert read_record(runtime.journal.explanation_of(one.id).record).score == one.score
    assert runtime.journal.explanation_of("e0") is None
