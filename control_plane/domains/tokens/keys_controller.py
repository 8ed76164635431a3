"""Where the keys that verify tokens are found, by who has no token: the broker, other services."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from control_plane.domains.tokens.service import TokenService
from control_plane.errors import NotFoundError
from control_plane.problems import responses
from control_plane.security.keys import ALGORITHM
from control_plane.security.permissions import Permission, needs
from control_plane.settings import Settings

JWKS_PATH = "/.well-known/jwks.json"
_HEADERS = {"Cache-Control": "public, max-age=300"}


class PublicKey(msgspec.Struct):
    """The public half of a signing key (RFC 7517, RFC 7518)."""

    kty: str
    crv: str
    x: str
    y: str
    kid: Annotated[str, Meta(description="The key's thumbprint (RFC 7638).")]
    use: str
    alg: str


class KeySet(msgspec.Struct):
    """All keys with which tokens of this issuer may be signed."""

    keys: list[PublicKey]


class Discovery(msgspec.Struct):
    """The part of OpenID Connect Discovery that verifying tokens needs."""

    issuer: str
    jwks_uri: str
    id_token_signing_alg_values_supported: tuple[str, ...] = (ALGORITHM,)
    response_types_supported: tuple[str, ...] = ("id_token",)
    subject_types_supported: tuple[str, ...] = ("public",)


class KeyController(Controller):
    """Public keys; they stand outside /v1, where the standards want them."""

    path = "/.well-known"
    tags = ("tokens",)
    opt = needs(Permission.PUBLIC)
    security = ({},)

    @get("/jwks.json", operation_id="getKeys", summary="Public keys of tokens")
    async def keys(self, tokens: NamedDependency[TokenService]) -> Response[KeySet]:
        """The keys that verify tokens issued here; none where none are issued."""
        return Response(msgspec.convert(tokens.jwks(), KeySet), headers=_HEADERS)

    @get(
        "/openid-configuration",
        operation_id="getDiscovery",
        summary="Where the public keys are",
        responses=responses(404, public=True),
    )
    async def discovery(self, settings: NamedDependency[Settings]) -> Response[Discovery]:
        """What OpenID Connect Discovery asks for; only where `DDS_TOKEN_ISSUER` is a URL."""
        issuer = settings.token_issuer
        if urlsplit(issuer).scheme not in ("http", "https"):
            raise NotFoundError("discovery document for", issuer, hint="it is not a URL")
        return Response(Discovery(issuer, issuer.rstrip("/") + JWKS_PATH), headers=_HEADERS)
