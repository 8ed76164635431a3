"""A certificate authority of a stack's own, and the server certificates that it signs.

The authority stays for the life of the stack, so that clients need to learn it once; a server's
certificate is made anew, with a new key, when half of its life is over or its names are others.
Key files have mode 0600, where nothing else is asked for, and are PKCS#8, as Pulsar wants them.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=90)
_SKEW = timedelta(minutes=5)


class Certificates:
    """`authority` is what clients trust; `server` and `server_key` are what servers show.

    Args:
        folder: of the server's files.
        authority: the folder of the authority, where it is another one.
        mode: of the server's files.
    """

    def __init__(self, folder: Path, authority: Path | None = None, mode: int = 0o600) -> None:
        self.folder = folder
        self.authority = (authority or folder) / "ca.pem"
        self.server = folder / "server.pem"
        self.server_key = folder / "server.key"
        self._mode = mode

    @property
    def _authority_key(self) -> Path:
        return self.authority.with_name("ca.key")

    def ensure(self, *hosts: str) -> None:
        """Make what is missing or has lived for half of its time, for these names and addresses."""
        for folder in (self.authority.parent, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.authority.exists() and self._authority_key.exists()):
            self._make_authority()
        if not self._is_good(hosts):
            self._make_server(hosts)

    def _is_good(self, hosts: tuple[str, ...]) -> bool:
        if not (self.server.exists() and self.server_key.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(self.server.read_bytes())
        try:
            certificate.verify_directly_issued_by(self._authority())
        except (ValueError, InvalidSignature):
            return False
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        return names == _alternative_names(hosts) and left >= _SERVER_LIFE / 2

    def _authority(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.authority.read_bytes())

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Data distribution: authority of this stack")
        certificate = (
            _builder(name, name, key.public_key(), _AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(self._authority_key, _pem(key))
        write_private(self.authority, certificate.public_bytes(serialization.Encoding.PEM))

    def _make_server(self, hosts: tuple[str, ...]) -> None:
        signer = serialization.load_pem_private_key(self._authority_key.read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101  (made above)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(hosts[0]), self._authority().subject, key.public_key(), _SERVER_LIFE)
            .add_extension(_alternative_names(hosts), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .sign(signer, hashes.SHA256())
        )
        write_private(self.server_key, _pem(key), self._mode)
        write_private(self.server, certificate.public_bytes(serialization.Encoding.PEM), self._mode)


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step by one that only its owner can read, if no other mode is given."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.chmod(mode)
    draft.replace(path)


def _alternative_names(hosts: tuple[str, ...]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(host) for host in (*hosts, "localhost")])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
