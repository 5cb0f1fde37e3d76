"""Every setting: its type, unit, default and bounds. Nothing else in the library reads the environment.

Order of precedence: ``FLOWSTREAM_*`` variables (nested by ``__``: ``FLOWSTREAM_KAFKA__BOOTSTRAP``), then the
TOML file (``FLOWSTREAM_SETTINGS`` or ``flowstream.toml`` in the current folder), then the defaults here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as EnvError

from flowstream.errors import SettingsError
from flowstream.setting_tables import (
    MERGED,
    Analysis,
    Counting,
    Distances,
    Elephants,
    Input,
    InputQuality,
    Kafka,
    LinkUse,
    Output,
    Paths,
    Sampling,
    Section,
    Sources,
    Talkers,
    Time,
    Topics,
    Web,
)

DEFAULT_FILE = "flowstream.toml"
PREFIX = "FLOWSTREAM_"
#: Variables with our prefix that are not settings: where the file is, and switches of the tests.
NOT_SETTINGS = frozenset({"SETTINGS", "TEST_BROKER", "REQUIRE_BROKER", "GOFLOW2"})


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a traceback must not show what a message of ours leaves out
        nested_model_default_partial_update=True,
    )

    app: str = Field("flowstream", pattern=r"^[a-z0-9._-]+$", max_length=100, description="name of the consumer group")
    inputs: tuple[Input, ...] = Field(
        (Input(topic="flow-messages", format="goflow"),), min_length=1, description="raw topics"
    )
    analyses: tuple[Analysis, ...] = Field(
        ("distances", "elephants", "sources", "quality"), min_length=1, description="which operators run"
    )
    delivery: Literal["at-least-once", "transactional"] = Field(
        "at-least-once", description="of results: repeated after a crash, or each once for who reads committed records"
    )
    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    time: Time = Time()
    sampling: Sampling = Sampling()
    distances: Distances = Distances()
    elephants: Elephants = Elephants()
    paths: Paths = Paths()
    sources: Sources = Sources()
    quality: InputQuality = InputQuality()
    counting: Counting = Counting()
    talkers: Talkers = Talkers()
    link_use: LinkUse = LinkUse()
    output: Output = Output()
    web: Web = Web()
    data_dir: Path = Field(Path(".flowstream"), description="the worker's own folder")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then the file named in ``_toml``."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _windows_are_whole_panes(self) -> Settings:
        for name, length_s in (
            ("distances.size_s", self.distances.size_s),
            ("distances.step_s", self.distances.step_s),
            ("paths.size_s", self.paths.size_s),
            ("sources.size_s", self.sources.size_s),
            ("quality.size_s", self.quality.size_s),
            ("counting.size_s", self.counting.size_s),
            *(("counting.remember_s", length_s) for length_s in (self.counting.remember_s,) if length_s),
            *(("talkers.windows size_s", window.size_s) for window in self.talkers.windows),
            *(("talkers.windows step_s", window.step_s) for window in self.talkers.windows),
            ("link_use.interval_s", self.link_use.interval_s),
        ):
            panes = length_s / self.time.pane_s
            if abs(panes - round(panes)) > 1e-9 or round(panes) < 1:
                raise ValueError(f"{name} = {length_s:g} is not a multiple of time.pane_s = {self.time.pane_s:g}")
        if self.distances.step_s > self.distances.size_s:
            raise ValueError(
                f"distances.step_s = {self.distances.step_s:g} is longer than "
                f"distances.size_s = {self.distances.size_s:g}: rows between windows would be in none"
            )
        if self.distances.pairs == "all" and self.distances.pair_form == "records" and self.distances.flows_max > 2001:
            raise ValueError(
                f"distances.flows_max = {self.distances.flows_max} gives more than two million records per source and "
                f"window with distances.pairs = 'all' and pair_form = 'records'; lower it to 2001"
            )
        try:
            self.talkers.config(self.panes, self.sampling.samples_min)
            self.link_use.config(self.sampling.samples_min)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        if len(set(self.analyses)) != len(self.analyses):
            raise ValueError(f"analyses = {list(self.analyses)} names one twice")
        if len({i.topic for i in self.inputs}) != len(self.inputs):
            raise ValueError(f"inputs = {[i.topic for i in self.inputs]} names a topic twice")
        if self.web.token.get_secret_value() and self.web.token_file:
            raise ValueError(f"web.token_file = {self.web.token_file!r} beside web.token: give one of them")
        if self.kafka.heartbeat_s * 2 > self.kafka.session_timeout_s:
            raise ValueError(
                f"kafka.heartbeat_s = {self.kafka.heartbeat_s:g} is more than half of "
                f"kafka.session_timeout_s = {self.kafka.session_timeout_s:g}"
            )
        return self

    @property
    def pane_ns(self) -> int:
        """Length of a pane in nanoseconds."""
        return round(self.time.pane_s * 1e9)

    def panes(self, length_s: float) -> int:
        """Return a window length in panes."""
        return round(length_s / self.time.pane_s)

    @property
    def is_merging(self) -> bool:
        """Whether an analysis is on whose results are merged from what flows partitions sum up."""
        return not MERGED.isdisjoint(self.analyses)

    def digest(self) -> str:
        """Return a short hash of everything that can change a result: part of each record's lineage."""
        told = self.model_dump_json(
            include={
                "inputs": True, "analyses": True, "time": True, "sampling": True, "distances": True, "elephants": True,
                "sources": {"size_s", "distances"}, "quality": True, "counting": True, "talkers": True,
                "link_use": True, "paths": True,
                "topics": {"partitions"},
            }
        )  # fmt: skip
        return hashlib.sha256(told.encode()).hexdigest()[:12]


#: Settings that no text ever shows.
SECRETS = frozenset(
    f"{section}.{key}"
    for section, table in Settings.model_fields.items()
    if isinstance(table.annotation, type) and issubclass(table.annotation, Section)
    for key, field in table.annotation.model_fields.items()
    if field.annotation is SecretStr
)


def load(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Raises SettingsError, one line per wrong setting with its name, its value and what would be right.
    """
    try:
        return _load(path, overrides)
    except SettingsError as error:  # keys, values and paths may hold anything, and each complaint is a line of its own
        raise SettingsError("\n".join(map(_printable, error.args))) from error


def _load(path: str | Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Read the settings; the SettingsError has a complaint in each of its ``args``."""
    named = path or os.environ.get("FLOWSTREAM_SETTINGS")
    file = Path(named or DEFAULT_FILE)

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        if named and not file.is_file():
            raise SettingsError(f"settings file {file}: no such file; create it or leave it out to use the defaults")
        for variable in filter(_is_misspelt, os.environ):
            raise SettingsError(
                f"variable {variable}: there is no such setting; see docs/settings.md for those there are"
            )
        return Loaded(**overrides)
    except ValidationError as error:
        found = error.errors()
        # A wrong element makes its list too short as well: the element's line is the one that helps.
        inner = [e for e in found if not any(o["loc"][: len(e["loc"])] == e["loc"] for o in found if o is not e)]
        raise SettingsError(*(_explain(e) for e in inner)) from error
    except EnvError as error:  # a variable that should hold JSON
        raise SettingsError(f"{error}: {error.__cause__}; lists and tables are given as JSON") from error
    except ValueError as error:  # TOML syntax
        raise SettingsError(f"settings file {file}: {error}") from error
    except OSError as error:
        raise SettingsError(f"settings file {file}: cannot be read ({error.strerror}); check the path") from error
    except RecursionError as error:
        culprit = next(filter(_is_too_deep, os.environ), None)
        where = f"settings file {file}" if culprit is None else f"variable {culprit}"
        raise SettingsError(f"{where}: nested deeper than any setting; see docs/settings.md") from error


def _is_misspelt(variable: str) -> bool:
    """Say whether a variable is ours and names no setting, or a part of one that has none."""
    if not variable.upper().startswith(PREFIX):
        return False
    top, *parts = variable[len(PREFIX) :].lower().split("__")
    if top.upper() in NOT_SETTINGS:
        return False
    if top not in Settings.model_fields:
        return True
    section = Settings.model_fields[top].annotation
    if not (isinstance(section, type) and issubclass(section, Section)):
        return bool(parts)
    # An unknown key of a section is told by the section, and only a table has keys of its own.
    known = section.model_fields.get(parts[0]) if parts else None
    return len(parts) > 1 and known is not None and get_origin(known.annotation) is not dict


def _is_too_deep(variable: str) -> bool:
    try:
        json.loads(os.environ[variable])
    except ValueError:
        return False
    except RecursionError:
        return variable.upper().startswith(PREFIX)
    return False


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error" and not name:
        return f"setting {error['ctx']['error']}"
    if error["type"] == "extra_forbidden":
        return f"setting {name}: there is no such setting; see docs/settings.md for those there are"
    if error["type"] == "model_type":  # something else in place of a section, which may hold a secret
        return f"setting {name}: it is a table, given as [{name}] in the file or as a JSON object in a variable"
    secret = isinstance(error["input"], dict) or name in SECRETS
    value = "" if secret else f" = {error['input']!r}"
    return f"setting {name}{value}: {error['msg'][0].lower()}{error['msg'][1:]}"
