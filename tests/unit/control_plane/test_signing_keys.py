"""The directory of signing keys, and the command that makes keys and first tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from control_plane.security.__main__ import main
from control_plane.security.keys import (
    KeyDirectoryError,
    jwks,
    load_keys,
    make_key,
    signing_key,
)
from control_plane.security.roles import Role
from control_plane.security.tokens import KeyRing, TokenRefused

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    make_key(directory, active_from=NOW - HOUR)
    return directory


def test_only_the_owner_reads_what_is_made(keys: Path) -> None:
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()] == [0o600]


def test_the_id_is_the_thumbprint_of_rfc_7638(keys: Path) -> None:
    (jwk,) = jwks(load_keys(keys))["keys"]
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    assert jwk["kid"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert "d" not in jwk


def test_the_newest_active_key_signs_and_all_verify(keys: Path) -> None:
    (old,) = load_keys(keys)
    newer = make_key(keys, active_from=NOW - timedelta(minutes=1)).kid
    waiting = make_key(keys, active_from=NOW + HOUR).kid
    loaded = load_keys(keys)
    assert signing_key(loaded, NOW).kid == newer
    assert signing_key(loaded, NOW - timedelta(minutes=30)).kid == old
    assert signing_key(loaded, NOW + 2 * HOUR).kid == waiting
    ring = KeyRing(keys)
    for kid, key in loaded.items():
        claims = {
            "iss": "urn:dds",
            "aud": "dds",
            "sub": "ann",
            "role": "platform",
            "iat": NOW,
            "exp": NOW + 12 * HOUR,
        }
        token = jwt.encode(claims, key.private, "ES256", headers={"kid": kid})
        assert ring.verify(token).subject == "ann"


def test_a_deleted_key_is_not_believed_whatever_else_is_wrong(keys: Path) -> None:
    now = 0.0
    make_key(keys, active_from=NOW - timedelta(minutes=1))
    ring = KeyRing(keys, monotonic=lambda: now)
    token, _ = ring.issue(subject="ann", role=Role.PLATFORM, lifetime=HOUR)
    (keys / "notes.pem").write_text("not a key")
    now = 10.0
    assert ring.verify(token).subject == "ann"
    newest = max(path for path in keys.iterdir() if path.name != "notes.pem")
    newest.unlink()
    now = 20.0
    with pytest.raises(TokenRefused):
        ring.verify(token)


def test_no_key_signs_before_its_time(tmp_path: Path) -> None:
    make_key(tmp_path / "keys", active_from=NOW + HOUR)
    with pytest.raises(KeyDirectoryError, match="active"):
        signing_key(load_keys(tmp_path / "keys"), NOW)


def test_keys_that_others_can_read_or_replace_are_refused(keys: Path) -> None:
    (path,) = keys.iterdir()
    path.chmod(0o640)
    with pytest.raises(KeyDirectoryError, match="chmod 600"):
        load_keys(keys)
    path.chmod(0o600)
    keys.chmod(0o770)
    with pytest.raises(KeyDirectoryError, match="chmod 700"):
        load_keys(keys)


@pytest.mark.parametrize("what", ["missing", "empty", "garbage", "swapped", "misnamed", "curve"])
def test_a_directory_that_cannot_be_used_says_why(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "keys"
    key = make_key(directory)
    (path,) = directory.iterdir()
    if what == "missing":
        directory = tmp_path / "other"
    elif what == "empty":
        path.unlink()
    elif what == "garbage":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    elif what == "misnamed":
        path.rename(directory / "mine.pem")
    elif what == "swapped":
        make_key(tmp_path / "theirs")
        (theirs,) = (tmp_path / "theirs").iterdir()
        path.write_bytes(theirs.read_bytes())
    else:
        path.write_bytes(RSA_KEY)
    with pytest.raises(KeyDirectoryError) as refused:
        load_keys(directory)
    assert key.kid not in load_error_text(refused.value).replace(str(path), "")


def load_error_text(error: KeyDirectoryError) -> str:
    text = str(error)
    assert "PRIVATE KEY" not in text
    return text


def _rsa_key() -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


RSA_KEY = _rsa_key()


def test_the_command_makes_a_key_and_a_token_that_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    assert main(["--keys", str(keys), "new-key"]) == 0
    kid = capsys.readouterr().out.strip()
    assert main(["--keys", str(keys), "new-key", "--active-after", "15m"]) == 0
    waiting = capsys.readouterr().out.strip()
    assert main(["--keys", str(keys), "issue", "--role", "functions", "--ttl", "5m"]) == 0
    token = capsys.readouterr().out.strip()
    claims = KeyRing(keys).verify(token)
    assert (claims.subject, claims.role) == ("functions", Role.FUNCTIONS)
    assert claims.expires_at - claims.issued_at == timedelta(minutes=5)
    assert jwt.get_unverified_header(token)["kid"] == kid
    assert main(["--keys", str(keys), "list"]) == 0
    states = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines()}
    assert states == {kid: "signs", waiting: "waits"}
    assert main(["--keys", str(keys), "jwks"]) == 0
    assert {key["kid"] for key in json.loads(capsys.readouterr().out)["keys"]} == {kid, waiting}


def test_a_token_is_issued_to_who_has_no_login_name(
    keys: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, whose user is a number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert main(["--keys", str(keys), "issue", "--role", "platform"]) == 0
    claims = KeyRing(keys).verify(capsys.readouterr().out.strip())
    assert (claims.subject, claims.role) == ("uid-4000000000", Role.PLATFORM)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--role", "consumer", "--subject", "desk-7"],
        ["--role", "platform", "--subject", "c0123456789abcdef"],
        ["--role", "platform", "--subject", "functions"],
        ["--role", "functions", "--subject", "ann"],
        ["--role", "platform", "--subject", "ann", "--ttl", "2d"],
        ["--role", "platform", "--subject", "ann", "--ttl", "0s"],
    ],
)
def test_the_command_issues_nothing_that_does_not_fit(
    keys: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert main(["--keys", str(keys), "issue", *wrong]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err


def test_the_command_needs_a_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DDS_SIGNING_KEYS_DIR", raising=False)
    assert main(["list"]) == 2
    assert "DDS_SIGNING_KEYS_DIR" in capsys.readouterr().err
