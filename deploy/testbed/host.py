"""What runs in a host's namespace beside iperf3: a sink for short flows, the short flows of a run, a port scan.

python -m deploy.testbed.host sink
python -m deploy.testbed.host send <leaf> <seed> <duration_s> <begin, seconds since the epoch>
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time

from deploy.testbed import plan
from deploy.testbed.plan import Run
from deploy.testbed.schedule import SCAN_PORTS_PER_S, SINK_PORT, Mouse, Scan, schedule

PATIENCE_S = 10.0


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass
        writer.close()
        await writer.wait_closed()


async def sink() -> None:
    """Take in whatever is sent to the sink's port, until told to end."""
    server = await asyncio.start_server(_swallow, "0.0.0.0", SINK_PORT)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


async def _mouse(mouse: Mouse, begin: float) -> None:
    await asyncio.sleep(max(0.0, begin + mouse.at_s - time.time()))
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(mouse.dst, SINK_PORT, local_addr=(mouse.src, 0))
            writer.write(bytes(mouse.size_bytes))
            await writer.drain()
            writer.close()
            await writer.wait_closed()


async def _scan(scan: Scan, begin: float) -> None:
    await asyncio.sleep(max(0.0, begin + scan.at_s - time.time()))
    started = time.monotonic()
    for number in range(scan.ports):
        await asyncio.sleep(max(0.0, started + number / SCAN_PORTS_PER_S - time.monotonic()))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(scan.dst, 10_000 + number, local_addr=(scan.src, 0))
                writer.close()


async def send(leaf: int, run: Run, begin: float) -> None:
    """Send what this host has to send besides iperf3, counted from ``begin``."""
    wanted = schedule(run)
    own = set(plan.addresses(leaf))
    jobs = [_mouse(mouse, begin) for mouse in wanted.mice if mouse.src in own]
    jobs += [_scan(wanted.scan, begin)] if wanted.scan.src in own else []
    await asyncio.gather(*jobs)


def main() -> None:
    """Run as the arguments say."""
    if sys.argv[1] == "sink":
        asyncio.run(sink())
        return
    leaf, seed, duration_s = map(int, sys.argv[2:5])
    asyncio.run(send(leaf, Run(seed=seed, duration_s=duration_s), float(sys.argv[5])))


if __name__ == "__main__":
    main()
