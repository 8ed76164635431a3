"""Who may and who did: audit, tokens; and the service itself."""

from __future__ import annotations

from control_plane.cli.fields import KEY, Field, body, key
from control_plane.cli.resources.command import (
    SINCE,
    Command,
    Group,
    sort_by,
)

AUDIT = Group(
    "audit",
    "Who did what, and who was refused.",
    (
        Command(
            "list",
            "listAuditEntries",
            "GET",
            "/v1/audit",
            "List changes, refused attempts and repairs, newest first.",
            (
                Field("actor", "Only of this caller."),
                Field("operation", "Only of this operation."),
                Field("action", "Only of this sort of change."),
                Field("resource", "Only of this sort of thing."),
                Field("resource_id", "Only of this thing."),
                Field("request_id", "Only of this request."),
                Field("outcome", "Absent: all.", type=("done", "failed", "refused")),
                SINCE,
                Field("until", "Before this time."),
                sort_by("id"),
            ),
            columns=("recorded_at", "actor", "action", "resource", "resource_id", "outcome"),
            paged=True,
        ),
        Command(
            "verify",
            "verifyAudit",
            "GET",
            "/v1/audit/verification",
            "Compute the chain again: whether an entry was changed, removed or moved, or triggers"
            " are off. Exit code 1 if so.",
            (
                Field("after", "Begin behind this place of the chain.", type=int),
                Field("limit", "Entries to check by one request of several.", type=int),
                Field("head", "A head noted before, as sequence:digest; must be there still."),
            ),
            verifies=True,
        ),
    ),
)


TOKENS = Group(
    "tokens",
    "Who may call.",
    (
        Command(
            "list",
            "listTokens",
            "GET",
            "/v1/tokens",
            "List tokens that have not expired.",
            (
                Field("subject", "Only of this subject."),
                Field("issued_by", "Only by this caller."),
                sort_by("issued_at", "expires_at", "subject"),
            ),
            columns=("id", "subject", "role", "issued_by", "expires_at", "revoked"),
            paged=True,
        ),
        Command(
            "create",
            "createToken",
            "POST",
            "/v1/tokens",
            "Issue a token for a consumer, or for somebody in a role; without both, renew your"
            " own. It is told once and stored nowhere; `--output token` prints it alone.",
            (
                body("consumer", "Id or name of the consumer."),
                body("role", "The role.", type=("platform", "publisher", "read-only")),
                body("subject", "Who has the role."),
                body("lifetime_seconds", "How long it lives.", type=int),
            ),
            alone="token",
        ),
        Command(
            "revoke",
            "revokeToken",
            "DELETE",
            "/v1/tokens/{key}",
            "Revoke a token, and what was renewed from it, by its id.",
            (key("key"),),
            confirm="Revoke the token?",
            done="revoked",
        ),
        Command(
            "revoke-all",
            "revokeTokens",
            "POST",
            "/v1/tokens/revoke",
            "Revoke all tokens of a subject.",
            (body("subject", argument=True), KEY),
            confirm="Revoke all its tokens?",
        ),
    ),
)


SYSTEM = Group(
    "system",
    "The control plane itself.",
    (
        Command("health", "getHealth", "GET", "/healthz", "Whether the process is alive."),
        Command(
            "ready",
            "getReadiness",
            "GET",
            "/readyz",
            "Whether requests can be served, and what is missing.",
        ),
        Command("metrics", "getMetrics", "GET", "/metrics", "Prometheus metrics.", raw=True),
        Command("keys", "getKeys", "GET", "/.well-known/jwks.json", "Public keys of tokens."),
        Command(
            "discovery",
            "getDiscovery",
            "GET",
            "/.well-known/openid-configuration",
            "Where the public keys are.",
        ),
    ),
)
