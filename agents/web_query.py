"""Parameters of requests: what is wrong with one is said in a line, as JSON, with status 400."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp.web import Response

from agents.web_peers import json_response

SAID_BACK = 40  # characters of a mistake
COUNT_MAX = 1000
_NUMBER = re.compile(r"[0-9]{1,19}")


class ParameterError(ValueError):
    """A parameter that cannot be, in one line for whoever asked."""


def page(view: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Return a view as Faust's web server wants it, which answers 400 to parameters that cannot be."""

    async def answered(_self: Any, request: Any, **parts: str) -> Response:
        try:
            return await view(request, **parts)
        except ParameterError as error:
            return json_response({"error": str(error)}, 400)

    return answered


def number(request: Any, name: str) -> int | None:
    """Return a whole number of up to 19 digits, None where it is not asked for."""
    raw = request.query.get(name)
    if raw is None:
        return None
    if not _NUMBER.fullmatch(raw):
        raise ParameterError(f"{name}={raw[:SAID_BACK]}: not a whole number of up to 19 digits")
    return int(raw)


def count(request: Any, name: str, usual: int) -> int:
    """Return how many are asked for: one or more, and ``COUNT_MAX`` at the most."""
    asked = number(request, name)
    if asked == 0:
        raise ParameterError(f"{name}=0: not one or more")
    return min(usual if asked is None else asked, COUNT_MAX)


def one_of(request: Any, name: str, allowed: Sequence[str], usual: str | None = None) -> str:
    """Return which of ``allowed`` is asked for, by default the usual one, or the first."""
    asked: str = request.query.get(name, allowed[0] if usual is None else usual)
    if asked not in allowed:
        raise ParameterError(f"{name}={asked[:SAID_BACK]}: one of {', '.join(allowed)}")
    return asked
