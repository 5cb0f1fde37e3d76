"""What the control topic says of an app, and the settings of a replay."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.analysis import Bounds
from flowstream.app_state import (
    AppState,
    Role,
    Start,
    State,
    lines_of_settings,
    parse_set,
    refusal,
    settings_of_replay,
)
from flowstream.errors import SettingsError, StateError
from flowstream.settings import load
from flowstream.topics import name, specs, stream_of

times = st.none() | st.integers(0, 2**62)
states = st.builds(
    AppState,
    app=st.text("abc-.", min_size=1),
    state=st.sampled_from(get_args(State)),
    name=st.text("ab"),
    live_app=st.text("ab"),
    from_raw=st.booleans(),
    settings=st.lists(st.text("a.=1")).map(tuple),
    digest=st.text("0f"),
    starts=st.lists(st.builds(Start, st.text("t"), st.integers(0, 9), st.integers(0, 2**62))).map(tuple),
    bounds=st.dictionaries(st.integers(0, 9), st.builds(Bounds, times, times, times)),
)


@given(states)
def test_a_record_decodes_to_what_was_encoded(state: AppState) -> None:
    assert AppState.decode(state.encode()) == state


@given(st.binary(max_size=40))
def test_garbage_is_no_record(raw: bytes) -> None:
    with pytest.raises(StateError):
        AppState.decode(raw)


def test_in_each_state_an_app_runs_in_one_role_at_most_and_without_a_record_as_live() -> None:
    allowed = {
        (state, role)
        for state, role in product(get_args(State), get_args(Role))
        if refusal("a", AppState("a", state, name="b"), role) is None
    }
    assert allowed == {("running", "replay"), ("promoting", "cut"), ("promoted", "live"), ("moved", "live")}
    assert [role for role in get_args(Role) if refusal("a", None, role) is None] == ["live", "cut"]


def test_a_refusal_is_one_line_and_says_what_to_do() -> None:
    for state, role in product(get_args(State), get_args(Role)):
        said = refusal(
            "a", AppState("a", state, name="b", settings=("distances.scaling=log", 'analyses=["sources"]')), role
        )
        assert said is None or ("\n" not in said and len(said) > 20)
        if said is not None and state == "replaced":
            assert "app=a-b, topics.partials_suffix=b, distances.scaling=log" in said


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flowstream.toml"
    path.write_text('app = "live"\n[distances]\nsize_s = 6.0\ntop_k = 3\n[topics]\nprefix = "net"\npartitions = 2\n')
    return path


def test_a_replay_has_the_settings_of_its_app_but_for_its_name_its_topics_and_what_is_set(file: Path) -> None:
    live, made = load(file), settings_of_replay(file, "tuned", ("distances.scaling=log",), from_raw=False)
    assert (made.app, made.topics.suffix, made.topics.prefix, made.topics.partitions) == (
        "live-tuned",
        "tuned",
        "net",
        2,
    )
    assert made.distances == live.distances.model_copy(update={"scaling": "log"})
    assert name(made, "elephants") == "net.elephants.v1.tuned"
    shared = {"flows", "links", "topology", "replays"}
    assert {s for s in (stream_of(live, t.name) for t in specs(made)) if name(made, s) == name(live, s)} == shared
    raw = settings_of_replay(file, "tuned", (), from_raw=True)
    assert name(raw, "flows") == "net.flows.v1.tuned"
    assert name(raw, "links") == name(live, "links")


def test_a_suffix_does_not_hide_which_stream_a_topic_is(file: Path) -> None:
    live, made = load(file), settings_of_replay(file, "tuned", (), from_raw=True)
    for spec in specs(made):
        assert stream_of(live, spec.name) == stream_of(made, spec.name) != None  # noqa: E711
    assert stream_of(live, "other.elephants.v1.tuned") is None
    assert stream_of(live, "net.elephants") is None


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("distances", "section.key=value"),
        ("app=other", "its own app"),
        ("topics.partitions=8", "its own topics"),
        ("kafka.bootstrap=x:1", "its own kafka"),
        ("sampling.default_rate=64", "--from-raw"),
        ("time.out_of_orderness_s=9", "--from-raw"),
        ("distances.scaling=cubic", "distances.scaling = 'cubic'"),
        ("distances.scalin=log", "distances.scalin: there is no such setting"),
        ("distances.size_s=0.3", "not a multiple"),
    ],
)
def test_what_cannot_be_set_is_said_in_one_line(file: Path, assignment: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of_replay(file, "tuned", (assignment,), from_raw=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_ingest_applies_can_be_set_where_it_is_done_again(file: Path) -> None:
    made = settings_of_replay(file, "tuned", ("sampling.default_rate=64",), from_raw=True)
    assert made.sampling.default_rate == 64


def test_the_lines_of_a_promoted_app_are_toml_that_gives_its_settings(file: Path, tmp_path: Path) -> None:
    assignments = (
        "distances.scaling=log", 'analyses=["sources","elephants"]', "elephants.threshold=0.2", "time.pane_s=0.5",
        'sampling.exporters={"10.0.0.1":64}',
    )  # fmt: skip
    state = AppState("live-tuned", "promoted", "tuned", "live", from_raw=True, settings=assignments)
    set_there = tomllib.loads(lines_of_settings(state))
    assert set_there["app"] == "live-tuned"
    merged = load(file, **set_there)
    replayed = settings_of_replay(file, "tuned", assignments, from_raw=True)
    wanted = replayed.model_dump()
    assert merged.model_dump() == wanted | {"topics": wanted["topics"] | {"suffix": "", "partials_suffix": "tuned"}}


def test_a_value_may_be_json_or_text() -> None:
    assert parse_set(("a.b=1.5", "a.c=log", 'd=["x"]', "a.e.f=true")) == {
        "a": {"b": 1.5, "c": "log", "e": {"f": True}}, "d": ["x"],
    }  # fmt: skip


def test_the_schema_has_the_fields_of_the_record() -> None:
    from flowstream import schemas

    assert [f["name"] for f in schemas.load("replays")["fields"]] == [f.name for f in msgspec.structs.fields(AppState)]
