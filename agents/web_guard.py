"""Who may ask the web server what: no page but ours, and a bearer token for all but metrics and health."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from faust.web.drivers.aiohttp import Web as AiohttpWeb

from flowstream.errors import SettingsError
from flowstream.setting_tables import Web

#: What is served without a token: what Prometheus and a supervisor ask for, in which there is no address.
OPEN_PAGES = frozenset({"/metrics", "/health"})
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_FORM = "a token is 16 to 512 characters of A-Z a-z 0-9 . _ ~ + / = -; openssl rand -hex 32 makes one"

log = logging.getLogger(__name__)


class Pages(AiohttpWeb):
    """Faust's web server without Faust's own pages: tables, router, statistics, graph, index."""

    default_blueprints = production_blueprints = debug_blueprints = optional_blueprints = ()


def bearer_token(settings: Web) -> str:
    """Return the token that is asked for, "" for none; SettingsError where it is not one."""
    if settings.token_file:
        path = Path(settings.token_file)
        try:
            with path.open("rb") as file:
                token = file.read(1024).decode("ascii", "replace").strip()
        except OSError as error:
            raise SettingsError(f"setting web.token_file = {settings.token_file!r}: {error.strerror}") from error
        where = f"setting web.token_file = {settings.token_file!r}"
    else:
        token, where = settings.token.get_secret_value(), "setting web.token"
        if not token:
            return ""
    if not _TOKEN.fullmatch(token):
        raise SettingsError(f"{where}: {_FORM}")
    return token


def authorization(token: str) -> dict[str, str]:
    """Return the headers that carry a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def guard(token: str) -> Any:
    """Return the middleware that answers 401 to a request without the token, whatever page it asks for."""
    wanted = token.encode()

    @web.middleware
    async def authorised(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if wanted and request.path not in OPEN_PAGES:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            # The comparison takes as long whatever is wrong: its time tells nothing about the token.
            is_known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), wanted)
            if scheme.lower() != "bearer" or not is_known:
                return web.json_response(
                    {"error": "a bearer token is asked for: web.token of the settings"},
                    status=401,
                    headers={"WWW-Authenticate": 'Bearer realm="flowstream"'},
                )
        return await handler(request)

    return authorised


def warn_of_exposure(settings: Web, token: str) -> None:
    """Say it once where others than this machine are told the table of sources without being asked for a token."""
    if not token and not _is_loopback(settings.host):
        log.warning(
            "web.host = %s: anyone who reaches port %d may read the table of sources; set web.token or web.token_file",
            settings.host,
            settings.port,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
