"""Registers our schemas with a Confluent-compatible registry, where one is configured."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp

from agents.bounded_http import json_of
from flowstream import schemas
from flowstream.errors import BrokerError
from flowstream.settings import Settings
from flowstream.topics import specs

#: A hostile batch may name any number of ids.
IDS_PER_BATCH = 64


async def register_schemas(settings: Settings) -> dict[str, int]:
    """Register the schema of each topic under ``<topic>-value``; return ids by schema name, {} without registry.

    Raises BrokerError where the registry cannot be reached or refuses a schema.
    """
    url = settings.output.schema_registry_url.get_secret_value().rstrip("/")
    if not url or settings.output.format == "json":
        return {}
    ids: dict[str, int] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for spec in specs(settings):
            if spec.schema in {"flow_block", "links", "replays"}:
                continue  # ours alone: always single-object
            ids[spec.schema] = await _register(session, url, spec.name, spec.schema)
    return ids


async def _register(session: aiohttp.ClientSession, url: str, topic: str, schema: str) -> int:
    shown = re.sub(r"//[^/@]*@", "//", url)  # without a user and password
    body = {"schema": (schemas.directory() / f"{schema}.v1.avsc").read_text("utf-8"), "schemaType": "AVRO"}
    try:
        async with session.post(f"{url}/subjects/{topic}-value/versions", json=body) as response:
            answer: Any = await json_of(response)
            if response.status != 200:
                raise BrokerError(f"schema registry {shown} refuses {topic}-value: {_said(answer)}")
            return int(answer["id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BrokerError(
            f"schema registry {shown} cannot be reached ({type(error).__name__}); check output.schema_registry_url"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BrokerError(
            f"schema registry {shown} answers what no registry would; check output.schema_registry_url"
        ) from error


def _said(answer: Any) -> str:
    message = answer.get("message", answer) if isinstance(answer, dict) else answer
    return " ".join(str(message).split())[:500]


class WriterSchemas:
    """The schemas that producers of framed Avro messages registered, fetched by id when first seen."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.output.schema_registry_url.get_secret_value().rstrip("/")
        self._absent: set[int] = set()
        self.known: dict[int, Any] = {}

    async def fetch(self, ids: set[int]) -> None:
        """Get what is not known of ``ids``; one that the registry does not have is not asked for again.

        Raises BrokerError where the registry cannot be reached: what it would have said is not known then.
        """
        wanted = sorted(ids - self.known.keys() - self._absent)[:IDS_PER_BATCH]
        if not wanted or not self._url:
            return
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for number in wanted:
                await self._fetch(session, number)

    async def _fetch(self, session: aiohttp.ClientSession, number: int) -> None:
        try:
            async with session.get(f"{self._url}/schemas/ids/{number}") as response:
                answer: Any = await json_of(response)
                if response.status == 404:
                    self._absent.add(number)
                    return
                response.raise_for_status()
            self.known[number] = json.loads(answer["schema"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BrokerError(f"the schema registry does not answer ({type(error).__name__})") from error
        except (ValueError, TypeError, KeyError):
            self._absent.add(number)  # a schema that is not Avro: its messages are rejected
