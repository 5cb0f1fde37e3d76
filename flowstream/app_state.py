"""What the control topic says of an app: whether it may run, with which settings, between which bounds.

    live app      (nothing) --in place--> moving --> moved
                  (nothing) --promote--> promoting --> replaced
    its replay    running   --promote--> promoting --> promoted, and from then on a live app itself

The record of an app is written before what it speaks of is touched, so that a command that was cut off can be run
again, and no worker runs on half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from flowstream import schemas
from flowstream.analysis import Bounds
from flowstream.errors import SchemaError, SettingsError, StateError
from flowstream.settings import Settings, load

State = Literal["running", "promoting", "promoted", "replaced", "moving", "moved"]
#: How a worker runs: as the live app, as a replay, or up to the cut of a promotion.
Role = Literal["live", "replay", "cut"]

#: What a replay cannot set: where it reads and writes is what makes it a replay of this app.
_FIXED = ("app", "kafka", "topics", "web", "data_dir")
#: What ingest applies before the flows topic is written: set otherwise, it would change nothing.
_OF_INGEST = (
    "inputs",
    "sampling",
    "time.out_of_orderness_s",
    "time.idle_after_s",
    "time.event_time",
    "time.ahead_max_s",
)


class Start(NamedTuple):
    """Where a replay began to read a partition."""

    topic: str
    partition: int
    offset: int


class AppState(msgspec.Struct, frozen=True):
    """The record of an app; the fields are those of ``avro_schemas/replays.v1.avsc``."""

    app: str
    state: State
    name: str = ""
    live_app: str = ""
    from_raw: bool = False
    settings: tuple[str, ...] = ()
    digest: str = ""
    starts: tuple[Start, ...] = ()
    bounds: Mapping[int, Bounds] = {}

    def encode(self) -> bytes:
        """Return the record's bytes."""
        record = msgspec.structs.asdict(self) | {
            "starts": [start._asdict() for start in self.starts],
            "bounds": [{"partition": p} | msgspec.structs.asdict(b) for p, b in sorted(self.bounds.items())],
        }
        return schemas.single_object_encode("replays", record)

    @classmethod
    def decode(cls, raw: bytes) -> AppState:
        """Read a record; StateError where it is none."""
        try:
            stream, record = schemas.single_object_decode(raw)
        except SchemaError as error:
            raise StateError(f"not a record of the replays topic: {error}") from error
        if stream != "replays":
            raise StateError(f"not a record of the replays topic but a {stream}")
        record["starts"] = tuple(Start(**start) for start in record["starts"])
        record["bounds"] = {b.pop("partition"): Bounds(**b) for b in record["bounds"]}
        record["settings"] = tuple(record["settings"])
        return cls(**record)


def replay_app(live_app: str, name: str) -> str:
    """Return the app of a replay."""
    return f"{live_app}-{name}"


def parse_set(assignments: tuple[str, ...], *, from_raw: bool = False) -> dict[str, Any]:
    """Return ``section.key=value`` as nested settings; a value is JSON where it is, else text.

    SettingsError for what is no assignment, or cannot be set for a replay.
    """
    nested: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SettingsError(f"--set {assignment}: give section.key=value, e.g. --set distances.scaling=log")
        if key.split(".")[0] in _FIXED:
            raise SettingsError(f"--set {assignment}: a replay has its own {key.split('.')[0]}; leave it out")
        if not from_raw and any(key == fixed or key.startswith(f"{fixed}.") for fixed in _OF_INGEST):
            raise SettingsError(
                f"--set {assignment}: ingest has applied {key} when it wrote the flows topic; give --from-raw"
            )
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"--set {assignment}: {section} has been given a value already")
        try:
            place[last] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            place[last] = text
    return nested


def settings_of_replay(
    file: str | Path | None, name: str, assignments: tuple[str, ...], *, from_raw: bool, **own: Any
) -> Settings:
    """Load the settings of a replay: those of the live app but for its name, topics and what was set.

    ``own`` are a worker's, such as its web port. SettingsError, one line per setting, where they are wrong.
    """
    live = load(file)
    changed = parse_set(assignments, from_raw=from_raw)
    topics = {"suffix": name, "flows_suffix": name if from_raw else live.topics.flows_suffix}
    return load(file, app=replay_app(live.app, name), topics=topics, **changed, **own)


def lines_of_settings(state: AppState) -> str:
    """Return, as TOML, what has to be set for a promoted app to run."""
    lines = [f'app = "{state.app}"']
    changed = parse_set(state.settings, from_raw=True)
    changed["topics"] = {"flows_suffix": state.name} if state.from_raw else {}
    changed["topics"]["partials_suffix"] = state.name
    lines += [f"{key} = {_toml(value)}" for key, value in changed.items() if not isinstance(value, dict)]
    for section, values in changed.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"] + [f"{_key(key)} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else msgspec.json.encode(key).decode()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


def refusal(app: str, state: AppState | None, role: Role) -> str | None:
    """Return why a worker must not run an app at present, with what to do, in one line; None where it may."""
    if state is None:
        return f"app {app} is no replay; flowstream replay makes one" if role == "replay" else None
    allowed: Mapping[State, Role] = {
        "running": "replay", "promoting": "cut", "promoted": "live", "moved": "live",
    }  # fmt: skip
    if allowed.get(state.state) == role:
        return None
    if state.state == "replaced":
        suffix = [f"topics.flows_suffix={state.name}"] if state.from_raw else []
        suffix.append(f"topics.partials_suffix={state.name}")
        chosen = ", ".join([f"app={replay_app(app, state.name)}", *suffix, *state.settings])
        return f"app {app} was replaced by its replay {state.name}: set {chosen}"
    said: Mapping[State, str] = {
        "running": f"app {app} is the replay {state.name}: flowstream worker --replay {state.name} runs it",
        "promoting": f"the promotion of {state.name} is not finished: run flowstream promote {state.name} again",
        "moving": f"the reset of app {app} in place was not finished: run flowstream replay --in-place again",
        "promoted": f'{state.name} was promoted: set app = "{app}" and run flowstream worker',
        "moved": f"app {app} is no replay; flowstream replay makes one",
    }  # fmt: skip
    return said[state.state]
