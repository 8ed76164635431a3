"""The control plane's settings: read once from the environment (prefix ``DDS_``), validated, typed.

Every field is documented here; this declaration is the reference. `load_settings` reports all bad
variables at once by their environment name and never prints a value that may hold a password.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata.connection import Access

ENV_PREFIX = "DDS_"
REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


class SettingsError(Exception):
    """The environment does not describe a runnable control plane; fix the variables named."""


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if urlsplit(value).scheme not in schemes:
            allowed = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must be a URL beginning with {allowed}")
        return value

    return AfterValidator(check)


PulsarUrl = Annotated[str, _url("pulsar", "pulsar+ssl")]
HttpUrl = Annotated[str, _url("http", "https")]
DatabaseUrl = Annotated[str, _url("postgresql", "postgres", "postgresql+psycopg")]


class Settings(BaseSettings):
    """What a control plane needs to know; every field is `DDS_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    database_url: DatabaseUrl = Field(
        default="postgresql://postgres@127.0.0.1:5432/postgres",
        description="PostgreSQL 15+; `?host=/folder` reaches a Unix socket.",
    )
    database_pool_size: int = Field(
        default=10,
        ge=4,
        le=200,
        description="Open connections kept; those who look again and again hold one each.",
    )
    pulsar_service_url: PulsarUrl = Field(
        default="pulsar://127.0.0.1:6650", description="The broker's binary protocol."
    )
    pulsar_admin_url: HttpUrl = Field(
        default="http://127.0.0.1:8080", description="The broker's admin API."
    )
    public_service_url: PulsarUrl | None = Field(
        default=None,
        description="The service URL told to consumers, where it differs from pulsar_service_url.",
    )
    token_file: Path | None = Field(
        default=None, description="The token shown to the broker; read again at every login."
    )
    tls_trust_certs: Path | None = Field(
        default=None, description="The certificates (PEM) of which the broker's must come."
    )
    tenant: str = Field(
        default="marketdata", pattern=r"^[a-z0-9][a-z0-9-]*$", description="The Pulsar tenant."
    )
    topology_dir: Path = Field(
        default=REPOSITORY_ROOT / "topology", description="The folder of topology YAML files."
    )
    http_host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    http_port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    http_tls_certificate: Path | None = Field(
        default=None, description="The server's certificate (PEM); HTTPS only, where it is set."
    )
    http_tls_key: Path | None = Field(
        default=None, description="The certificate's private key (PEM); only its owner reads it."
    )
    reconcile_interval_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="Pause between two looks at the cluster."
    )
    unhealthy_after_seconds: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="How long a function may be down, with nothing about its instances changing,"
        " before the reconciler restarts it.",
    )
    plan_publish_interval_ms: int = Field(
        default=500,
        ge=10,
        le=60_000,
        description="Longest time a stored change waits for its publication when nothing wakes it.",
    )
    activation_timeout_ms: int = Field(
        default=2_000,
        ge=0,
        le=30_000,
        description="How long POST /v1/subscriptions waits for the plan before it says `pending`.",
    )
    ordering_retention_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        description="How long findings and closed gaps are kept; open gaps and counts stay.",
    )
    event_retention_days: int = Field(
        default=7, ge=1, le=3650, description="How long events of /v1/events are kept."
    )
    event_retention_rows: int = Field(
        default=1_000_000,
        ge=10_000,
        le=100_000_000,
        description="How many events are kept at most.",
    )
    operation_retention_days: int = Field(
        default=30, ge=1, le=3650, description="How long operations are kept that have ended."
    )
    health_history_seconds: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="How often it is noted how each subscription is read.",
    )
    health_history_days: int = Field(
        default=7, ge=1, le=3650, description="How long what was noted of it is kept."
    )
    health_history_rows: int = Field(
        default=5_000_000,
        ge=0,
        le=1_000_000_000,
        description="How much of it is kept at most, of all subscriptions; 0: nothing is noted.",
    )
    unusual_rate_factor: float = Field(
        default=5.0,
        ge=0,
        le=1_000_000,
        description="How many times its usual rate is told as unusual of a subscription, from what"
        " is noted of its health; 0: nothing is.",
    )
    event_streams: int = Field(
        default=200,
        ge=0,
        le=10_000,
        description="How many streams of events this control plane serves at a time.",
    )
    event_streams_per_consumer: int = Field(
        default=5, ge=0, le=10_000, description="How many of these one caller may have."
    )
    event_stream_seconds: float = Field(
        default=3600,
        ge=0,
        le=86_400,
        description="How long a stream lives; its reader goes on with another one.",
    )
    default_entitlements: Literal["nothing", "everything"] = Field(
        default="nothing",
        description="What a consumer may receive that is registered without `entitlements`.",
    )
    subscriptions_per_consumer: int = Field(
        default=10_000,
        ge=1,
        description="How many subscriptions a consumer may have that are neither closed nor drained"
        " before they are. Who has more keeps them.",
    )
    drain_seconds: float = Field(
        default=300.0,
        ge=0,
        le=86_400,
        description="How long a subscription that another topic was given, because it or"
        " entitlements changed, may still read what was routed to its old one before; and how"
        " long one that resumes may have a backlog beyond its limits. Most time that one may ask"
        " for to be read out before it is closed.",
    )
    conflated_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="How long a subscription that is conflated because of its backlog stays so at"
        " least; never less than it may still read on its old topic.",
    )
    lagging_after_seconds: float = Field(
        default=10,
        gt=0,
        description="How old the oldest unread message of a healthy subscription may be.",
    )
    stalled_after_seconds: float = Field(
        default=30,
        gt=0,
        description="How long a client that has something to read may acknowledge nothing.",
    )
    broker_timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="Longest wait for one answer of the broker."
    )
    preview_seconds: float = Field(
        default=20.0,
        gt=0,
        le=300,
        description="How long a preview of a plan reads the log at most.",
    )
    retry_after_seconds: int = Field(
        default=2, ge=1, le=300, description="Retry-After of a 503 answer."
    )
    authentication: Literal["off", "required"] = Field(
        default="off",
        description="`required`: every request but those for health and public keys needs a token."
        " `off`: whoever reaches the port may do everything; for a machine of your own.",
    )
    signing_keys_dir: Path | None = Field(
        default=None,
        description="The directory of signing keys (`python -m control_plane.security new-key`).",
    )
    token_issuer: str = Field(
        default="urn:dds",
        min_length=1,
        max_length=200,
        description="`iss` of tokens made here. The URL under which this service is reached makes"
        " its keys discoverable (OpenID Connect Discovery).",
    )
    token_audience: str = Field(
        default="dds", min_length=1, max_length=200, description="`aud` of tokens."
    )
    token_lifetime_seconds: int = Field(
        default=3600,
        ge=60,
        le=86_400,
        description="How long a token lives when the request for it does not say.",
    )
    token_renewal_days: int = Field(
        default=30,
        ge=0,
        le=366,
        description="For how long a caller may renew its own token before the platform team has to"
        " issue one again.",
    )
    revocation_seconds: float = Field(
        default=5.0,
        gt=0,
        le=60,
        description="Longest time until every control plane refuses a revoked token.",
    )
    rate_limit_per_second: float = Field(
        default=500.0,
        ge=0,
        le=1_000_000,
        description="Requests a second that each caller may send to this control plane for long;"
        " 0: as many as it likes.",
    )
    rate_limit_burst: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Requests that a caller who sent none for a while may send at once.",
    )
    audit_seal_seconds: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="Pause between two runs that chain new entries of the audit log.",
    )
    oidc_issuer: str | None = Field(
        default=None, min_length=1, description="`iss` of an external issuer of tokens, if any."
    )
    oidc_jwks_url: HttpUrl | None = Field(
        default=None, description="Where the external issuer publishes its keys."
    )
    oidc_audience: str | None = Field(
        default=None, min_length=1, description="`aud` of the external issuer's tokens for us."
    )
    oidc_role_claim: str = Field(
        default="role",
        min_length=1,
        description="The claim that holds the role, alone or in a list with names unknown here.",
    )
    oidc_subject_claim: str = Field(
        default="sub",
        min_length=1,
        description="The claim that holds who it is; for the role consumer, the consumer's id.",
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="Shape of log lines."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severity that is logged."
    )

    @model_validator(mode="after")
    def _check_authentication(self) -> Self:
        if self.authentication == "required" and self.signing_keys_dir is None:
            raise ValueError("DDS_AUTHENTICATION=required needs DDS_SIGNING_KEYS_DIR")
        if (
            len(
                {
                    value is None
                    for value in (self.oidc_issuer, self.oidc_jwks_url, self.oidc_audience)
                }
            )
            > 1
        ):
            raise ValueError(
                "an external issuer needs DDS_OIDC_ISSUER, DDS_OIDC_JWKS_URL and DDS_OIDC_AUDIENCE"
            )
        if self.oidc_jwks_url is not None and not _is_safe(self.oidc_jwks_url):
            raise ValueError("DDS_OIDC_JWKS_URL must begin with https:// (or be on this machine)")
        return self

    @property
    def access(self) -> Access:
        """What the control plane shows to the broker and whom it believes."""
        return Access(self.token_file, self.tls_trust_certs)

    @property
    def consumer_service_url(self) -> str:
        """The Pulsar service URL that consumers are told to connect to."""
        return self.public_service_url or self.pulsar_service_url


def _variable(location: tuple[int | str, ...]) -> str:
    """What an error is about; nothing where it is about several variables."""
    name = ".".join(str(part) for part in location).upper()
    return f"{ENV_PREFIX}{name}: " if name else ""


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost")


def load_settings() -> Settings:
    """The settings of this process's environment; SettingsError lists every bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"  {_variable(item['loc'])}{item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("These settings are not usable:\n" + "\n".join(lines)) from None
