"""Answers of other servers, read up to a bound: a server that was taken over is to cost no more than that."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

#: A page of a thousand interfaces with the longest names takes two thirds of it, schemas of registries less.
ANSWER_BYTES_MAX = 2 << 20


async def json_of(response: aiohttp.ClientResponse) -> Any:
    """Return a response's JSON; ValueError where it is none, is nested absurdly, or is over the bound."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise ValueError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("an answer that is nested too deeply") from error
