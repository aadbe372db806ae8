"""Between protobuf and the engine's own values; nothing else in the engine knows the protobuf classes.

bytes → request                        `parse`
request → document → Event             `event_document`, `read_request`, `read_outcome_request`, `required_id`
document → request                     `decide_request`, `record_request`, `outcome_request`
Decision → bytes … → Decision          `decision_bytes`, `decision_value`, …
Explanation → bytes                    `explanation_bytes`
ReviewCase, CaseView … → messages      `case_message`, `view_message`, `stats_message`; requests by `list_asked` …
error → google.rpc.Status              `status_details`
"""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from engine.service._generated.arbiter.v1 import decision_pb2, review_pb2
from engine.service.convert.decisions import (
    assessment_message,
    decision_bytes,
    decision_value,
    outcome_reply,
    record_reply,
)
from engine.service.convert.explanations import explanation_bytes
from engine.service.convert.incoming import (
    event_document,
    parse,
    read_outcome_request,
    read_request,
    required_id,
)
from engine.service.convert.outgoing import decide_request, outcome_request, record_request
from engine.service.convert.reviews import (
    case_message,
    cases_message,
    decided_in,
    list_asked,
    since_us,
    stats_message,
    view_message,
)
from engine.service.convert.status import status_details, violations_of

_SERVICE = decision_pb2.DESCRIPTOR.services_by_name["DecisionService"]
_REVIEWS = review_pb2.DESCRIPTOR.services_by_name["ReviewService"]
Methods = dict[str, tuple[type[Message], type[Message]]]
"""Method → (request class, reply class)."""


def _methods(service: ServiceDescriptor) -> Methods:
    return {
        method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
        for method in service.methods
    }


SERVICE: str = _SERVICE.full_name
"""Full name of the service, as health and reflection speak of it."""
REVIEW_SERVICE: str = _REVIEWS.full_name
METHODS = _methods(_SERVICE)
REVIEW_METHODS = _methods(_REVIEWS)

__all__ = [
    "METHODS", "REVIEW_METHODS", "REVIEW_SERVICE", "SERVICE", "assessment_message", "case_message", "cases_message",
    "decide_request", "decided_in", "decision_bytes", "decision_value", "event_document", "explanation_bytes",
    "list_asked", "outcome_reply", "outcome_request", "parse", "read_outcome_request", "read_request", "record_reply",
    "record_request", "required_id", "since_us", "stats_message", "status_details", "view_message", "violations_of",
]  # fmt: skip
