"""What clients show and trust: from the environment, never from arguments."""

import time
from pathlib import Path

import pulsar
import pytest

from marketdata.connection import NO_ACCESS, Access, opened
from marketdata.errors import DistributionError


def test_without_variables_nothing_is_shown() -> None:
    assert Access.from_environment({"DDS_TOKEN_FILE": ""}) == NO_ACCESS
    assert NO_ACCESS.token() is None
    assert NO_ACCESS.client_arguments() == {"tls_validate_hostname": True}
    assert NO_ACCESS.tls() is True


def test_the_token_is_what_the_file_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    access = Access.from_environment({"DDS_TOKEN_FILE": str(file)})
    file.write_text("one\n")
    assert access.token() == "one"
    assert access.client_arguments()["authentication"] is not None
    file.write_text("two")
    assert access.token() == "two"


def test_an_unreadable_token_is_told_before_a_client_is_made(tmp_path: Path) -> None:
    access = Access(tmp_path / "absent")
    with pytest.raises(DistributionError, match="correct DDS_TOKEN_FILE"):
        access.client_arguments()


def test_trusted_certificates_are_the_only_ones(tmp_path: Path) -> None:
    access = Access.from_environment({"DDS_TLS_TRUST_CERTS": str(tmp_path / "ca.pem")})
    arguments = access.client_arguments()
    assert arguments["tls_trust_certs_file_path"] == str(tmp_path / "ca.pem")
    assert arguments["tls_validate_hostname"] is True
    with pytest.raises(FileNotFoundError):
        access.tls()


def test_what_opens_once_the_name_is_known_is_opened() -> None:
    attempts = iter([pulsar.ConnectError(), pulsar.ConnectError(), None])

    def open_() -> str:
        if error := next(attempts):
            raise error
        return "it"

    assert opened(open_, time.monotonic() + 120, pause_s=0) == "it"


def test_a_name_that_stays_unknown_is_told_at_the_deadline() -> None:
    attempts = 0

    def open_() -> None:
        nonlocal attempts
        attempts += 1
        raise pulsar.ConnectError

    with pytest.raises(pulsar.ConnectError):
        opened(open_, time.monotonic())
    assert attempts == 1


def test_any_other_refusal_is_told_at_once() -> None:
    def open_() -> None:
        raise pulsar.AuthorizationError

    with pytest.raises(pulsar.AuthorizationError):
        opened(open_, time.monotonic() + 120)
