"""What a stack with `up --secure` has beside the others: certificates, keys and tokens.

Everything is below `<home>/security`, which only its owner may enter. Tokens are files, one for
each role, renewed by every `up`; whoever uses one reads its file again.
"""

from __future__ import annotations

import secrets
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from control_plane.security.keys import ensure_key
from control_plane.security.roles import BROKER_SUPERUSERS, Role
from control_plane.security.tokens import DEFAULT_AUDIENCE, KeyRing
from marketdata.connection import Access
from scripts.devstack.certificates import Certificates, write_private
from scripts.devstack.ports import HOST
from scripts.devstack.secure_broker import BrokerSecurity

_ROLES: Final = {
    "broker": Role.PLATFORM,
    "platform": Role.PLATFORM,
    "functions": Role.FUNCTIONS,
}
_LIFE: Final = timedelta(hours=24)


class Security:
    """The folder of a stack's secrets."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "security"
        self.keys = self.folder / "keys"
        self.public_key = self.folder / "token-key.der"
        self.certificates = Certificates(self.folder / "certificates")

    def token_file(self, subject: str) -> Path:
        """The file of a role's token."""
        return self.folder / "tokens" / f"{subject}.token"

    @property
    def access(self) -> Access:
        """What the platform's programs show and trust."""
        return Access(self.token_file("platform"), self.certificates.authority)

    def tls(self) -> ssl.SSLContext:
        """Trusts the stack's own authority and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificates.authority))

    def ensure(self) -> None:
        """Make what is missing, and new tokens."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.certificates.ensure(HOST)
        write_private(self.public_key, ensure_key(self.keys).public_der())
        ring = KeyRing(self.keys)
        self.token_file("broker").parent.mkdir(mode=0o700, exist_ok=True)
        for subject, role in _ROLES.items():
            token, _ = ring.issue(subject=subject, role=role, lifetime=_LIFE)
            write_private(self.token_file(subject), token.encode())

    def broker_settings(self, *, port: int, admin_port: int) -> dict[str, str]:
        """What makes a broker speak TLS only, and ask everybody who they are."""
        security = BrokerSecurity(
            certificate=self.certificates.server,
            key=self.certificates.server_key,
            authority=self.certificates.authority,
            public_key=self.public_key,
            token=self.token_file("broker"),
            audience=DEFAULT_AUDIENCE,
            superusers=BROKER_SUPERUSERS,
        )
        return {
            **security.broker(),
            "brokerServicePort": "",
            "webServicePort": "",
            "brokerServicePortTls": str(port),
            "webServicePortTls": str(admin_port),
        }

    @property
    def _password_file(self) -> Path:
        return self.folder / "pgpass"

    def database_password(self) -> str:
        """The password of the database's user, made when it is first asked for."""
        if not self._password_file.exists():
            # The form of libpq's password file: host, port, database and user do not matter.
            line = f"*:*:*:*:{secrets.token_urlsafe(32)}\n"
            write_private(self._password_file, line.encode())
        return self._password_file.read_text("ascii").strip().rpartition(":")[2]

    def database_parameters(self) -> str:
        """What follows `?` in a database URL: the file with the password, and whom to believe."""
        return urlencode(
            {
                "passfile": str(self._password_file),
                "sslmode": "verify-full",
                "sslrootcert": str(self.certificates.authority),
            },
            safe="/",
        )

    def control_plane_settings(self) -> dict[str, str]:
        """What makes the control plane speak TLS only, and sign and ask for tokens."""
        return {
            "DDS_HTTP_TLS_CERTIFICATE": str(self.certificates.server),
            "DDS_HTTP_TLS_KEY": str(self.certificates.server_key),
            "DDS_AUTHENTICATION": "required",
            "DDS_SIGNING_KEYS_DIR": str(self.keys),
        }

    def environment(self) -> dict[str, str]:
        """What the platform's programs show and trust, for `Access.from_environment`."""
        return {
            "DDS_TOKEN_FILE": str(self.token_file("platform")),
            "DDS_TLS_TRUST_CERTS": str(self.certificates.authority),
        }
