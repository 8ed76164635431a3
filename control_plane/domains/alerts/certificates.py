"""When certificates end that this control plane shows or believes, by the files of its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NOTICE_DAYS = (1, 7, 30)
"""Told when so many days are left: at each of them once."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The one of a file that ends first; `use` is what the file is for."""

    use: str
    serial: str
    expires_at: datetime

    def notice(self, now: datetime) -> int | None:
        """Within how many days it ends, of those that are told; None for none of them."""
        left = self.expires_at - now
        return next((days for days in NOTICE_DAYS if left <= timedelta(days=days)), None)


class Certificates(Collector):
    """Reads the files whenever it is asked: they are replaced while the service runs."""

    def __init__(self, files: Mapping[str, Path | None]) -> None:
        self._files = {use: path for use, path in files.items() if path is not None}
        self._unreadable: dict[str, str] = {}

    @property
    def unreadable(self) -> set[str]:
        """The uses whose files could not be read when they were last."""
        return set(self._unreadable)

    def read(self) -> list[Certificate]:
        """What stands in the files.

        One that cannot be read is left out, and told in the log once until it can, or for another
        reason.
        """
        return [found for use in self._files if (found := self._first_to_end(use)) is not None]

    def _first_to_end(self, use: str) -> Certificate | None:
        path = self._files[use]
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = str(error)
            if self._unreadable.get(use) != reason:
                log.warning("a certificate cannot be read", use=use, file=str(path), error=reason)
            self._unreadable[use] = reason
            return None
        if self._unreadable.pop(use, None) is not None:
            log.info("a certificate can be read again", use=use, file=str(path))
        first = min(found, key=lambda each: each.not_valid_after_utc)
        return Certificate(use, f"{first.serial_number:x}", first.not_valid_after_utc)

    def collect(self) -> Iterable[Metric]:
        """When each ends."""
        ends = GaugeMetricFamily(
            "dds_certificate_expires_timestamp_seconds",
            "When a certificate ends that is shown (`http`) or believed (`trust`).",
            labels=("use",),
        )
        for each in self.read():
            ends.add_metric((each.use,), each.expires_at.timestamp())
        yield ends
