"""What makes a broker speak TLS only and ask everybody who they are, local or in a container.

Standard library only: it runs beside `containers/pulsar/serve.py`, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BrokerSecurity:
    """Files and names; `superusers` may do everything."""

    certificate: Path
    key: Path
    authority: Path
    public_key: Path
    token: Path
    audience: str
    superusers: tuple[str, ...]

    def server(self) -> dict[str, str]:
        """What broker and functions worker alike show and ask for."""
        return {
            "tlsEnabled": "true",
            "webServiceTlsProtocols": "TLSv1.3,TLSv1.2",
            "tlsCertificateFilePath": str(self.certificate),
            "tlsKeyFilePath": str(self.key),
            "tlsTrustCertsFilePath": str(self.authority),
            "authenticationEnabled": "true",
            "authenticationProviders": (
                "org.apache.pulsar.broker.authentication.AuthenticationProviderToken"
            ),
            "authorizationEnabled": "true",
            "superUserRoles": ",".join(self.superusers),
            "brokerClientAuthenticationPlugin": (
                "org.apache.pulsar.client.impl.auth.AuthenticationToken"
            ),
            "brokerClientAuthenticationParameters": self.token.as_uri(),
            "brokerClientTrustCertsFilePath": str(self.authority),
        }

    def token_checks(self) -> dict[str, str]:
        """How tokens are told from others."""
        return {
            "tokenPublicKey": self.public_key.as_uri(),
            "tokenPublicAlg": "ES256",
            "tokenAudienceClaim": "aud",
            "tokenAudience": self.audience,
        }

    def broker(self) -> dict[str, str]:
        """All settings of a broker, but for its ports.

        `tlsEnabled` is for the embedded worker, which else names itself after the plain port that
        is none.
        """
        return {
            **self.server(),
            **self.token_checks(),
            "tlsProtocols": "TLSv1.3,TLSv1.2",
            "tlsHostnameVerificationEnabled": "true",
            "brokerClientTlsEnabled": "true",
            # A client whose token has expired is cut off after so long at the latest.
            "authenticationRefreshCheckSeconds": "15",
            "authenticateMetricsEndpoint": "true",
            "disableHttpDebugMethods": "true",
        }
