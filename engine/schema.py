"""What an event may carry: the kinds, the fields with their types, and the entities that profiles are kept about.

One table. Protos, rules, features, mappings and the simulator all use these dotted names, so a field has one name
from the wire to the rule. `PERSONAL` fields are kept apart in the journal so that they can be erased.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS: tuple[str, ...] = (
    "account_created", "login", "login_failed", "password_change", "contact_changed", "card_added",
    "view", "click", "search", "add_to_cart", "coupon_redeemed", "payment", "payment_result",
    "challenge_result", "captured", "order_cancelled", "shipped", "delivered", "refund_requested",
    "refund", "return", "review", "complaint", "share", "reported",
)  # fmt: skip
"""Event kinds in the order of a payment's life (semantics, "The life of a payment")."""

OUTCOMES: tuple[str, ...] = (
    "chargeback", "fraud_warning", "confirmed_fraud", "confirmed_good", "dispute_won", "service_dispute",
    "friendly_fraud", "abuse", "issuer_decline", "refund_issued", "complaint_filed", "report_filed",
)  # fmt: skip
"""What may turn out to be true of an event, after it. Which of them mean fraud is `rules/labels.yaml`."""
DISPUTES: frozenset[str] = frozenset(
    {"chargeback", "fraud_warning", "confirmed_fraud", "service_dispute", "friendly_fraud"}
)
"""Outcomes that a dispute which was won takes back."""
NEUTRAL: frozenset[str] = frozenset(
    {"confirmed_good", "dispute_won", "refund_issued", "complaint_filed", "report_filed"}
)
"""Outcomes that do not keep an event from being good."""

STAGES: tuple[str, ...] = ("checkout", "after_challenge", "after_authorisation", "before_shipment")
DISPOSITIONS: tuple[str, ...] = (
    "pending", "declined_by_us", "challenge_failed", "declined_by_issuer", "approved", "abandoned",
)  # fmt: skip
"""Status of a payment as known at a time; the position in this tuple is its code in an event log."""
_WAY = ("pending", "abandoned", "declined_by_us", "challenge_failed", "declined_by_issuer", "approved")
HOW_FAR: tuple[int, ...] = tuple(_WAY.index(word) for word in DISPOSITIONS)
"""Code of a disposition → how far on a payment's way it is. The farthest stays, in whatever order they arrive."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field that an event may carry, under its dotted `name`."""

    name: str
    type: str
    """CEL type: string, int, double, bool, timestamp, list(string), list(map), map(string, dyn)."""
    meaning: str
    personal: bool = False
    choices: tuple[str, ...] = ()
    derived: bool = False
    """Computed by Arbiter before admission; refused when a caller sends it."""


def _fields(text: str) -> dict[str, Field]:
    """Read the table: `name type[!][=a|b] meaning`, where ! marks personal data and * a derived field."""
    table = {}
    for line in text.strip().splitlines():
        name, kind, meaning = line.split(None, 2)
        kind, _, choices = kind.partition("=")
        personal, derived = "!" in kind, "*" in kind
        table[name] = Field(
            name, kind.strip("!*").replace("_", " "), meaning, personal,
            tuple(choices.split("|")) if choices else (), derived,
        )  # fmt: skip
    return table


FIELDS: dict[str, Field] = _fields("""
event.market        string      market of the shop, ISO 3166 alpha-2
event.zone          string      the shopper's IANA time zone
event.channel       string=web|app|phone|store|partner  where it happened
event.local_hour    int*        hour 0..23 in the shopper's zone, else the market's
event.utc_hour      int*        hour 0..23 in UTC
event.weekday       int*        0 = Monday .. 6 = Sunday, in the same zone as local_hour
user.id             string!     the shop's id of a registered user; absent for a guest
user.account_created timestamp  when the account was opened, if the caller knows
user.age_band       string      what the user says, such as 25-34
user.sex            string      what the user says
user.language       string      BCP 47 tag
device.id           string!     stable id or fingerprint of the device
device.type         string      phone, tablet, desktop …
device.os           string      operating system
card.token          string!     token or fingerprint of the card, never its number
card.bin            string      first six or eight digits
card.last4          string!     last four digits
card.expiry         string      YYYY-MM
card.country        string      issuer country, ISO 3166 alpha-2
card.type           string=credit|debit|prepaid|unknown  kind of card
ip.address          string!     IPv4 or IPv6
ip.network          string*     /24 of IPv4 or /48 of IPv6
ip.country          string      country of the address, ISO 3166 alpha-2
ip.proxy            bool        known proxy, VPN or hosting network
email.address       string!     as typed; normalised before anything else
email.domain        string*     part after the @, lower case
email.disposable    bool        throw-away provider
phone.number        string!     E.164
address.street      string!     shipping street and number
address.city        string!     shipping city
address.postcode    string!     shipping postcode
address.country     string      shipping country, ISO 3166 alpha-2
address.key         string*!    the shipping address normalised to one line; absent without street and postcode
billing.country     string      billing country, ISO 3166 alpha-2
billing.postcode    string!     billing postcode
geo.latitude        double!     degrees, -90..90
geo.longitude       double!     degrees, -180..180
txn.amount_minor    int         amount in minor units of txn.currency
txn.currency        string      ISO 4217
txn.amount          double*     amount in major units of txn.currency
txn.amount_base     double*     amount in major units of the policy's base currency, at the rate known then
payment.id          string      one id through the whole life of a payment
payment.method      string      card, wallet, transfer, invoice …
payment.retry_of    string      id of the request of which this is a technical retry
event.stage         string=checkout|after_challenge|after_authorisation|before_shipment where it is decided
basket.items        list(string) item ids, one for each line
basket.categories   list(string) categories, one for each line
basket.quantities   list(int)   pieces, one for each line
basket.quantity     int*        pieces in all
merchant.id         string      seller or terminal
item.id             string      item of a view, a review, a return …
item.category       string      its category
coupon.code         string      code that was redeemed
coupon.value_base   double      its worth in base currency
result.status       string=approved|declined  the issuer's answer
result.code         string      the issuer's code
result.avs          string=match|partial|mismatch|unavailable  address verification
result.cvv          string=match|mismatch|unavailable  security code
result.three_ds     string=authenticated|attempted|failed|not_enrolled  3-D Secure
challenge.status    string=passed|failed|abandoned  how a challenge ended
refund.reason       string      why money was asked back
review.rating       int         1..5
review.text         string!     what was written
complaint.reason    string      delivery, quality, service, price, fraud …
search.query        string!     what was searched
page.seconds        double      dwell time of a view, seconds
consent.marketing   bool        may be sent offers
consent.personalise bool        may be shown personal recommendations
consent.profiling   bool        may be profiled beyond fraud prevention
attributes          map(string,_string) the rest: at most 64 short texts
""")

ENTITIES: dict[str, str] = {
    "user": "user.id", "device": "device.id", "card": "card.token", "ip": "ip.address",
    "email": "email.address", "address": "address.key", "merchant": "merchant.id", "item": "item.id",
}  # fmt: skip
"""Entity → the field whose (normalised) value is its key."""

PERSONAL: frozenset[str] = frozenset(f.name for f in FIELDS.values() if f.personal)
DERIVED: frozenset[str] = frozenset(f.name for f in FIELDS.values() if f.derived)
