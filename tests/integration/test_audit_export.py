"""The audit log on its topic, read by somebody who has nothing but the messages."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pulsar
import pytest
from local_runtime import eventually

from control_plane.domains.audit.chain import Head, follow
from control_plane.domains.audit.cloud_events import link_of
from marketdata.connection import Access
from marketdata.topics import AUDIT
from scripts.access import authenticate

pytestmark = pytest.mark.integration


def test_what_is_done_is_on_the_topic_and_its_chain_holds(stack: Any) -> None:
    http = httpx.Client(base_url=stack.control_plane_url, timeout=60, auth=authenticate)
    client = pulsar.Client(stack.service_url, **Access.from_environment().client_arguments())
    messages: list[pulsar.Message] = []
    try:
        reader = client.create_reader(AUDIT, pulsar.MessageId.earliest)

        def told(subject: str) -> list[str]:
            """What was done to something, as far as the topic tells."""
            while reader.has_message_available():
                messages.append(reader.read_next(timeout_millis=30_000))
            events = [json.loads(message.data()) for message in messages]
            return [each["data"]["action"] for each in events if each["subject"] == subject]

        body = {"name": f"test-{uuid.uuid4().hex[:12]}", "labels": {"ü": "1.50"}}
        made = http.post("/v1/consumers", json=body).raise_for_status().json()
        http.patch(f"/v1/consumers/{made['id']}", json={"contact": "x"}).raise_for_status()
        http.delete(f"/v1/consumers/{made['id']}").raise_for_status()
        # A deleted consumer's row stays.
        expected = ["insert", "update", "update"]
        eventually(lambda: told(f"consumers/{made['id']}") == expected)
        head, broken = follow(Head(), [link_of(message.data()) for message in messages])
        assert broken is None
        assert head.sequence == len(messages)
        newest = json.loads(messages[-1].data())
        assert newest["id"] == f"{head.sequence}:{head.digest.hex()}"
        assert messages[-1].properties() == {
            "content-type": "application/cloudevents+json; charset=UTF-8"
        }
        # The database's own log is the same.
        wanted = {"head": newest["id"], "limit": 1}
        found = http.get("/v1/audit/verification", params=wanted).raise_for_status().json()
        assert found["broken"] is None
    finally:
        client.close()
        http.close()
