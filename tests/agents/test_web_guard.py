"""What a worker's web server gives away, and to whom: no page but ours, and nothing of a source without the token."""

from __future__ import annotations

import ast
import logging
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import faust
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.serializers import codecs

from agents.app import create_app
from agents.bounded_http import ANSWER_BYTES_MAX, json_of
from agents.web_guard import bearer_token, guard
from flowstream.errors import SettingsError
from flowstream.setting_tables import Web
from flowstream.settings import Settings, load

TOKEN = "c0ffee-0123456789abcdef"
AGENTS = Path(__file__).resolve().parents[2] / "agents"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load(web={"token": TOKEN}, data_dir=tmp_path)


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """A server behind the guard whose pages say which they are."""

    async def page(request: web.Request) -> web.Response:
        return web.json_response({"page": request.path})

    app = web.Application(middlewares=[guard(TOKEN)])
    for path in ("/metrics", "/health", "/sources", "/sources/{address}"):
        app.router.add_get(path, page)
    async with TestClient(TestServer(app)) as asking:
        yield asking


@pytest.mark.parametrize(("analyses", "merged"), [(["sources"], set()), (["links"], {"/talkers", "/links"})])
async def test_a_worker_serves_these_pages_and_no_other(settings, analyses, merged) -> None:
    app: Any = create_app(settings.model_copy(update={"analyses": analyses}))
    app.web.init_server()
    served = {route.resource.canonical for route in app.web.web_app.router.routes()}
    assert served == {"/metrics", "/health", "/sources", "/sources/{address}", *merged}
    assert {route.method for route in app.web.web_app.router.routes()} == {"GET", "HEAD"}


async def test_no_codec_is_left_that_makes_objects_of_bytes(settings) -> None:
    codecs.codecs["pickle"] = codecs.pickle()
    app: Any = create_app(settings)
    assert set(codecs.codecs) == {"raw", "json"}
    for name in ("pickle", "pickle_restricted", "yaml", "binary"):
        with pytest.raises(KeyError):
            faust.serializers.codecs.loads(name, pickle.dumps({"a": 1}))
    topics = [channel for agent in app.agents.values() for channel in [agent.channel]]
    tables = list(app.tables.values())
    assert (len(topics), len(tables)) == (2, 1)
    assert {t.schema.value_serializer for t in topics} | {t.schema.key_serializer for t in topics} == {"raw"}
    assert {t.value_serializer for t in tables} | {t.key_serializer for t in tables} == {"raw"}
    changelogs = [t.changelog_topic for t in tables]
    assert {t.value_serializer for t in changelogs} | {t.key_serializer for t in changelogs} == {"raw"}


@pytest.mark.parametrize(
    "page", ["/sources", "/sources/10.0.0.1", "/sources?local=1", "/", "/table", "/metrics/", "/x"]
)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
async def test_without_the_token_every_page_but_two_is_refused(client, page, authorization) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await client.get(page, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert TOKEN not in await answer.text()


async def test_metrics_and_health_are_open_and_the_token_opens_the_rest(client) -> None:
    for page in ("/metrics", "/health"):
        assert (await client.get(page)).status == 200
    for scheme in ("Bearer", "bearer"):
        for page in ("/sources", "/sources/10.0.0.1"):
            assert (await client.get(page, headers={"Authorization": f"{scheme} {TOKEN}"})).status == 200
        assert (await client.get("/x", headers={"Authorization": f"{scheme} {TOKEN}"})).status == 404


async def test_without_a_token_in_the_settings_none_is_asked_for() -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[guard("")])
    app.router.add_get("/sources", page)
    async with TestClient(TestServer(app)) as asking:
        assert (await asking.get("/sources")).status == 200


def test_a_token_comes_from_the_settings_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert bearer_token(Web(token=TOKEN)) == TOKEN  # type: ignore[arg-type]
    assert bearer_token(Web(token_file=str(tmp_path / "token"))) == TOKEN
    assert bearer_token(Web()) == ""


@pytest.mark.parametrize("content", ["", "\n", "short", "with a blank in the middle", "é" * 20, "a" * 600])
def test_what_is_no_token_is_refused_by_the_name_of_the_setting_and_not_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(SettingsError, match=r"^setting web\.token_file = .*openssl rand") as raised:
        bearer_token(Web(token_file=str(tmp_path / "token")))
    assert not content.strip() or content not in str(raised.value)
    if content:
        with pytest.raises(SettingsError, match=r"^setting web\.token: a token is"):
            bearer_token(Web(token=content))  # type: ignore[arg-type]


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^setting web\.token_file = .*gone': No such file"):
        bearer_token(Web(token_file=str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("127.0.0.1", "", 0), ("::1", "", 0), ("localhost", "", 0), ("0.0.0.0", TOKEN, 0), ("0.0.0.0", "", 1),
     ("10.1.2.3", "", 1), ("::", "", 1), ("collector.example", "", 1)],
)  # fmt: skip
async def test_an_open_server_is_warned_of_in_one_line(settings, caplog, host, token, warned) -> None:
    caplog.set_level(logging.WARNING)
    create_app(settings.model_copy(update={"web": Web(host=host, token=token)}))
    lines = [r.getMessage() for r in caplog.records if r.name == "agents.web_guard"]
    assert [("web.token" in line, host in line) for line in lines] == [(True, True)] * warned


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a": "' + b"x" * ANSWER_BYTES_MAX + b'"}', b"<html>", b""])
async def test_another_server_s_answer_is_bounded(body: bytes) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server, aiohttp.ClientSession() as session, session.get(server.make_url("/")) as got:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, callers take it for no answer
            await json_of(got)


def test_every_kafka_client_is_made_with_the_options_of_one_place() -> None:
    bare = {}
    for path in AGENTS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called.startswith("AIOKafka"):
                starred = [ast.unparse(k.value) for k in node.keywords if k.arg is None]
                bare.setdefault(path.name, []).append(any("client_options(" in s for s in starred))
    # The local broker is asked whether it answers without settings: it is on loopback, and in plain text.
    assert bare.pop("kafka_node.py") == [False]
    assert len(bare) >= 4
    assert {name for name, made in bare.items() if not all(made)} == set()
