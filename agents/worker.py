"""Runs the Faust worker in this process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import logging
import multiprocessing
import sys
from collections.abc import Callable

from agents.admin import changelogs, create_topics, list_topics, wanted
from agents.app import ALL_AGENTS, create_app
from agents.control import state_to_run
from agents.ending import BoundedWorker
from agents.registry import register_schemas
from agents.web_guard import bearer_token
from flowstream.app_state import Role
from flowstream.errors import BrokerError, SettingsError
from flowstream.kernel_cache import note_of_compiled
from flowstream.setting_tables import MERGED
from flowstream.settings import Settings
from flowstream.warmup import warm_up

M_ARENA_MAX = -8  # of glibc's malloc.h


def preflight(settings: Settings, agents: tuple[str, ...], role: Role = "live") -> None:
    """Refuse to start where the broker, a topic or the registry is missing: Faust would wait, or create topics.

    And where the app must not run: a replay, promotion or reset stands in the way.
    """
    bearer_token(settings.web)
    existing = asyncio.run(list_topics(settings))
    missing = [spec.name for spec in wanted(settings) if spec.name not in existing]
    if missing:
        raise BrokerError(f"topics are missing: {', '.join(missing)}; flowstream topics creates them")
    asyncio.run(state_to_run(settings, role))
    if {"analyses", "merges"} & set(agents) and settings.kafka.declare_topics:
        # Faust makes them too, but may ask for their partitions before the broker knows them, and end.
        asyncio.run(create_topics(settings, changelogs(settings)))
    asyncio.run(register_schemas(settings))  # again at start, for the ids: here a refusal is one line


def _share_one_heap() -> None:
    """Have all threads allocate from one heap (glibc only; elsewhere nothing happens).

    Columns are made in one thread and freed in another. With a heap per thread, each keeps what was freed in it:
    a third more memory at full rate, and a tenth more time.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)


def compile_apart(work: Callable[[Settings], None], settings: Settings) -> None:
    """Have another process compile the kernels first, unless it is noted that they are kept from an earlier start.

    The compiler keeps what it has made for as long as its process lives: 240 MB, which loading the kernels that it
    kept does not take. Where that process fails, they are compiled in this one, as they are needed.
    """
    note = note_of_compiled(_kernels_of(settings))
    if note is None or note.exists():
        return
    handed_on = Settings.model_construct(**dict(settings))  # of a class that the other process knows, too
    compiling = multiprocessing.get_context("spawn").Process(target=work, args=(handed_on,), daemon=True)
    compiling.start()
    compiling.join()
    if compiling.exitcode == 0:
        note.touch()


def _kernels_of(settings: Settings) -> str:
    """Return a short name of the settings that decide which kernels there are: most apps have the same ones."""
    told = settings.model_dump_json(include={"analyses": True, "distances": True, "output": {"format"}})
    formats = ",".join(sorted({chosen.format for chosen in settings.inputs}))
    return hashlib.sha256(f"{formats} {told}".encode()).hexdigest()[:12]


def run_worker(settings: Settings, agents: tuple[str, ...], log_level: str = "warning", role: Role = "live") -> None:
    """Run until SIGTERM, SIGINT or a crash; exits the process with the worker's exit code, which is 1 of a crash."""
    unknown = set(agents) - set(ALL_AGENTS)
    if unknown or not agents:
        raise SettingsError(f"--agents {','.join(agents)}: there is {' and '.join(ALL_AGENTS)}")
    if set(agents) == {"merges"} and not settings.is_merging:
        raise SettingsError(f"--agents merges: nothing is merged; add {', '.join(sorted(MERGED))} to analyses")
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise SettingsError(f"--log-level {log_level}: one of debug, info, warning, error")
    _share_one_heap()
    preflight(settings, agents, role)
    compile_apart(warm_up, settings)
    warm_up(settings)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr)
    app = create_app(settings, agents, role)
    # Batches make many objects that die together and hardly any cycle: the collector's default of a young
    # collection every 700 objects costs a tenth of the time. What lives for ever need not be looked at again.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    BoundedWorker(app, loglevel=level, override_logging=False, quiet=True).run()
