"""The web view of top talkers."""

from __future__ import annotations

from typing import Any

from aiohttp.web import Response

from agents.context import Context
from agents.talkers_table import TalkersTable
from agents.web_peers import Peers, json_response
from flowstream.partial_blocks import partition_of
from flowstream.talker_results import WAYS, seconds_text

LENGTH_MAX = 40  # characters of a mistake that are said back


class TalkerViews:
    """``/talkers?by=pair&rank=bytes&size=60``: the newest record, from whichever worker has it."""

    def __init__(self, context: Context, table: TalkersTable, token: str = "") -> None:
        self._table = table
        self._partitions = context.settings.topics.partitions
        self._peers = Peers(context, table.table, token)
        chosen = context.settings.talkers
        sizes = {seconds_text(round(w.size_s * 1e9)): round(w.size_s * 1e9) for w in chosen.windows}
        self._allowed = {"by": chosen.by, "rank": chosen.rank, "size": tuple(sizes)}
        self._sizes = sizes

    async def newest(self, request: Any) -> Response:
        """Return the newest record; what is not asked for is the first of the settings."""
        asked = {name: request.query.get(name, allowed[0]) for name, allowed in self._allowed.items()}
        for name, allowed in self._allowed.items():
            if asked[name] not in allowed:
                return json_response({"error": f"{name}={asked[name][:LENGTH_MAX]}: one of {', '.join(allowed)}"}, 400)
        by, rank, size = asked["by"], asked["rank"], asked["size"]
        partition = int(partition_of(int(WAYS[by].cube), self._partitions))
        if partition not in self._peers.held():
            return await self._peers.forward(request, partition)
        record = self._table.record(partition, self._sizes[size], by, rank)
        if record is None:
            return json_response({"error": "no such window has been said yet"}, 404)
        top = [{name: v for name, v in entry.items() if v is not None} for entry in record["top"]]
        return json_response({**record, "top": top})
