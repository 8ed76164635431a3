"""What schemathesis is told beside the description, in its own process (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

import os
from typing import Any

import schemathesis
from schemathesis.generation.meta import TestPhase


@schemathesis.hook
def before_call(context: Any, case: Any, _kwargs: Any) -> None:  # noqa: ARG001 - so it is called
    """Keep the token that all requests carry, and send no key where it would mislead."""
    body = case.body
    own = os.environ["DDS_CONTRACT_SUBJECT"]
    if isinstance(body, dict) and body.get("subject") == own and case.path.endswith("/revoke"):
        case.body = {**body, "subject": "somebody"}
    described = case.operation.schema.raw_schema["paths"].get(case.path, {})
    # A used key is refused before it is known that there is nothing to do; and it gets the first
    # answer again, to which there may be nothing any more when links are followed.
    stateful = case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL
    if stateful or case.method.lower() not in described:
        case.headers.pop("Idempotency-Key", None)
