"""`arbiter models` on a small shop: three versions, one that decides, one that challenges, two hundred decisions."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import orjson
import pytest

from engine.bootstrap import open_engine, open_programs, open_stores
from engine.errors import PolicyError
from engine.explaining import Explainers, Follower
from engine.promotion import policy_text, promoted, write_policy
from engine.scoring.manifest import Booster
from engine.settings import Settings, read_settings
from tests.conftest import payment
from tests.small_model import make_model, make_shop

from .conftest import golden

NAMED = "models: {payment: small/1}   # since the spring\nchallengers: {payment: [small/2]}\n"


def _settings(folder: Path) -> Settings:
    return read_settings(folder, {"clock": "event", "gather_ms": 0}, {})


async def _decide(folder: Path) -> None:
    engine = open_engine(_settings(folder))
    await engine.start()
    for number in range(200):
        some = {"txn__amount_minor": number * 37 % 900 * 100 + 990, "user__id": f"u{number % 7}"}
        await engine.decide(payment(number, at_s=number * 60, card__token=f"t{number % 5}", **some))
    await engine.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop, made once."""
    folder = make_shop(tmp_path_factory.mktemp("models") / "shop", NAMED)
    make_model(folder / "models", "2", seed=5)
    make_model(folder / "models", "3", seed=7, booster=Booster(rounds=2, max_depth=2))
    asyncio.run(_decide(folder))
    return folder


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(made, tmp_path / "shop"))


def shown(name: str, text: str, folder: Path) -> None:
    """The golden text, whatever the folder and the model's digest."""
    golden(name, re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text).replace(str(folder), "SHOP"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models_list", ["list"]),
        ("models_show", ["show", "small/1"]),
        ("models_compare", ["compare", "small/1", "small/3"]),
        ("models_explain", ["explain", "e5"]),
        ("models_promote", ["promote", "small/2"]),
    ],
)
def test_what_is_shown(call, shop, name, words):
    """Each command in its usual case."""
    done = call("models", *words, "--folder", shop)
    assert done.exit_code == 0, done.output
    shown(name, done.stdout, shop)


def test_a_promotion_changes_one_name_and_takes_places(call, shop):
    """Comments and lines stay; a challenger and the model before it change places; going back gives the file again."""
    policy = shop / "rules" / "policy.yaml"
    before = policy.read_text()
    assert call("models", "promote", "small/2", "--folder", shop).exit_code == 0
    wanted = NAMED.replace("small/1", "small/x").replace("small/2", "small/1").replace("small/x", "small/2")
    assert policy.read_text() == before.replace(NAMED, wanted)
    assert "decides payment" in call("models", "list", "--folder", shop).stdout
    assert call("models", "promote", "small/1", "--folder", shop).exit_code == 0
    assert policy.read_text() == before


def test_a_large_change_is_asked_about(call, shop):
    """Above the limit nothing is written without a yes; `--yes` and a higher limit don't ask."""
    policy = shop / "rules" / "policy.yaml"
    before = policy.read_text()
    for answer in (b"", b"n\n"):
        done = call("models", "promote", "small/3", "--folder", shop, stdin=answer)
        assert done.exit_code == 1
        assert "would change, more than 5.0%; go on?" in done.stderr
        assert "nothing was changed" in done.stderr
        assert policy.read_text() == before
    assert call("models", "promote", "small/3", "--folder", shop, stdin=b"y\n").exit_code == 0
    assert policy.read_text() == before.replace("payment: small/1", "payment: small/3")
    policy.write_text(before)
    for words in (["--yes"], ["--limit", "90%"]):
        assert call("models", "promote", "small/3", *words, "--folder", shop).exit_code == 0
        policy.write_text(before)


def test_a_first_model_adds_a_line(call, shop):
    """A policy without `models:` gets that line at its end; then nothing recent had a score."""
    policy = shop / "rules" / "policy.yaml"
    policy.write_text(policy.read_text().replace(NAMED, ""))
    before = policy.read_text()
    done = call("models", "promote", "small/1", "--yes", "--folder", shop)
    assert done.exit_code == 0, done.output
    assert policy.read_text() == before.rstrip() + "\n\nmodels: {payment: small/1}\n"
    assert re.search(r"no score +200 +0 +200 +0", done.stdout)


def test_a_retired_model_stays_and_can_not_decide(call, shop):
    """It says when, by whom and why, is shown, is refused by promotion, and comes back by hand."""
    done = call("models", "retire", "small/3", "--reason", "too  coarse", "--author", "ana", "--folder", shop)
    assert done.exit_code == 0, done.output
    listed = call("models", "list", "--folder", shop).stdout
    assert re.search(r"small/3 +retired +2 .*\nsmall/3 was retired: 20.* by ana: too coarse\n", listed, re.DOTALL)
    done = call("models", "promote", "small/3", "--yes", "--folder", shop)
    assert done.exit_code == 3
    assert "small/3 was retired: 20" in done.stderr
    again = call("models", "retire", "small/3", "--reason", "x", "--folder", shop)
    assert (again.exit_code, "is retired already" in again.stderr) == (2, True)
    (shop / "models" / "small" / "3" / "retired").unlink()
    assert call("models", "promote", "small/3", "--yes", "--folder", shop).exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["show", "small/9"], 3, "there is no model 'small/9' in SHOP/models; there are: small/1, small/2, small/3"),
        (["show", "../../etc"], 3, "there is no model '../../etc'"),
        (["promote", "small/1"], 2, "small/1 decides already"),
        (["retire", "small/1", "--reason", "x"], 2, "small/1 decides payment: take it out of SHOP/rules/policy.yaml"),
        (["retire", "small/2", "--reason", "x"], 2, "small/2 challenges for payment: take it out"),
        (["explain", "nobody"], 3, "no decision with id 'nobody'"),
    ],
)
def test_what_stands_against_it(call, shop, words, code, told):
    """Unknown names and what the policy uses are refused in words that name the way out."""
    done = call("models", *words, "--folder", shop)
    assert done.exit_code == code, done.output
    assert told in " ".join(done.stderr.replace(str(shop), "SHOP").split())


def test_a_model_that_is_live_is_not_retired(call, shop):
    """Also when the folder's policy, a draft, names another one by now."""
    policy = shop / "rules" / "policy.yaml"
    policy.write_text(policy.read_text().replace(NAMED, "models: {payment: small/2}\n"))
    done = call("models", "retire", "small/1", "--reason", "x", "--folder", shop)
    assert (done.exit_code, "small/1 decides in the policy that is live" in done.stderr) == (2, True)
    assert not (shop / "models" / "small" / "1" / "retired").exists()


def test_a_broken_version_is_listed_and_never_promoted(call, shop):
    """A corrupt file is named in the list or at promotion, and the policy stays as it is."""
    (shop / "models" / "small" / "2" / "manifest.yaml").write_text("name: [")
    onnx = shop / "models" / "small" / "3" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-9])
    before = (shop / "rules" / "policy.yaml").read_text()
    assert "small/2 can't be read: manifest.yaml:1:" in call("models", "list", "--folder", shop).stdout
    done = call("models", "promote", "small/3", "--folder", shop)
    assert (done.exit_code, "model.onnx: sha256 is" in " ".join(done.stderr.split())) == (3, True)
    assert (shop / "rules" / "policy.yaml").read_text() == before


def test_an_explanation_is_the_journaled_one_or_is_made(call, shop):
    """Decisions that were allowed are explained on demand with the same numbers as the background would."""
    before = {n: call("models", "explain", f"e{n}", "--json", "--folder", shop).stdout for n in range(8)}
    settings = _settings(shop)
    _, journal = open_stores(settings)
    journal.open()
    follower = Follower(journal, Explainers(settings.models), open_programs(settings, journal))
    assert asyncio.run(follower.follow()) > 100
    asyncio.run(journal.close())
    for number, text in before.items():
        found = orjson.loads(text)
        total = found["bias"] + sum(part["log_odds"] for part in found["contributions"])
        assert total == pytest.approx(found["margin"], abs=1e-9)
        assert call("models", "explain", f"e{number}", "--json", "--folder", shop).stdout == text


@pytest.mark.parametrize(("before", "after"), [
    ("models: {payment: a/1}", "models: {payment: a/2}"),
    ("models:\n  login: x/1   # other\n  payment: 'a/1' # why\n",
     "models:\n  login: x/1   # other\n  payment: a/2 # why\n"),
    ("# ü\r\nmodels: {payment: \"a/1\"}\r\nhold: 1d\r\n", "# ü\r\nmodels: {payment: a/2}\r\nhold: 1d\r\n"),
    ("challengers: {payment: [a/2, a/3]}\nmodels: {payment: a/1}\n",
     "challengers: {payment: [a/1, a/3]}\nmodels: {payment: a/2}\n"),
    ("name: x", "name: x\n\nmodels: {payment: a/2}\n"),
])  # fmt: skip
def test_only_the_name_is_edited(before, after):
    """Quotes, comments, order and line ends around it stay."""
    assert promoted(before, "payment", "a/2") == after


def test_a_place_that_is_not_there_is_told():
    """A mapping without the kind is the writer's to extend: the place and the words are given."""
    with pytest.raises(PolicyError, match=r"policy\.yaml:2:9: .* write there `payment: a/2`"):
        promoted("name: x\nmodels: {login: b/1}\n", "payment", "a/2")


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path):
    """Whoever saved first wins; nothing is left behind, also when the disk refuses."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("a: 1\n")
    seen = policy_text(tmp_path)
    policy.write_text("a: 2\n")
    with pytest.raises(PolicyError, match="was changed meanwhile"):
        write_policy(tmp_path, "a: 3\n", seen)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]
    assert policy.read_text() == "a: 2\n"
