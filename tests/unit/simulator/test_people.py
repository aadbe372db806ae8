"""Fraudsters leave their tell-tales; honest people are odd too; neither can be told by one sign."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from statistics import mean, median

import pytest

from engine.simulator import ABUSE_SCHEMES, FRAUD_SCHEMES, HELD_OUT_SCHEME


def seconds(event) -> float:
    """When it happened, seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()


def cards(payments) -> set[str]:
    """Distinct cards."""
    return {p["card"]["token"] for p in payments if "card" in p}


def streets(payments) -> set[str]:
    """Distinct shipping addresses."""
    return {p["address"]["street"] + p["address"]["postcode"] for p in payments}


def foreign(payment) -> bool:
    """Whether network, card and parcel are of more than one country."""
    countries = {payment["ip"]["country"], payment["address"]["country"]}
    return len(countries | {payment.get("card", payment["ip"])["country"]}) > 1


def shipped_away(payment) -> bool:
    """Whether it goes to another place than the bill."""
    return payment["address"]["postcode"] != payment["billing"]["postcode"]


@pytest.mark.parametrize("scheme", [*FRAUD_SCHEMES, *ABUSE_SCHEMES, HELD_OUT_SCHEME])
def test_every_scheme_is_there(shop, scheme):
    """Each scheme makes payments under its own name and label."""
    labels = [t for t in shop.truth.values() if t["scheme"] == scheme]
    assert len(labels) >= 10
    assert {t["label"] for t in labels} == {"abuse" if scheme in ABUSE_SCHEMES else "fraud"}
    assert all(t["is_fraud"] != t["is_abuse"] for t in labels)


def test_card_testing_tries_many_cards_for_little_money(shop):
    """A campaign uses a new card each time, mostly small sums, and most are declined."""
    statuses = {d["payment"]["id"]: d["result"]["status"] for d in shop.events if d["kind"] == "payment_result"}
    campaigns = shop.campaigns("card_testing")
    for payments in campaigns:
        assert len(cards(payments)) >= 0.75 * len(payments)
    everything = [p for payments in campaigns for p in payments]
    assert median(p["txn"]["amount_minor"] for p in everything) < 2_000
    assert mean(statuses[p["payment"]["id"]] == "declined" for p in everything) > 0.5
    assert any(Counter(p["device"]["id"] for p in payments).most_common(1)[0][1] >= 6 for payments in campaigns)


def test_takeover_follows_failed_logins_and_changes_on_a_new_device(shop):
    """Most takeovers come from a device new to the user; many after failed logins or a change of contacts."""
    seen, alarms = defaultdict(set), defaultdict(list)
    fresh, warned = [], []
    for event in shop.events:
        user = event.get("user", {}).get("id")
        label = shop.truth.get(event["id"])
        if event["kind"] in ("login_failed", "password_change", "contact_changed"):
            alarms[user].append(seconds(event))
        if label and label["scheme"] == "account_takeover":
            fresh.append(event["device"]["id"] not in seen[user])
            warned.append(any(seconds(event) - t < 86_400 for t in alarms[user]))
        elif event["kind"] == "payment" and user:
            seen[user].add(event["device"]["id"])
    assert mean(fresh) > 0.7
    assert 0.25 < mean(warned) < 0.95


def test_new_account_abuse_buys_dear_things_within_days(shop):
    """The accounts are young, throw-away mail is many times as frequent as elsewhere, and baskets are large."""
    fraud = [p for payments in shop.campaigns("new_account_abuse") for p in payments]
    honest = [p for p in shop.payments if shop.truth[p["id"]]["label"] == "good"]
    ages = [seconds(p) - datetime.fromisoformat(p["user"]["account_created"]).timestamp() for p in fraud]
    assert median(ages) < 3 * 86_400
    assert mean(p["email"]["disposable"] for p in fraud) > 3 * mean(p["email"]["disposable"] for p in honest)
    assert median(p["txn"]["amount_minor"] for p in fraud) > 1.4 * median(p["txn"]["amount_minor"] for p in honest)


def test_stolen_cards_pay_once_and_from_elsewhere(shop):
    """One payment a campaign, on a card never seen before; network, card and parcel disagree far more often."""
    payments = shop.campaigns("stolen_card")
    honest = [p for p in shop.payments if shop.truth[p["id"]]["label"] == "good"]
    assert all(len(campaign) == 1 for campaign in payments)
    assert mean(foreign(p) for (p,) in payments) > 2.5 * mean(map(foreign, honest))


def test_a_spree_is_one_card_in_many_hands(shop):
    """One card within days, through several accounts at several sellers."""
    campaigns = [c for c in shop.campaigns("velocity_spree") if len(c) >= 4]
    assert campaigns
    for payments in campaigns:
        assert len(cards(payments)) == 1
        assert seconds(payments[-1]) - seconds(payments[0]) < 2 * 86_400
    assert mean(len({p.get("user", p["email"]).get("id", "guest") for p in c}) for c in campaigns) > 2
    assert mean(len({p["merchant"]["id"] for p in c}) for c in campaigns) > 2


def test_refund_abusers_want_most_of_it_back(shop):
    """Most payments of a campaign end in a request for the money, few with the goods sent back."""
    asked = {d["payment"]["id"] for d in shop.events if d["kind"] == "refund_requested"}
    returned = {d["payment"]["id"] for d in shop.events if d["kind"] == "return"}
    ids = [p["payment"]["id"] for c in shop.campaigns("refund_abuse") for p in c]
    honest = [t["payment_id"] for t in shop.truth.values() if t["label"] == "good"]
    assert mean(i in asked for i in ids) > 0.5
    assert mean(i in returned for i in ids) < 0.2
    assert mean(i in asked for i in honest) < 0.2


def test_coupon_abuse_is_many_accounts_at_one_address(shop):
    """Every account of a campaign redeems the welcome coupon for the same address."""
    campaigns = [c for c in shop.campaigns("coupon_abuse") if len(c) >= 3]
    assert campaigns
    for payments in campaigns:
        assert len(streets(payments)) == 1
        assert {p["coupon"]["code"] for p in payments} == {"WELCOME10"}
        assert len({p["user"]["id"] for p in payments}) == len(payments)


def test_resellers_buy_one_article_in_bulk(shop):
    """All payments of a campaign are for the same item, several pieces each."""
    for payments in shop.campaigns("reseller"):
        assert len({tuple(p["basket"]["items"]) for p in payments}) == 1
        assert min(p["basket"]["quantities"][0] for p in payments) >= 3


def test_triangulation_never_repeats_card_or_address(shop):
    """One account on one device, another card and another stranger's address each time."""
    for payments in shop.campaigns(HELD_OUT_SCHEME):
        assert len({p["user"]["id"] for p in payments}) == len({p["device"]["id"] for p in payments}) == 1
        assert len(cards(payments)) == len(streets(payments)) == len(payments)
    assert not any(shipped_away(p) for c in shop.campaigns(HELD_OUT_SCHEME) for p in c)


@pytest.mark.parametrize("oddity", [
    "family_card", "family_device", "office", "traveller", "gift", "night_owl", "big_spender", "vpn", "stranger",
    "card_from_abroad", "returns_much", "guest", "young_account", "new_phone", "flash_sale", "second_try",
    "unrecognised_device", "private_browser", "small_business", "bought_again", "bulk_for_a_club",
])  # fmt: skip
def test_every_honest_oddity_is_there(shop, oddity):
    """Each oddity occurs, and only honest payments are marked with it."""
    marked = shop.odd(oddity)
    assert len(marked) >= 5
    assert all(shop.truth[p["id"]]["label"] == "good" for p in marked)


def test_families_share_cards_and_offices_share_networks(shop):
    """A family's card pays for more than one user, and an office's address carries many."""
    holders, office = defaultdict(set), defaultdict(set)
    for payment in shop.odd("family_card"):
        if "card" in payment and "user" in payment:
            holders[payment["card"]["token"]].add(payment["user"]["id"])
    for payment in shop.odd("office"):
        office[payment["ip"]["address"]].add(payment["device"]["id"])
    assert sum(len(users) > 1 for users in holders.values()) >= 10
    assert max(map(len, office.values())) >= 5


def test_travellers_gifts_and_new_phones_look_like_fraud(shop):
    """Travellers come from abroad, gifts go elsewhere, a new phone pays right after a password change."""
    assert mean(p["ip"]["country"] != p["event"]["market"] for p in shop.odd("traveller")) > 0.6
    assert mean(map(shipped_away, shop.odd("gift"))) > 0.9
    changed = {d["device"]["id"] for d in shop.events if d["kind"] == "password_change"}
    assert all(
        p["device"]["id"] in changed
        for p in shop.odd("new_phone")
        if "bought_again" not in shop.truth[p["id"]]["oddities"]
    )


def test_a_flash_sale_is_a_burst_on_one_article(shop):
    """Buyers of a sale come for the same article within a few hours."""
    sales = Counter((p["time"][:10], p["basket"]["items"][0]) for p in shop.odd("flash_sale"))
    assert sales.most_common(1)[0][1] >= 5


@pytest.mark.parametrize(("sign", "least"), [
    (lambda p: p["ip"].get("proxy", False), 0.3),
    (foreign, 0.4),
    (shipped_away, 0.7),
    (lambda p: p["email"]["disposable"], 0.3),
    (lambda p: "user" not in p, 0.7),
    (lambda p: p["txn"]["amount_minor"] > 30_000, 0.4),
], ids=["proxy", "foreign", "shipped away", "throw-away mail", "guest", "dear"])  # fmt: skip
def test_no_sign_is_proof(shop, sign, least):
    """At a usual share of fraud, many payments with any one sign are honest, and some fraud lacks it."""
    fraud = [p for p in shop.payments if shop.truth[p["id"]]["is_fraud"]]
    honest = [p for p in shop.payments if shop.truth[p["id"]]["label"] == "good"]
    # this shop has seven times the usual fraud, so its weight is brought down to the usual
    with_sign = sum(map(sign, fraud)) / 7
    assert sum(map(sign, honest)) / (sum(map(sign, honest)) + with_sign) > least
    assert mean(map(sign, fraud)) < 0.85


def test_people_buy_to_their_taste(shop):
    """What people buy appeals to them more than what others buy: the true tastes can be measured later."""
    bought = [(p["user"]["id"], p["basket"]["items"][0]) for p in shop.payments if "user" in p]
    own = mean(shop.simulation.appeal(user, item) for user, item in bought)
    other = mean(shop.simulation.appeal(a[0], b[1]) for a, b in pairwise(bought))
    assert own > 1.8 * other
    assert all(0 <= shop.simulation.appeal(user, item) <= 1 for user, item in bought[:500])
    with pytest.raises(KeyError):
        shop.simulation.appeal("u-0000001", "i-nothing")


def test_hours_follow_habit(shop):
    """Most people pay in the evening of their own zone; night owls at night."""

    def local_hour(payment) -> int:
        from zoneinfo import ZoneInfo

        return datetime.fromisoformat(payment["time"]).astimezone(ZoneInfo(payment["event"]["zone"])).hour

    plain = [p for p in shop.payments if not shop.truth[p["id"]]["oddities"]]
    assert mean(12 <= local_hour(p) <= 23 for p in plain) > 0.65
    owls = [p for p in shop.odd("night_owl") if "traveller" not in shop.truth[p["id"]]["oddities"]]
    assert mean(local_hour(p) <= 5 or local_hour(p) >= 23 for p in owls) > 0.7
