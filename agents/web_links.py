"""The web view of link use: which links are fullest now."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp.web import Response

from agents.context import Context
from agents.newest_table import NewestTable, decoded
from agents.web_peers import Peers, json_response
from agents.web_query import count, one_of
from flowstream.link_results import PERCENTILES, USE
from flowstream.newest_links import BY, Wanted, newest_links
from flowstream.partial_blocks import partition_of
from flowstream.partials import Cube

COUNT = 20


class LinkViews:
    """``/links?by=share&exporter=leaf1``: the newest interval of interfaces, from whichever worker has it."""

    def __init__(self, context: Context, table: NewestTable, peers: Peers) -> None:
        self._table = table
        self._peers = peers
        self._partition = int(partition_of(int(Cube.INTERFACE), context.settings.topics.partitions))
        self._is_analysed = "links" in context.settings.analyses

    async def newest(self, request: Any) -> Response:
        """Return the fullest interfaces, and how many there are."""
        exporter, interface = (request.query.get(name, "") for name in ("exporter", "interface"))
        wanted = Wanted(exporter, interface, one_of(request, "by", BY), count(request, "count", COUNT))
        if not self._is_analysed:
            return json_response({"error": "link use is not computed: analyses does not name links"}, 404)
        if self._partition not in self._peers.held():
            return await self._peers.forward(request, self._partition)
        uses, percentiles = (self._table.values(self._partition, stream) for stream in (USE, PERCENTILES))
        if not uses:
            return json_response({"error": "no interval has been told yet"}, 404)
        # There may be tens of thousands of interfaces, and heartbeats have to go on.
        found, links = await asyncio.to_thread(
            lambda: newest_links(map(decoded, uses), map(decoded, percentiles), wanted)
        )
        if not found:
            return json_response({"error": "no such interface: never seen, or without traffic now"}, 404)
        return json_response({"by": wanted.by, "interfaces": found, "links": links})
