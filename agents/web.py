"""The worker's web views: metrics, health, and the table of sources.

Top talkers are in ``agents/web_talkers.py``, link use is in ``agents/web_links.py``.

A partition's sources are served by the worker that holds it. A request for the others is passed on to their
workers, found in the assignment that Faust's leader hands out.
"""

from __future__ import annotations

from typing import Any

from aiohttp.web import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agents.context import Context
from agents.newest_table import NewestTable
from agents.tables import Tables
from agents.web_links import LinkViews
from agents.web_peers import Peers, json_response
from agents.web_query import ParameterError, count, number, one_of, page
from agents.web_talkers import TalkerViews
from flowstream.batch import address_words, packed_to_words
from flowstream.ingest import route
from flowstream.source_blocks import FIGURES, SourceBlock


def add_views(context: Context, tables: Tables | None, newest: NewestTable | None = None, token: str = "") -> None:
    """Put our pages on the app's web server; ``token`` is what the workers show each other."""
    app = context.app
    views = None if tables is None else SourceViews(context, tables, token)

    async def metrics(_self: Any, _request: Any) -> Response:
        if views is not None:
            views.count_entries()
        text = generate_latest(context.metrics.registry)
        return Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_self: Any, _request: Any) -> Response:
        silent = app.heard.silence_s() > context.settings.kafka.session_timeout_s
        status = "no-broker" if silent else "rebalancing" if app.rebalancing else "ok"
        return json_response({"status": status, "assigned": _assigned(app)}, 503 if silent else 200)

    app.page("/metrics")(metrics)
    app.page("/health")(health)
    if views is not None:
        app.page("/sources")(page(views.top))
        app.page("/sources/{address}")(page(views.one))
    if newest is not None:
        peers = Peers(context, newest.table, token)
        app.page("/talkers")(page(TalkerViews(context, newest, peers).newest))
        app.page("/links")(page(LinkViews(context, newest, peers).newest))


class SourceViews:
    """``/sources`` and ``/sources/<address>``."""

    def __init__(self, context: Context, tables: Tables, token: str = "") -> None:
        self._context = context
        self._tables = tables
        self._peers = Peers(context, tables.sources_table, token)

    def count_entries(self) -> None:
        """Bring the metrics of the tables up to date."""
        self._tables.count_entries(self._peers.held())

    async def one(self, request: Any, address: str) -> Response:
        """Return a source's windows, newest first: ``?window=<start ns>`` for one, ``?limit=N`` for more."""
        try:
            words = packed_to_words(b"".join(w.to_bytes(8, "big") for w in address_words(address)))
        except ValueError as error:
            raise ParameterError(str(error)) from error
        window, limit = number(request, "window"), count(request, "limit", 1)
        partition = int(route(words, self._context.settings.topics.partitions)[0])
        if partition not in self._peers.held():
            return await self._peers.forward(request, partition)
        found = []
        for start, p in self._tables.windows(partition):
            if window in (None, start):
                row = self._lookup(p, start, words)
                found.extend([row] if row is not None else [])
            if len(found) >= limit:
                break
        return json_response({"address": address, "windows": found}, 200 if found else 404)

    async def top(self, request: Any) -> Response:
        """Return the top sources of a window: ``?window=<start ns>&top=N&by=bytes``.

        By default of the newest window, 10, by ``estimated_bytes``; any figure of the table of sources will do. Where
        it is not known, an estimate of too few samples say, a source comes last.
        ``missing_partitions`` lists those whose worker did not answer: their sources are left out.
        """
        by = one_of(request, "by", FIGURES, "estimated_bytes")
        window, top = number(request, "window"), count(request, "top", 10)
        if request.query.get("local") == "1":
            return json_response(self._own(window, top, by))
        parts = [self._own(window, top, by), *await self._peers.elsewhere(request)]
        window = max((p["window_start_ns"] for p in parts if p["window_start_ns"] is not None), default=None)
        heard = {partition for part in parts for partition in part["partitions"]}
        missing = [p for p in range(self._context.settings.topics.partitions) if p not in heard]
        if window is None:
            return json_response({"error": "no window has closed yet", "missing_partitions": missing}, 404)
        rows = [row for part in parts if part["window_start_ns"] == window for row in part["sources"]]
        rows.sort(key=lambda r: (r[by] is None, -(r[by] or 0), address_words(r["src_addr"] or "::")))
        return json_response(
            {"window_start_ns": window, "by": by, "missing_partitions": missing, "sources": rows[:top]}
        )

    def _own(self, window: int | None, top: int, by: str) -> dict[str, Any]:
        """Return what the partitions held here say of a window, by default of their newest."""
        # The table keeps what it held of partitions that have moved away: their new worker answers for them.
        held = self._peers.held()
        windows = [(start, p) for start, p in self._tables.windows() if p in held]
        if window is None:
            window = max((start for start, _ in windows), default=None)
        rows: list[dict[str, Any]] = []
        for start, p in windows:
            block = self._tables.sources(p, start) if start == window else None
            rows.extend([] if block is None else block.top(top, by))
        return {"window_start_ns": window, "by": by, "partitions": sorted(held), "sources": rows}

    def _lookup(self, partition: int, start: int, words: Any) -> dict[str, Any] | None:
        block: SourceBlock | None = self._tables.sources(partition, start)
        row = None if block is None else block.lookup((int(words[0, 0]), int(words[0, 1])))
        return None if row is None else {"window_start_ns": start, **row}


def _assigned(app: Any) -> dict[str, list[int]]:
    assigned: dict[str, list[int]] = {}
    for tp in sorted(app.consumer.assignment()):
        assigned.setdefault(tp.topic, []).append(tp.partition)
    return assigned
