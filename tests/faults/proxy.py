"""A network between workers and broker that can be slowed down and cut: a TCP proxy, in a thread of its own.

A cut is not a connection refused: what is sent while it lasts waits and arrives when it heals, in order, and ends of
connections are not heard of either. That is what TCP makes of lost packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

from agents.kafka_node import HOST, free_port

CHUNK_BYTES = 8 << 10
#: Chunks of a connection that are on their way in a direction. All connections queue for one link, so what these
#: hold is what a heartbeat waits for behind a large fetch: about 0.2 s for each busy connection at 3 Mbit/s.
CHUNKS_ON_THE_WAY = 8


class _Link:
    """One direction of the wire, shared by all connections."""

    def __init__(self) -> None:
        self.free_at_s = 0.0

    def due_s(self, size: int, bytes_per_s: float, delay_s: float) -> float:
        """Return when so many bytes arrive that are sent now, behind what was sent before."""
        now = time.monotonic()
        self.free_at_s = max(now, self.free_at_s) + (size / bytes_per_s if bytes_per_s else 0.0)
        return self.free_at_s + delay_s


class Proxy:
    """Forwards ``port`` to ``target_port``; ``delay_s`` each way and ``bytes_per_s`` (0: no limit) may change."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self._target_port = target_port
        self._links = _Link(), _Link()
        self._whole: asyncio.Event  # set while the wire is not cut
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"{HOST}:{self.port}"

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self) -> None:
        """Let everything through again, what waited first."""
        self._loop.call_soon_threadsafe(self._whole.set)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._whole = asyncio.Event()
        self._whole.set()
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            there = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._forward(reader, there[1], self._links[0]), self._forward(there[0], writer, self._links[1])
            )

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_ON_THE_WAY)
        sending = asyncio.create_task(self._send(waiting, writer))
        try:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(CHUNK_BYTES):
                    await waiting.put((link.due_s(len(chunk), self.bytes_per_s, self.delay_s), chunk))
            await waiting.put((0.0, b""))
            await sending
        finally:
            sending.cancel()
            writer.close()

    async def _send(self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """Write chunks when they are due; nothing while the wire is cut, the end of the connection neither."""
        while True:
            due_s, chunk = await waiting.get()
            await asyncio.sleep(due_s - time.monotonic())
            await self._whole.wait()
            if not chunk:
                return
            with contextlib.suppress(OSError):
                writer.write(chunk)
                await writer.drain()
