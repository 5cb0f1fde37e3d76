"""A Confluent-compatible schema registry in this process: as much of its REST interface as a producer needs.

Ids are given per schema, not per subject, as the real one does it. Schemas are checked by fastavro.
"""

from __future__ import annotations

import asyncio
import json
import threading
from types import TracebackType
from typing import Any, Self

import fastavro
from aiohttp import web

FIRST_ID = 100_001  # above 16 bits, so that a framing with a short id would show


class RegistryStub:
    """Serves on a free port of loopback between ``with`` and its end; ``refused`` subjects are incompatible."""

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, list[int]] = {}
        self.refused: set[str] = set()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/subjects/{subject}/versions", self._register)
        app.router.add_get("/subjects/{subject}/versions", self._versions)
        app.router.add_get("/schemas/ids/{id}", self._by_id)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return runner

    async def _register(self, request: web.Request) -> web.Response:
        subject, body = request.match_info["subject"], await request.json()
        if body.get("schemaType", "AVRO") != "AVRO":
            return _answer(422, 42201, "Invalid schema type")
        try:
            fastavro.parse_schema(json.loads(body["schema"]))
        except (KeyError, ValueError, fastavro.schema.SchemaParseException):
            return _answer(422, 42201, "Invalid schema")
        if subject in self.refused:
            return _answer(409, 409, f"Schema being registered is incompatible\nfor subject {subject!r}")
        known = {schema: number for number, schema in self.schemas.items()}
        number = known.get(body["schema"], FIRST_ID + len(known))
        self.schemas[number] = body["schema"]
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return web.json_response({"id": number})

    async def _versions(self, request: web.Request) -> web.Response:
        versions = self.subjects.get(request.match_info["subject"])
        if versions is None:
            return _answer(404, 40401, "Subject not found")
        return web.json_response(list(range(1, len(versions) + 1)))

    async def _by_id(self, request: web.Request) -> web.Response:
        schema = self.schemas.get(int(request.match_info["id"]))
        return _answer(404, 40403, "Schema not found") if schema is None else web.json_response({"schema": schema})


def _answer(status: int, code: int, message: str) -> web.Response:
    body: dict[str, Any] = {"error_code": code, "message": message}
    return web.json_response(body, status=status, content_type="application/vnd.schemaregistry.v1+json")
