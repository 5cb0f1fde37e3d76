"""Every setting: its type, unit, default and bounds. Nothing else in the library reads the environment.

Order of precedence: ``FLOWSTREAM_*`` variables (nested by ``__``: ``FLOWSTREAM_KAFKA__BOOTSTRAP``), then the
TOML file (``FLOWSTREAM_SETTINGS`` or ``flowstream.toml`` in the current folder), then the defaults here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from flowstream.errors import SettingsError

DEFAULT_FILE = "flowstream.toml"
PREFIX = "FLOWSTREAM_"
#: Variables with our prefix that are not settings: where the file is, and switches of the tests.
NOT_SETTINGS = frozenset({"SETTINGS", "TEST_BROKER", "REQUIRE_BROKER", "GOFLOW2"})
Analysis = Literal["distances", "elephants", "sources", "quality"]
WireFormat = Literal["goflow", "goflow-json", "avro", "flow-event-json", "suricata-eve"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the settings file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(Section):
    """How to reach the brokers."""

    bootstrap: str = Field("127.0.0.1:19092", min_length=3, description="brokers, host:port,host:port")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to speak to them"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field("PLAIN", description="used with SASL_*")
    sasl_username: str = Field("", description="used with SASL_*")
    sasl_password: SecretStr = Field(SecretStr(""), description="used with SASL_*; never printed")
    ssl_cafile: str = Field("", description="CA certificates (PEM); empty: those of the system")
    session_timeout_s: float = Field(10.0, ge=6, le=300, description="a silent worker is replaced after this")
    heartbeat_s: float = Field(3.0, gt=0, le=60, description="interval of the signs of life")
    declare_topics: bool = Field(True, description="let the worker create its tables' changelog topics")  # noqa: FBT003
    fetch_bytes_max: int = Field(1 << 20, ge=1 << 12, description="bytes fetched from a partition at once")
    poll_records_max: int = Field(20_000, ge=1, le=1_000_000, description="records of one event at most")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4", description="of the topics flowstream writes"
    )


class Input(Section):
    """A raw topic and what is in it."""

    topic: str = Field(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$", description="raw topic")
    format: WireFormat = Field("goflow", description="wire format of its messages")


class Topics(Section):
    """Our own topics."""

    prefix: str = Field(
        "flowstream",
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="first part of names",
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of the flows and result topics")
    replication: int = Field(1, ge=1, le=9, description="replicas of each partition")
    flows_retention_hours: float = Field(24.0, gt=0, description="how far back a replay can go")
    results_retention_hours: float = Field(168.0, gt=0, description="how long results are kept")


class Time(Section):
    """Event time."""

    pane_s: Seconds = Field(1.0, description="unit of event time; window lengths are multiples of it")
    out_of_orderness_s: float = Field(2.0, ge=0, le=86_400, description="how late a row may be and still count")
    idle_after_s: float = Field(10.0, ge=0.1, le=86_400, description="silence after which a partition is idle")
    event_time: Literal["default", "received", "start", "end"] = Field(
        "default", description="which time of a record is its event time; default: the format's own"
    )
    ahead_max_s: float = Field(3600.0, gt=0, description="how far ahead of the log's clock a row may be")


class Sampling(Section):
    """What to assume where a record does not say its sampling rate."""

    default_rate: int = Field(0, ge=0, le=2**32 - 1, description="N of 1-in-N; 0: none, counted as 1")
    exporters: dict[str, Annotated[int, Field(ge=1, le=2**32 - 1)]] = Field(
        default_factory=dict, description="by exporter address"
    )


class Distances(Section):
    """Pairwise Euclidean distances between the flows of a source."""

    size_s: Seconds = Field(3.0, description="window length")
    step_s: Seconds = Field(3.0, description="a window starts every so often; equal to size_s: tumbling")
    features: tuple[str, ...] = Field(
        ("duration", "in_bytes", "in_packets", "out_bytes", "out_packets"),
        description='coordinates; or ["all"]',
    )
    scaling: Literal["none", "standard", "log"] = Field("none", description="what is done to them first")
    top_k: int = Field(10, ge=0, le=1000, description="farthest pairs listed per source and window")
    pairs: Literal["none", "tail", "all"] = Field("none", description="which pairs are published one by one")
    pair_form: Literal["blocks", "records"] = Field("blocks", description="of pairs = all")
    tail_quantile: float = Field(0.999, gt=0, lt=1, description="pairs above it are the tail")
    pairs_max: int = Field(1000, ge=1, description="tail pairs published per source and window at most")
    flows_max: int = Field(5000, ge=2, le=50_000, description="flows of a source beyond this are sampled")


class Elephants(Section):
    """Flows that take more than a share of a link."""

    threshold: float = Field(0.10, gt=0, le=1, description="share of the link's capacity")
    rate_bps_min: float | None = Field(
        None, gt=0, description="publish flows over links of unknown capacity above this rate"
    )
    flows_max: int = Field(50_000, ge=1, description="suspicious or active flows tracked per partition at most")


class Sources(Section):
    """The table of sources."""

    size_s: Seconds = Field(10.0, description="window length")
    distances: bool = Field(True, description="include the p99.9 of the pairwise distances")  # noqa: FBT003
    windows_kept: int = Field(60, ge=1, le=10_000, description="windows served by the web server")


class InputQuality(Section):
    """Counts of doubtful rows per exporter."""

    size_s: Seconds = Field(60.0, description="window length")


class Output(Section):
    """How results are written."""

    format: Literal["avro", "json"] = Field("avro", description="of result topics")
    schema_registry_url: str = Field("", description="Confluent-compatible registry; empty: Avro single-object")


class Web(Section):
    """The worker's web server."""

    host: str = Field("127.0.0.1", min_length=1, description="address it listens on")
    port: int = Field(6066, ge=1, le=65_535, description="port it listens on")


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    app: str = Field("flowstream", pattern=r"^[a-z0-9._-]+$", max_length=100, description="name of the consumer group")
    inputs: tuple[Input, ...] = Field(
        (Input(topic="flow-messages", format="goflow"),), min_length=1, description="raw topics"
    )
    analyses: tuple[Analysis, ...] = Field(
        ("distances", "elephants", "sources", "quality"), description="which operators run"
    )
    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    time: Time = Time()
    sampling: Sampling = Sampling()
    distances: Distances = Distances()
    elephants: Elephants = Elephants()
    sources: Sources = Sources()
    quality: InputQuality = InputQuality()
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
            ("sources.size_s", self.sources.size_s),
            ("quality.size_s", self.quality.size_s),
        ):
            panes = length_s / self.time.pane_s
            if abs(panes - round(panes)) > 1e-9 or round(panes) < 1:
                raise ValueError(f"{name} = {length_s:g} is not a multiple of time.pane_s = {self.time.pane_s:g}")
        if self.distances.step_s > self.distances.size_s:
            raise ValueError(
                f"distances.step_s = {self.distances.step_s:g} is longer than "
                f"distances.size_s = {self.distances.size_s:g}: rows between windows would be in none"
            )
        if len({i.topic for i in self.inputs}) != len(self.inputs):
            raise ValueError(f"inputs = {[i.topic for i in self.inputs]} names a topic twice")
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

    def digest(self) -> str:
        """Return a short hash of everything that can change a result: part of each record's lineage."""
        told = self.model_dump_json(exclude={"app", "kafka", "topics", "output", "web", "data_dir"})
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def load(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Raises SettingsError, one line per wrong setting with its name, its value and what would be right.
    """
    named = path or os.environ.get("FLOWSTREAM_SETTINGS")
    file = Path(named or DEFAULT_FILE)
    if named and not file.is_file():
        raise SettingsError(f"settings file {file}: no such file; create it or leave it out to use the defaults")

    for variable in os.environ:
        top = variable.removeprefix(PREFIX).split("__")[0]
        if variable.startswith(PREFIX) and top not in NOT_SETTINGS and top.lower() not in Settings.model_fields:
            raise SettingsError(
                f"variable {variable}: there is no such setting; see docs/settings.md for those there are"
            )

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return Loaded(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(e) for e in error.errors())) from error
    except ValueError as error:  # TOML syntax
        raise SettingsError(f"settings file {file}: {error}") from error


def _explain(error: Any) -> str:
    if error["type"] == "value_error":
        return f"setting {error['ctx']['error']}"
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"setting {name}: there is no such setting; see docs/settings.md for those there are"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    return f"setting {name}{value}: {error['msg'][0].lower()}{error['msg'][1:]}"
