"""Loads a policy folder and its models into a `Program`; every mistake of every file is told at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from engine.errors import ModelError
from engine.features.enrich import Rates
from engine.features.load import event_types, load_features
from engine.features.online import OnlineFeatures
from engine.features.spec import FeatureSet, layouts
from engine.language import Diagnostics, Schema
from engine.policy.bundle import digest_of, read_files
from engine.policy.evaluate import Policy, rule_sets
from engine.policy.lists import AnyList, Moment, ValueList, list_types, load_lists
from engine.policy.load import PolicyReader
from engine.policy.lowering import load_lowering
from engine.policy.steps import load_patterns
from engine.profiles.identity import Identity, normalise_email
from engine.program import Program
from engine.scoring.model import ScoringModel, load_model
from engine.scoring.registry import check_in_service

STANDING_TYPES: Mapping[str, str] = {
    "user.risk.tier": "string", "user.measures": "list(string)", "score": "double", "degraded": "list(string)",
    "event.lists": "list(string)",
}  # fmt: skip
"""What rules may read beside event fields, features and signals."""
_OF_FEATURES = (
    r"unknown name `(?!param\.|signal\.|scorecard\.)", "no feature or field is called", "no profiles of the entity",
)  # fmt: skip
"""Mistakes that follow when no feature is known."""


P = ParamSpec("P")
R = TypeVar("R")


def _uncollected(load: Callable[P, R]) -> Callable[P, R]:
    """Loading makes millions of objects that stay: to search them for garbage meanwhile costs a fifth of the time."""

    @wraps(load)
    def paused(*args: P.args, **kwargs: P.kwargs) -> R:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return load(*args, **kwargs)
        finally:
            if was_on:
                gc.enable()

    return paused


@_uncollected
def load_program(
    rules: Path, models: Path, identity: Identity, clock: Callable[[], int] | None = None, *, with_models: bool = True,
    diagnostics: Diagnostics | None = None, in_service: bool = False,
) -> Program:  # fmt: skip
    """Read, check and compile everything; `DiagnosticsError` or another `PolicyError` leaves the live program alone.

    `clock`: as of when lists are asked; without it, as of the case that is judged. `in_service` refuses models that
    were retired; what was live once still needs them.
    """
    diagnostics = diagnostics or Diagnostics()
    reader, doubt = PolicyReader.of(rules, diagnostics), diagnostics.doubt
    doubt("reasons.yaml", "unknown reason", nothing_known=not reader.reasons.known)
    settings = reader.settings()
    doubt("policy.yaml", r"unknown name `param\.", ".* is not a parameter", nothing_known=not settings.parameters)
    doubt("labels.yaml", "rate needs `outcome`", nothing_known=not settings.fraud_outcomes)
    features = load_features(rules / "features.yaml", "features.yaml", settings.fraud_outcomes, diagnostics)
    types = event_types() | features.types
    doubt("features.yaml", *_OF_FEATURES, nothing_known=not features.names)
    plan = load_patterns(rules, types, frozenset(event_types()), diagnostics)
    doubt("patterns/", r"unknown name `signal\.")
    kinds = list_types(normalise_email)
    moment = Moment()
    lists = load_lists(rules / "lists", diagnostics, clock or moment, kinds)
    doubt("lists/lists.yaml", "unknown list", "the list `", nothing_known=not lists)
    schema = rule_schema(features, plan.signals, lists, settings.parameters)
    blocks = {name for name, one in lists.items() if one.kind == "block"}
    checked = [
        (replace(rule, final=True) if condition.lists & blocks else rule, condition)
        for rule, condition in reader.rules(schema, lists)
    ]
    rules_of = tuple(rule for rule, _ in checked)
    doubt("risk/", "there is no rule set", "the rule `.*` is not known")
    secret, met = identity.secret, (*rules_of, *(reader.met if diagnostics.failed else ()))
    lowering = load_lowering(rules, met, lists, settings.control, kinds, schema, secret, diagnostics)
    follow = [one.follows for one in lists.values() if isinstance(one, ValueList) and one.follows]
    kept = {aggregate.entity for aggregate in features.aggregates}
    for unkept in (one for one in follow if kept and one.entity not in kept):
        hint = f"define a feature about {unkept.entity}, or leave out `follows`"
        diagnostics.error("E511", f"no profiles of the entity {unkept.entity} are kept", unkept.place, hint=hint)
    settings = replace(settings, explains=reader.reasons.explains(types), listings=tuple(follow))
    diagnostics.raise_if_failed()
    loaded: dict[str, ScoringModel] = {}
    challengers: dict[str, tuple[ScoringModel, ...]] = {}
    if with_models:
        for kind, name in settings.models.items():
            loaded[kind] = load_fitting(name, kind, features, models)
        for kind, names in settings.challengers.items():
            challengers[kind] = tuple(load_fitting(name, kind, features, models) for name in names)
        for model in chain(loaded.values(), *challengers.values()) if in_service else ():
            check_in_service(models / model.name)
    shape = layouts(features, plan.columns, plan.joins)
    digest = digest_of(read_files(rules), {kind: model.digest for kind, model in loaded.items()})
    sets, translations = rule_sets(checked, lists, secret, reader.cards), reader.reasons.translations
    policy = Policy(settings, rules_of, sets, lists, plan, digest, translations, lowering)
    rates = Rates.from_csv(settings.base_currency, rules / "tables" / "fx.csv")
    online = OnlineFeatures(features, shape, plan.admission_filters)
    return Program(digest, policy, features, online, shape, loaded, rates, identity, challengers, moment)


def rule_schema(
    features: FeatureSet,
    signals: tuple[str, ...],
    lists: Mapping[str, AnyList],
    parameters: Mapping[str, Any] | None = None,
) -> Schema:
    """What a rule may read."""
    names = event_types() | features.types | dict(STANDING_TYPES) | {f"signal.{name}": "bool" for name in signals}
    names |= dict.fromkeys(parameters or {}, "dyn")
    return Schema.of(names, dict.fromkeys(lists, "string"), constants=parameters)


def load_fitting(name: str, kind: str, features: FeatureSet, folder: Path) -> ScoringModel:
    """A model of the folder that can score such events with these features; ModelError says why it can't."""
    model, known = load_model(folder / name), event_types() | features.types
    foreign = [feature for feature in model.features if known.get(feature) not in {"int", "double", "bool"}]
    if foreign:
        raise ModelError(
            f"model {name} wants {', '.join(foreign)}, which the policy's features do not define as numbers"
        )
    learnt, used = model.manifest.definitions_digest, features.digest_of(model.features)
    if learnt and learnt != used:
        raise ModelError(
            f"model {name} was trained on features that meant something else (definitions {learnt}, here {used}); "
            "train it again, or bring the definitions back"
        )
    if model.name != name:
        raise ModelError(f"{folder / name} holds the model {model.name}; a version keeps the folder it was written to")
    if model.event_kind != kind:
        raise ModelError(f"model {name} is for {model.event_kind} events; policy.yaml names it for {kind}")
    return model
