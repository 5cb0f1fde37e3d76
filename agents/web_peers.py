"""Who holds which partition of a table, found in the assignment that Faust's leader hands out; and how to ask them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from aiohttp.web import Response

from agents.bounded_http import json_of
from agents.context import Context
from agents.web_guard import authorization


def json_response(answer: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(body=json.dumps(answer).encode(), status=status, content_type="application/json")


class Peers:
    """The workers of the app that hold partitions of one table; ``token`` is what the workers show each other."""

    def __init__(self, context: Context, table: Any, token: str = "") -> None:
        self._context = context
        self._table = table
        self._headers = authorization(token)

    def held(self) -> set[int]:
        """Return the partitions that this worker holds."""
        return {tp.partition for tp in self._context.consumer.assignment() if tp.topic == self._changelog}

    async def forward(self, request: Any, partition: int) -> Response:
        """Answer with what the worker that holds a partition says."""
        url = next((u for u, partitions in self._urls().items() if partition in partitions), None)
        if url is None or request.query.get("forwarded"):
            return json_response({"error": "the partition is moving between workers; try again"}, 503)
        status, answer = await self._get(f"{url}{request.path}", {**request.query, "forwarded": "1"})
        return json_response(answer, status)

    async def elsewhere(self, request: Any) -> list[Any]:
        """Return what the other workers say of the partitions that they hold."""
        mine = str(self._context.app.conf.canonical_url)
        query = {**request.query, "local": "1"}
        asked = [
            self._get(f"{url}{request.path}", query) for url in self._urls() if url.rstrip("/") != mine.rstrip("/")
        ]
        return [answer for status, answer in await asyncio.gather(*asked) if status == 200 and "partitions" in answer]

    @property
    def _changelog(self) -> str:
        return str(self._table.changelog_topic.get_topic_name())

    def _urls(self) -> dict[str, list[int]]:
        app = self._context.app
        return {
            str(url): topics.get(self._changelog, [])
            for url, topics in app.router.table_metadata(self._table.name).items()
        }

    async def _get(self, url: str, query: dict[str, str]) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session,
                session.get(url, params=query, allow_redirects=False) as response,
            ):
                return response.status, await json_of(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return 503, {"error": f"the worker at {url} does not answer ({type(error).__name__})"}
