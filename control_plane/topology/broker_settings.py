"""Settings of the brokers that the delivery guarantee rests on and no admin call can change."""

from __future__ import annotations

from typing import Final

from control_plane.pulsar_admin import AdminNotFound, AdminRejected, PulsarAdmin

FAILOVER_DELAY: Final = "activeConsumerFailoverDelayTimeMillis"


async def warnings(admin: PulsarAdmin) -> list[str]:
    """What is wrong with the broker's settings, a sentence each; empty when nothing is.

    Raises:
        AdminUnavailable: the broker does not serve; retry later.
    """
    try:
        settings = await admin.broker_settings()
    except (AdminNotFound, AdminRejected) as error:
        why = error.reason or error
        return [f"the broker does not tell its settings ({why}): it needs {FAILOVER_DELAY}=0"]
    delay = settings.get(FAILOVER_DELAY, "0")
    if delay == "0":
        return []
    danger = "a function that takes a partition over may be handed later messages first"
    return [f"{FAILOVER_DELAY} is {delay}: so long {danger}; set it to 0 in broker.conf"]
