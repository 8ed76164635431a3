"""Certificates, keys and tokens of a secure stack."""

import json
import os
import ssl
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control_plane.security.roles import BROKER_SUPERUSERS, Role, fits
from control_plane.security.tokens import KeyRing
from scripts.devstack import certificates as making
from scripts.devstack import instance
from scripts.devstack.certificates import Certificates
from scripts.devstack.console import Console
from scripts.devstack.errors import UsageError
from scripts.devstack.pulsar import with_properties
from scripts.devstack.security import Security
from scripts.devstack.stack import Stack

HOST = "127.0.0.1"


def test_the_server_is_who_its_authority_says(tmp_path: Path) -> None:
    made = Certificates(tmp_path / "certificates")
    made.ensure(HOST)
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    server = x509.load_pem_x509_certificate(made.server.read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == [HOST]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.server, made.server_key)
    assert made.server_key.read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_a_certificate_is_renewed_in_time_and_its_authority_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Certificates(tmp_path)
    made.ensure(HOST)
    authority, server = made.authority.read_bytes(), made.server.read_bytes()
    made.ensure(HOST)
    assert made.server.read_bytes() == server
    monkeypatch.setattr(making, "_SERVER_LIFE", 3 * making._SERVER_LIFE)
    made.ensure(HOST)
    assert made.server.read_bytes() != server
    assert made.authority.read_bytes() == authority


def test_every_secret_is_its_owners_alone(tmp_path: Path) -> None:
    security = Security(tmp_path)
    security.ensure()
    security.database_password()
    for path in (security.folder, *security.folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_tokens_say_who_they_are_for_and_are_renewed(tmp_path: Path) -> None:
    security = Security(tmp_path)
    security.ensure()
    ring = KeyRing(security.keys)
    for subject in ("broker", "platform", "functions"):
        claims = ring.verify(security.token_file(subject).read_text())
        assert claims.subject == subject
        assert claims.expires_at - datetime.now(UTC) > timedelta(hours=23)
    before = security.access.token()
    public = security.public_key.read_bytes()
    security.ensure()
    assert security.access.token() != before
    assert security.public_key.read_bytes() == public
    serialization.load_der_public_key(public)


def test_settings_hold_files_and_no_secrets(tmp_path: Path) -> None:
    security = Security(tmp_path)
    security.ensure()
    settings = security.broker_settings(port=6651, admin_port=8081)
    assert settings["brokerServicePort"] == settings["webServicePort"] == ""
    assert settings["superUserRoles"].split(",") == list(BROKER_SUPERUSERS)
    told = json.dumps(
        [
            settings,
            security.control_plane_settings(),
            security.environment(),
            security.database_parameters(),
        ]
    )
    assert str(security.token_file("platform")) in told
    for subject in ("broker", "platform", "functions"):
        assert security.token_file(subject).read_text() not in told
    assert security.database_password() not in told
    assert "brokerServicePort=\n" in with_properties("brokerServicePort=6650\n", settings)


def test_nobody_else_is_called_like_a_superuser_of_the_broker() -> None:
    for subject in BROKER_SUPERUSERS:
        assert fits(Role.PLATFORM, subject)
        assert not any(fits(role, subject) for role in Role if role is not Role.PLATFORM)


def test_an_instance_gets_the_functions_token(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, arguments: called.append(arguments))
    monkeypatch.setenv("DDS_PYTHON_INSTANCE", "/pulsar/python_instance_main.py")
    monkeypatch.setenv("DDS_FUNCTIONS_TOKEN_FILE", "/secrets/functions.token")
    given = ["--py", "x.zip", "--client_auth_params", "file:///secrets/broker.token", "--use_tls"]
    instance.main(given)
    (arguments,) = called
    assert arguments[:2] == [sys.executable, "/pulsar/python_instance_main.py"]
    assert arguments[2:] == [*given[:3], "file:///secrets/functions.token", "--use_tls"]


def test_a_stack_is_secure_from_its_beginning_or_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DDS_PULSAR_SERVICE_URL", "DDS_PULSAR_ADMIN_URL", "DDS_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    old = Stack(tmp_path / "old", console=Console(quiet=True))
    (old.home / "postgresql").mkdir(parents=True)
    with pytest.raises(UsageError, match="made without security"):
        old.up(secure=True)
    new = Stack(tmp_path / "new", console=Console(quiet=True))
    new._secure()
    again = Stack(tmp_path / "new", console=Console(quiet=True))
    assert again.security is not None
    assert again.service_url.startswith("pulsar+ssl://")
    assert {again.admin_url[:8], again.control_plane_url[:8]} == {"https://"}
    assert again.environment()["DDS_TOKEN_FILE"] == str(again.security.token_file("platform"))


def test_servers_of_the_user_are_not_made_secure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDS_DATABASE_URL", "postgresql://me@db/x")
    with pytest.raises(UsageError, match="your settings name others"):
        Stack(tmp_path, console=Console(quiet=True)).up(secure=True)
