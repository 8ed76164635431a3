"""Whether the control plane of this container serves: the image's health check."""

import os
import ssl
import urllib.request

AUTHORITY = os.environ.get("DDS_TLS_TRUST_CERTS")
SECURE = "DDS_HTTP_TLS_CERTIFICATE" in os.environ
URL = f"http{'s' if SECURE else ''}://127.0.0.1:{os.environ['DDS_HTTP_PORT']}/readyz"

urllib.request.urlopen(  # noqa: S310  (its own address)
    URL, timeout=4, context=ssl.create_default_context(cafile=AUTHORITY) if SECURE else None
)
