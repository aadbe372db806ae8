"""Errors → `google.rpc.Status` with details that a program can act on, and nothing of the inside."""

from __future__ import annotations

import re
from collections.abc import Sequence

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from engine.errors import ArbiterError, BodyConflict, InvalidInput, Leaving, Overloaded, Unavailable, Violation

DOMAIN = "arbiter.v1"
"""`ErrorInfo.domain` of all errors."""
_MAX_STATUS_BYTES = 4_500
"""Trailing metadata may hold 8 KiB at most callers, and the status travels in it as base64."""
_MAX_SUMMARY = 240


def status_details(error: BaseException, request_id: str = "") -> status_pb2.Status:
    """The status a caller gets for an error.

    InvalidInput carries BadRequest with every violation, Overloaded and Leaving RetryInfo, BodyConflict both digests;
    each has ErrorInfo whose `reason` is the error's name in capitals. What is no ArbiterError, and what says INTERNAL,
    gives away only `request_id`, to be quoted.
    """
    name = error.status if isinstance(error, ArbiterError) else "INTERNAL"
    reason = "INTERNAL" if name == "INTERNAL" else _constant_case(type(error).__name__)
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=_metadata(error, request_id))
    status = status_pb2.Status(code=code_pb2.Code.Value(name), message=_summary(error, name, request_id))
    status.details.add().Pack(info)
    if isinstance(error, InvalidInput):
        status.details.add().Pack(_bad_request(error.violations))
    if isinstance(error, Overloaded | Leaving):
        delay = Duration(seconds=error.retry_after_ms // 1_000, nanos=error.retry_after_ms % 1_000 * 1_000_000)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def violations_of(error: grpc.RpcError) -> list[Violation]:
    """What a failed call says is wrong with the request, for clients; empty when it says nothing of the kind."""
    trailing: dict[str, bytes] = dict(getattr(error, "trailing_metadata", tuple)() or ())
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    bad = error_details_pb2.BadRequest()
    found = any(detail.Is(bad.DESCRIPTOR) and detail.Unpack(bad) for detail in status.details)
    return [Violation(v.field, v.description) for v in bad.field_violations] if found else []


def _constant_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def _metadata(error: BaseException, request_id: str) -> dict[str, str]:
    metadata = {"request_id": request_id} if request_id else {}
    if isinstance(error, BodyConflict):
        metadata |= {"stored_digest": error.stored.hex(), "given_digest": error.given.hex()}
    return metadata


def _summary(error: BaseException, name: str, request_id: str) -> str:
    if name == "INTERNAL":
        return f"internal error; quote request id {request_id or 'unknown'}"
    if isinstance(error, Unavailable):
        return f"{_constant_case(type(error).__name__).lower().replace('_', ' ')}; retry with the same id"
    if isinstance(error, InvalidInput) and len(error.violations) > 1:
        first = error.violations[0]
        rest = len(error.violations) - 1
        return f"{first.field}: {first.reason}"[:_MAX_SUMMARY] + f"; and {rest} more, see BadRequest in the details"
    return str(error).removeprefix(": ")[:_MAX_SUMMARY]


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """Every field by name; when they are very many, the words are cut so that all the names still fit."""
    room = _MAX_STATUS_BYTES // max(len(violations), 1) - 40
    return error_details_pb2.BadRequest(
        field_violations=[
            {"field": v.field, "description": v.reason[: max(room - len(v.field), 16)]} for v in violations
        ]
    )
