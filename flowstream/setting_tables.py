"""The tables of the settings: each setting with its type, unit, default and bounds."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from flowstream.features import feature_names
from flowstream.link_use import LinkUseConfig
from flowstream.talker_results import Wanted
from flowstream.talkers import TalkersConfig

Analysis = Literal["distances", "elephants", "sources", "quality", "talkers", "links", "paths", "counting"]
#: Those whose results are merged from the partials of flows partitions.
MERGED = frozenset({"talkers", "links", "paths", "counting"})
WireFormat = Literal["goflow", "goflow-json", "avro", "flow-event-json", "suricata-eve"]
TalkersBy = Literal["source", "destination", "pair", "conversation", "port", "protocol", "as", "interface"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the settings file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


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
    ssl_certfile: str = Field("", description="our certificate (PEM) for brokers that ask for one; used with SSL")
    ssl_keyfile: str = Field("", description="its private key (PEM); empty: in the file of the certificate")
    ssl_key_password: SecretStr = Field(SecretStr(""), description="of an encrypted key; never printed")
    session_timeout_s: float = Field(10.0, ge=6, le=300, description="a silent worker is replaced after this")
    heartbeat_s: float = Field(3.0, gt=0, le=60, description="interval of the signs of life")
    declare_topics: bool = Field(True, description="let the worker create its tables' changelog topics")  # noqa: FBT003
    fetch_bytes_max: int = Field(2 << 20, ge=1 << 12, le=1 << 30, description="bytes fetched from a partition at once")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4", description="of the topics flowstream writes"
    )


class Input(Section):
    """A raw topic and what is in it."""

    topic: str = Field(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$", description="raw topic")
    format: WireFormat = Field("goflow", description="wire format of its messages")
    schema_file: str = Field("", description="Avro schema of unframed messages (format avro); empty: our own")


class Topics(Section):
    """Our own topics."""

    prefix: str = Field(
        "flowstream",
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="first part of names",
    )
    suffix: str = Field(
        "", max_length=60, pattern=r"^[a-z0-9_-]*$", description="last part of the result topics' names: of a replay"
    )
    flows_suffix: str = Field(
        "", max_length=60, pattern=r"^[a-z0-9_-]*$", description="the same of the flows topic: of a replay from raw"
    )
    partials_suffix: str = Field(
        "", max_length=60, pattern=r"^[a-z0-9_-]*$", description="the same of the partials topic: of a promoted replay"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of the flows and result topics")
    replication: int = Field(1, ge=1, le=9, description="replicas of each partition")
    flows_retention_hours: float = Field(24.0, gt=0, le=876_000, description="how far back a replay can go")
    results_retention_hours: float = Field(168.0, gt=0, le=876_000, description="how long results are kept")


class Time(Section):
    """Event time."""

    pane_s: float = Field(
        1.0, ge=0.001, le=86_400, description="unit of event time; window lengths are multiples of it"
    )
    out_of_orderness_s: float = Field(2.0, ge=0, le=86_400, description="how late a row may be and still count")
    idle_after_s: float = Field(10.0, ge=0.1, le=86_400, description="silence after which a partition is idle")
    event_time: Literal["default", "received", "start", "end"] = Field(
        "default", description="which time of a record is its event time; default: the format's own"
    )
    ahead_max_s: float = Field(3600.0, gt=0, le=315_360_000, description="how far ahead of the log a row may be")
    behind_max_s: float | None = Field(
        None, gt=0, le=315_360_000, description="rows further behind the log are late, and hold no window open"
    )


class Sampling(Section):
    """Sampling rates where records do not say them, and how many samples make a number."""

    default_rate: int = Field(0, ge=0, le=2**32 - 1, description="N of 1-in-N; 0: none, counted as 1")
    exporters: dict[str, Annotated[int, Field(ge=1, le=2**32 - 1)]] = Field(
        default_factory=dict, description="by exporter address"
    )
    samples_min: float = Field(
        4.0, ge=0, le=1_000_000, description="below so many samples of equal weight bounds are given, but no estimate"
    )

    @field_validator("exporters")
    @classmethod
    def _are_addresses(cls, exporters: dict[str, int]) -> dict[str, int]:
        for address in exporters:
            ipaddress.ip_address(address)
        return exporters


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
    pairs_max: int = Field(1000, ge=1, le=2_000_000, description="tail pairs published per source and window at most")
    flows_max: int = Field(5000, ge=2, le=50_000, description="flows of a source beyond this are sampled")

    @field_validator("features")
    @classmethod
    def _exist(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        feature_names(features)
        return features


class Elephants(Section):
    """Flows that take more than a share of a link."""

    threshold: float = Field(0.10, gt=0, le=1, description="share of the link's capacity")
    rate_bps_min: float | None = Field(
        None, gt=0, le=10**12, description="publish flows over links of unknown capacity above this rate"
    )
    flows_max: int = Field(20_000, ge=1, le=50_000, description="suspicious or active flows per partition at most")


class Paths(Section):
    """Through which switches flows went."""

    size_s: Seconds = Field(10.0, description="window length")
    flows_max: int = Field(
        1000, ge=1, le=100_000, description="flows told per window and partition: those with most bytes, and elephants"
    )


class Sources(Section):
    """The table of sources."""

    size_s: Seconds = Field(10.0, description="window length")
    distances: bool = Field(True, description="include the p99.9 of the pairwise distances")  # noqa: FBT003
    windows_kept: int = Field(60, ge=1, le=10_000, description="windows served by the web server")
    kept_bytes_max: int = Field(
        64 << 20, ge=1 << 20, description="bytes of them per partition at most, the newest window aside"
    )


class InputQuality(Section):
    """Counts of doubtful rows per exporter."""

    size_s: Seconds = Field(60.0, description="window length")


class Counting(Section):
    """How flows are counted once, and what is said of it and of datagrams that never came."""

    size_s: Seconds = Field(60.0, description="window length")
    remember_s: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="flow records count where their flow was told of first, until none has come there for so long: "
        "twice the active timeout of the exporters. 0: each pane is decided alone",
    )
    flows_max: int = Field(
        65_536, ge=1, le=100_000, description="flows remembered for that per partition; others are decided by panes"
    )


class TalkersWindow(Section):
    """A window of top talkers."""

    size_s: Seconds = Field(description="window length")
    step_s: Seconds = Field(description="it slides by this much")


class Talkers(Section):
    """Who sends most, in windows that slide."""

    windows: tuple[TalkersWindow, ...] = Field(
        (
            TalkersWindow(size_s=60.0, step_s=10.0),
            TalkersWindow(size_s=3600.0, step_s=60.0),
            TalkersWindow(size_s=86_400.0, step_s=900.0),
        ),
        min_length=1,
        description="lengths of the windows, and by how much each slides; every step is a multiple of the shorter ones",
    )
    by: tuple[TalkersBy, ...] = Field(get_args(TalkersBy), min_length=1, description="what rows are grouped by")
    rank: tuple[Literal["bytes", "packets", "records"], ...] = Field(
        ("bytes", "packets", "records"), min_length=1, description="what the largest are ranked by"
    )
    count: int = Field(20, ge=1, le=10_000, description="how many are said of each window, grouping and ranking")
    keys_max: int = Field(
        1_000_000, ge=3, le=100_000_000, description="keys of a step and of a window beyond which sums have an error"
    )

    def config(self, panes: Callable[[float], int], samples_min: float) -> TalkersConfig:
        """Return the operator's configuration; SettingsError where windows cannot be put together."""
        windows = tuple((panes(window.size_s), panes(window.step_s)) for window in self.windows)
        return TalkersConfig(windows, self.by, self.keys_max, Wanted(self.rank, self.count, samples_min))


class LinkUse(Section):
    """How much of each link is used."""

    interval_s: Seconds = Field(10.0, description="length of an interval; it divides 300 s")
    spread_max_s: Seconds = Field(
        120.0,
        description="how far back a flow record may reach, and how long its exporter's intervals wait: active timeout "
        "of the exporters and what exporting takes",
    )
    active_timeout_s: Seconds | None = Field(
        None,
        description="active timeout of exporters whose records keep the start of the whole flow: no record is taken to "
        "tell of more time than this",
    )
    threshold: float = Field(0.8, gt=0, le=10, description="share of the capacity from which a link has an event")
    hysteresis: float = Field(0.1, ge=0, lt=10, description="an event ends this far below the threshold")
    for_intervals: int = Field(3, ge=1, le=10_000, description="intervals in a row that begin or end an event")
    ports_max: int = Field(
        20_000, ge=1, le=200_000, description="interfaces by direction that are remembered; others are left out"
    )

    def config(self, samples_min: float) -> LinkUseConfig:
        """Return the operator's configuration; SettingsError where values do not go together."""
        return LinkUseConfig(
            self.interval_s, self.spread_max_s, self.threshold, self.hysteresis, self.for_intervals, samples_min,
            self.ports_max, self.active_timeout_s,
        )  # fmt: skip


class Output(Section):
    """How results are written."""

    format: Literal["avro", "json"] = Field("avro", description="of result topics")
    schema_registry_url: SecretStr = Field(
        SecretStr(""),
        description="Confluent-compatible registry; empty: Avro single-object; may hold a password, so never printed",
    )


class Web(Section):
    """The worker's web server."""

    host: str = Field("127.0.0.1", min_length=1, description="address it listens on")
    port: int = Field(6066, ge=1, le=65_535, description="port it listens on")
    token: SecretStr = Field(
        SecretStr(""), description="bearer token for all but `/metrics` and `/health`; empty: none is asked for"
    )
    token_file: str = Field("", description="file that holds the token, in place of `web.token`")
