"""What is refused of a token, and why; signatures are made here, with keys of our own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control_plane.security.external import (
    KEPT_SECONDS,
    MAX_KEYS_BYTES,
    RETRY_SECONDS,
    ExternalIssuer,
    fetch_from,
)
from control_plane.security.keys import SigningKey, load_keys, make_key
from control_plane.security.roles import Role
from control_plane.security.tokens import (
    MAX_LIFETIME,
    RELOAD_SECONDS,
    KeyRing,
    Reason,
    TokenRefused,
    Trust,
)

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
SUBJECT = "c0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    make_key(folder, active_from=NOW - HOUR)
    return folder


@pytest.fixture(scope="module")
def ring(directory: Path) -> KeyRing:
    return KeyRing(directory)


@pytest.fixture(scope="module")
def key(directory: Path) -> SigningKey:
    (only,) = load_keys(directory).values()
    return only


def claims(**changes: Any) -> dict[str, Any]:
    made = {
        "iss": "urn:dds",
        "aud": "dds",
        "sub": SUBJECT,
        "role": "consumer",
        "jti": "1",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 12 * HOUR,
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(key: SigningKey, header: dict[str, Any] | None = None, **changes: Any) -> str:
    headers = {"kid": key.kid} | (header or {})
    return jwt.encode(claims(**changes), key.private, "ES256", headers=headers)


def part(document: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(header: Any, signature: str = "") -> str:
    payload = claims(iat=1, nbf=1, exp=2**31)
    return f"{part(header)}.{part(payload)}.{signature}"


def refusal(ring: KeyRing, token: str) -> Reason:
    with pytest.raises(TokenRefused) as refused:
        ring.verify(token)
    assert not token or token not in repr(refused.value)
    return refused.value.reason


def test_what_is_issued_is_what_is_verified(ring: KeyRing) -> None:
    token, issued = ring.issue(subject=SUBJECT, role=Role.CONSUMER, lifetime=HOUR)
    assert ring.verify(token) == issued
    assert (issued.subject, issued.role, issued.issuer) == (SUBJECT, Role.CONSUMER, "urn:dds")
    assert issued.expires_at - issued.issued_at == HOUR
    other, _ = ring.issue(subject=SUBJECT, role=Role.CONSUMER, lifetime=HOUR)
    assert ring.verify(other).token_id != issued.token_id


def test_the_hand_made_token_that_all_refusals_start_from_is_good(
    ring: KeyRing, key: SigningKey
) -> None:
    assert ring.verify(signed(key)).subject == SUBJECT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - timedelta(minutes=1), "iat": NOW - HOUR, "nbf": None}, Reason.EXPIRED),
        ({"nbf": NOW + 6 * HOUR}, Reason.NOT_YET_VALID),
        ({"iat": NOW + 6 * HOUR, "nbf": None}, Reason.NOT_YET_VALID),
        ({"iss": "urn:other"}, Reason.ISSUER),
        ({"iss": None}, Reason.CLAIMS),
        ({"aud": "other"}, Reason.AUDIENCE),
        ({"aud": None}, Reason.CLAIMS),
        ({"exp": None}, Reason.CLAIMS),
        ({"iat": None}, Reason.CLAIMS),
        ({"sub": None}, Reason.CLAIMS),
        ({"sub": "desk-7"}, Reason.CLAIMS),
        ({"sub": SUBJECT + "0"}, Reason.CLAIMS),
        ({"sub": SUBJECT, "role": "platform"}, Reason.CLAIMS),
        ({"sub": "functions", "role": "platform"}, Reason.CLAIMS),
        ({"sub": "ann", "role": "functions"}, Reason.CLAIMS),
        ({"role": None}, Reason.CLAIMS),
        ({"role": "root"}, Reason.CLAIMS),
        ({"role": ["platform", "consumer"]}, Reason.CLAIMS),
        ({"role": {"platform": True}}, Reason.CLAIMS),
        ({"jti": 7}, Reason.CLAIMS),
        ({"exp": NOW + MAX_LIFETIME + HOUR}, Reason.CLAIMS),
        ({"exp": 10**15}, Reason.CLAIMS),
        ({"auth_time": "today"}, Reason.CLAIMS),
    ],
)
def test_a_claim_that_does_not_hold(
    ring: KeyRing, key: SigningKey, changes: dict[str, Any], reason: Reason
) -> None:
    assert refusal(ring, signed(key, **changes)) is reason


def test_no_algorithm_but_the_keys(ring: KeyRing, key: SigningKey) -> None:
    for none in ("none", "None", "NONE", ""):
        assert refusal(ring, unsigned({"alg": none, "kid": key.kid})) is Reason.ALGORITHM
    # The public key, which anybody can read, taken for a shared secret.
    for secret in (key.public_pem(), json.dumps(key.jwk()).encode()):
        head = f"{part({'alg': 'HS256', 'kid': key.kid})}.{part(claims(iat=1, nbf=1, exp=2**31))}"
        mac = hmac.new(secret, head.encode(), hashlib.sha256).digest()
        assert refusal(ring, f"{head}.{part(mac)}") is Reason.ALGORITHM
    rs256 = unsigned({"alg": "RS256", "kid": key.kid}, part(b"x" * 256))
    assert refusal(ring, rs256) is Reason.ALGORITHM
    assert refusal(ring, unsigned({"alg": ["ES256"], "kid": key.kid})) is Reason.ALGORITHM


def test_no_key_but_ours(ring: KeyRing, key: SigningKey, tmp_path: Path) -> None:
    foreign = make_key(tmp_path / "theirs")
    assert refusal(ring, signed(foreign)) is Reason.UNKNOWN_KEY
    assert refusal(ring, signed(foreign, {"kid": key.kid})) is Reason.SIGNATURE
    # A key that comes with the token is not looked at, nor is a place to find one.
    brought = {"kid": key.kid, "jwk": foreign.jwk(), "jku": "http://127.0.0.1:1/keys"}
    assert refusal(ring, signed(foreign, brought)) is Reason.SIGNATURE
    assert refusal(ring, unsigned({"alg": "ES256"})) is Reason.UNKNOWN_KEY
    for kid in ("", "../" + key.kid, key.kid + ".pem"):
        assert refusal(ring, signed(key, {"kid": kid})) is Reason.UNKNOWN_KEY


def test_no_token_that_was_touched(ring: KeyRing, key: SigningKey) -> None:
    head, body, signature = signed(key).split(".")
    promoted = part(claims(sub="ann", role="platform", iat=1, nbf=1, exp=2**31))
    assert refusal(ring, f"{head}.{promoted}.{signature}") is Reason.SIGNATURE
    assert refusal(ring, f"{head}.{body}.") is Reason.SIGNATURE
    assert refusal(ring, f"{head}.{body}.{part(b'0' * 64)}") is Reason.SIGNATURE
    assert refusal(ring, f"{head}.{body}.{part(bytes(64))}") is Reason.SIGNATURE


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "x" * 100, "é.é.é", "\x00", "e30.e30.e30", part([1]) + ".e30.e30"],
)
def test_what_is_no_token_is_refused_and_nothing_else_happens(ring: KeyRing, text: str) -> None:
    assert refusal(ring, text) in (Reason.MALFORMED, Reason.ALGORITHM)


def test_a_token_that_is_too_large_is_not_read(ring: KeyRing, key: SigningKey) -> None:
    assert refusal(ring, signed(key, extra="x" * 4096)) is Reason.OVERSIZED
    assert refusal(ring, "x" * 10_000_000) is Reason.OVERSIZED


def test_nesting_does_not_reach_the_end_of_the_stack(ring: KeyRing) -> None:
    deep = b"[" * 1500 + b"]" * 1500
    assert refusal(ring, f"{part(deep)}..") in (Reason.MALFORMED, Reason.OVERSIZED)


def test_a_role_may_stand_in_a_list_beside_what_is_not_ours(ring: KeyRing, key: SigningKey) -> None:
    token = signed(key, sub="ann", role=["staff", "platform", 7])
    assert ring.verify(token).role is Role.PLATFORM


def test_a_changed_directory_is_taken_over_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    folder, clock = tmp_path / "keys", Clock()
    make_key(folder, active_from=NOW - HOUR)
    (old,) = folder.iterdir()
    ring = KeyRing(folder, monotonic=clock)
    token, _ = ring.issue(subject="ann", role=Role.PLATFORM, lifetime=HOUR)
    newer = make_key(folder)
    clock.now += RELOAD_SECONDS
    renewed, _ = ring.issue(subject="ann", role=Role.PLATFORM, lifetime=HOUR)
    assert jwt.get_unverified_header(renewed)["kid"] == newer.kid
    (folder / "note.pem").write_text("")
    clock.now += RELOAD_SECONDS
    assert ring.verify(token).subject == "ann"
    (folder / "note.pem").unlink()
    old.unlink()
    assert ring.verify(token).subject == "ann"
    clock.now += RELOAD_SECONDS
    assert refusal(ring, token) is Reason.UNKNOWN_KEY
    assert ring.verify(renewed).subject == "ann"


class Issuer:
    """An external issuer with keys of its own; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails: Exception | None = None
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.keys = [
            self.jwk(jwt.algorithms.ECAlgorithm, self.ec, "one"),
            self.jwk(jwt.algorithms.RSAAlgorithm, self.rsa, "two"),
        ]

    @staticmethod
    def jwk(algorithm: Any, private: Any, kid: str, **more: Any) -> dict[str, Any]:
        return algorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": kid} | more

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return json.dumps({"keys": self.keys}).encode()

    def token(self, kid: str, key: Any = None, algorithm: str = "ES256", **changes: Any) -> str:
        mine = {"iss": "https://id.example", "aud": "ours", "sub": "ann", "role": "platform"}
        return jwt.encode(
            claims(**(mine | changes)), key or self.ec, algorithm, headers={"kid": kid}
        )


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def external(issuer: Issuer, clock: Clock) -> ExternalIssuer:
    return ExternalIssuer(Trust("https://id.example", "ours"), issuer.fetch, monotonic=clock)


async def external_refusal(external: ExternalIssuer, token: str) -> Reason:
    with pytest.raises(TokenRefused) as refused:
        await external.verify(token)
    return refused.value.reason


async def test_an_external_issuer_is_believed_by_its_published_keys(
    issuer: Issuer, external: ExternalIssuer
) -> None:
    assert (await external.verify(issuer.token("one"))).subject == "ann"
    assert (await external.verify(issuer.token("two", issuer.rsa, "RS256"))).subject == "ann"
    assert issuer.asked == 1
    wrong_kind = issuer.token("one", issuer.rsa, "RS256")
    assert await external_refusal(external, wrong_kind) is Reason.ALGORITHM
    assert await external_refusal(external, issuer.token("one", aud="dds")) is Reason.AUDIENCE
    assert await external_refusal(external, issuer.token("one", iss="urn:dds")) is Reason.ISSUER


async def test_claims_are_mapped_as_set_up(issuer: Issuer) -> None:
    trust = Trust("https://id.example", "ours", subject_claim="client", role_claim="groups")
    external = ExternalIssuer(trust, issuer.fetch)
    token = issuer.token("one", sub="0-815", client="ann", role=None, groups=["x", "read-only"])
    found = await external.verify(token)
    assert (found.subject, found.role) == ("ann", Role.READ_ONLY)


async def test_unknown_keys_make_nobody_ask_more_often_than_allowed(
    issuer: Issuer, external: ExternalIssuer, clock: Clock
) -> None:
    for number in range(50):
        token = issuer.token(f"unknown-{number}")
        assert await external_refusal(external, token) is Reason.UNKNOWN_KEY
    assert issuer.asked == 1
    fresh = ec.generate_private_key(ec.SECP256R1())
    issuer.keys.append(Issuer.jwk(jwt.algorithms.ECAlgorithm, fresh, "three"))
    assert await external_refusal(external, issuer.token("three", fresh)) is Reason.UNKNOWN_KEY
    clock.now += RETRY_SECONDS + 1
    assert (await external.verify(issuer.token("three", fresh))).subject == "ann"
    assert issuer.asked == 2


async def test_a_withdrawn_key_is_forgotten_and_an_issuer_that_is_away_is_not(
    issuer: Issuer, external: ExternalIssuer, clock: Clock
) -> None:
    token = issuer.token("one")
    await external.verify(token)
    issuer.fails = httpx.ConnectError("away")
    clock.now += KEPT_SECONDS + 1
    await external.verify(token)
    issuer.fails = None
    issuer.keys = issuer.keys[1:]
    clock.now += RETRY_SECONDS + 1
    assert await external_refusal(external, token) is Reason.UNKNOWN_KEY
    assert issuer.asked == 3


async def test_only_keys_that_can_be_trusted_are_taken(
    issuer: Issuer, external: ExternalIssuer
) -> None:
    small = rsa.generate_private_key(65537, 1024)
    issuer.keys += [
        {"kty": "oct", "kid": "shared", "k": part(b"s" * 32)},
        Issuer.jwk(jwt.algorithms.RSAAlgorithm, small, "small"),
        Issuer.jwk(jwt.algorithms.ECAlgorithm, issuer.ec, "sealing", use="enc"),
        {"kty": "what", "kid": "strange"},
        {"kty": "EC", "crv": "P-256", "x": 7, "y": [], "kid": "broken"},
        {"kty": "EC", "crv": "P-256", "kid": ["list"]},
    ]
    await external.verify(issuer.token("one"))
    shared = jwt.encode(claims(), b"s" * 32, "HS256", headers={"kid": "shared"})
    assert await external_refusal(external, shared) is Reason.ALGORITHM
    for kid in ("sealing", "shared", "strange", "small", "broken"):
        assert await external_refusal(external, issuer.token(kid)) is Reason.UNKNOWN_KEY


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 3}', b"\xff", b"[" * 5_000])
async def test_an_answer_that_is_no_key_set_changes_nothing(
    external: ExternalIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def fetch() -> bytes:
        return body

    monkeypatch.setattr(external, "_fetch", fetch)
    assert await external_refusal(external, issuer.token("one")) is Reason.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (lambda: httpx.Response(200, content=b"{}"), True),
        (lambda: httpx.Response(404), False),
        (lambda: httpx.Response(302, headers={"location": "http://127.0.0.1/"}), False),
        (lambda: httpx.Response(200, content=b" " * (MAX_KEYS_BYTES + 1)), False),
    ],
)
async def test_a_key_set_is_read_from_one_place_and_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], httpx.Response], good: bool
) -> None:
    client, transport = httpx.AsyncClient, httpx.MockTransport(lambda _: answer())
    monkeypatch.setattr(httpx, "AsyncClient", lambda **kw: client(transport=transport, **kw))
    fetch = fetch_from("https://id.example/keys")
    if good:
        assert await fetch() == b"{}"
    else:
        with pytest.raises(ValueError, match=r"answered|larger"):
            await fetch()
