"""What the containers of compose.yaml are given: whom they trust, and who they are."""

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from control_plane.security.roles import Role
from control_plane.security.tokens import KeyRing
from scripts.container_credentials import RECIPIENTS, main, renew


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("authority", "signing-keys", *RECIPIENTS):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


def hosts_of(certificate: Path) -> set[str]:
    names = (
        x509.load_pem_x509_certificate(certificate.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    return {str(name.value) for name in names}


def test_each_server_is_believed_under_its_names_and_those_from_outside(folder: Path) -> None:
    renew(folder, "md.example")

    for name, recipient in RECIPIENTS.items():
        if not recipient.hosts:
            assert not (folder / name / "server.key").exists()
            continue
        server = folder / name / "server.pem"
        authority = x509.load_pem_x509_certificate((folder / name / "ca.pem").read_bytes())
        x509.load_pem_x509_certificate(server.read_bytes()).verify_directly_issued_by(authority)
        outside = {"md.example", "127.0.0.1"} if recipient.published else set()
        assert hosts_of(server) == {*recipient.hosts, "localhost"} | outside
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            server, folder / name / "server.key"
        )
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(folder / "proxy/proxy.pem")


def test_who_is_reached_under_another_name_gets_another_certificate(folder: Path) -> None:
    renew(folder, "old.example")
    before = (folder / "broker/server.pem").read_bytes()
    inside = (folder / "postgresql/server.pem").read_bytes()
    renew(folder, "old.example")
    assert (folder / "broker/server.pem").read_bytes() == before

    renew(folder, "new.example")

    assert "new.example" in hosts_of(folder / "broker/server.pem")
    assert (folder / "postgresql/server.pem").read_bytes() == inside


def test_tokens_are_new_each_time_and_of_the_least_role(folder: Path) -> None:
    renew(folder)
    before = (folder / "platform/platform.token").read_text()
    renew(folder)

    ring = KeyRing(folder / "signing-keys")
    roles = {path.stem: ring.verify(path.read_text()).role for path in folder.glob("*/*.token")}
    assert roles == {
        "broker": Role.PLATFORM,
        "platform": Role.PLATFORM,
        "functions": Role.FUNCTIONS,
        "prometheus": Role.READ_ONLY,
    }
    assert (folder / "platform/platform.token").read_text() != before
    assert {path.stem for path in (folder / "prometheus").glob("*.token")} == {"prometheus"}


def test_keys_that_sign_are_their_owners_alone(folder: Path) -> None:
    renew(folder)

    for name in ("authority", "signing-keys"):
        keys = [path for path in (folder / name).iterdir() if path.suffix in {".key", ".pem"}]
        assert keys
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    for path in folder.glob("*/*"):
        if path.parent.name in RECIPIENTS:
            assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not list(folder.glob("*/ca.key"))[1:]


def test_what_is_not_mounted_is_not_made(folder: Path) -> None:
    (folder / "proxy").rmdir()

    renew(folder)

    assert not (folder / "proxy").exists()
    assert (folder / "broker/server.pem").exists()


def test_a_wrong_command_is_told_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["once"]) == 2
    assert "serve" in capsys.readouterr().err
