"""Routes of topics."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from control_plane.domains.topics.schemas import TopicDetailOut, TopicList
from control_plane.domains.topics.service import TopicService
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs


class TopicController(Controller):
    """Where events are."""

    path = "/topics"
    tags = ("topics",)

    @get(
        "/",
        operation_id="listTopics",
        summary="List topics",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 503),
    )
    async def list_(self, topics: NamedDependency[TopicService]) -> TopicList:
        """Every topic that the topology declares, as it should be and as it is.

        Those of views are not among them: `/v1/topics/view-…` has each.
        """
        return await topics.listing()

    @get(
        "/{key:str}",
        operation_id="getTopic",
        summary="Describe a topic",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self,
        key: Annotated[
            str,
            PathParameter(
                max_length=64, description="As in the list, or `view-` and the id of a view."
            ),
        ],
        topics: NamedDependency[TopicService],
    ) -> TopicDetailOut:
        """One topic, with what the broker counts."""
        return await topics.describe(key)
