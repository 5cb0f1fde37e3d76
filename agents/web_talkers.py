"""The web view of top talkers."""

from __future__ import annotations

from typing import Any

from aiohttp.web import Response

from agents.context import Context
from agents.newest_table import NewestTable
from agents.web_peers import Peers, json_response
from agents.web_query import one_of
from flowstream.partial_blocks import partition_of
from flowstream.talker_results import FIELDS, STREAM, WAYS, seconds_text


class TalkerViews:
    """``/talkers?by=pair&rank=bytes&size=60``: the newest record, from whichever worker has it."""

    def __init__(self, context: Context, table: NewestTable, peers: Peers) -> None:
        self._table = table
        self._peers = peers
        self._partitions = context.settings.topics.partitions
        self._chosen = context.settings.talkers
        self._sizes = tuple(dict.fromkeys(seconds_text(round(w.size_s * 1e9)) for w in self._chosen.windows))

    async def newest(self, request: Any) -> Response:
        """Return the newest record; what is not asked for is the first of the settings."""
        by, rank = one_of(request, "by", self._chosen.by), one_of(request, "rank", self._chosen.rank)
        size = one_of(request, "size", self._sizes)
        partition = int(partition_of(int(WAYS[by].cube), self._partitions))
        if partition not in self._peers.held():
            return await self._peers.forward(request, partition)
        record = self._table.record(partition, STREAM, f"{size}|{by}|{rank}")
        if record is None:
            return json_response({"error": "no such window has been said yet"}, 404)
        # What does not name a key of this kind is left out; a figure that is not known stays, and is null.
        top = [{n: v for n, v in entry.items() if v is not None or n not in FIELDS} for entry in record["top"]]
        return json_response({**record, "top": top})
