"""What a publisher refuses before it touches a broker."""

from typing import Any

import pytest

from marketdata.publisher import Publisher


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "stable name"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 5 * 1024 * 1024}, "max_bytes"),
        ({"max_pending_frames": 0}, "max_pending_frames"),
        ({"max_pending_bytes": 0}, "max_pending_bytes"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Publisher("pulsar://127.0.0.1:1", **({"name": "x"} | options))
