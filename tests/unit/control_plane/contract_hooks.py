"""What schemathesis is told beside the description, in its own process (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

import os
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, _kwargs: Any) -> None:  # noqa: ARG001 - so it is called
    """Keep the token that all requests carry, and send no key where a path has not the method."""
    body = case.body
    own = os.environ["DDS_CONTRACT_SUBJECT"]
    if isinstance(body, dict) and body.get("subject") == own and case.path.endswith("/revoke"):
        case.body = {**body, "subject": "somebody"}
    described = case.operation.schema.raw_schema["paths"].get(case.path, {})
    if case.method.lower() not in described:
        # A used key is refused before it is known that there is nothing to do.
        case.headers.pop("Idempotency-Key", None)
