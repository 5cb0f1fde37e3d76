"""What decoded rows say, made fit to compute with: sampling rates, flow times, event time, doubts flagged.

The rules are the same for every wire format, so they are here and not in the decoders. Nothing is dropped:
a doubtful row keeps its counts and gets a ``Quality`` flag, and rows whose time is absurd are pointed out to
the caller, who sends their message to the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowstream.batch import FlowBatch, FlowType, Quality, address_words
from flowstream.grouping import group_rows

EventTime = Literal["default", "received", "start", "end"]
_TIME_COLUMN: Final[Mapping[EventTime, str]] = {
    "default": "time_ns",
    "received": "time_received_ns",
    "start": "time_flow_start_ns",
    "end": "time_flow_end_ns",
}

SECOND_NS: Final = 10**9
EARLIEST_NS: Final = 946_684_800 * SECOND_NS  # 2000-01-01
LATEST_NS: Final = 4_102_444_800 * SECOND_NS  # 2100-01-01
FLOW_TIME_BEFORE_NS: Final = 86_400 * SECOND_NS  # flow times may lie this far before the receive time
FLOW_TIME_AFTER_NS: Final = 60 * SECOND_NS  # and this far after it, for exporter clocks that run ahead
PSEUDO_IF_MIN: Final = 0x3FFF_FFFF  # sFlow v5: internal, and above it discarded and multiple outputs
SAMPLING_RATE_MAX: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class Normalisation:
    """What may be chosen about it.

    ``default_sampling_rate`` (0: none configured) stands in for a rate of 0, ``exporter_sampling_rates`` does
    so for the exporters it names by address. ``event_time`` picks the time column that becomes ``time_ns``;
    ``default`` keeps the decoder's choice. A row may lie ``ahead_max_ns`` beyond its Kafka timestamp.
    Raises ValueError, naming the field and its value, where one is out of range.
    """

    default_sampling_rate: int = 0
    exporter_sampling_rates: Mapping[str, int] = field(default_factory=dict)
    event_time: EventTime = "default"
    ahead_max_ns: int = 60 * SECOND_NS

    def __post_init__(self) -> None:
        if not 0 <= self.default_sampling_rate <= SAMPLING_RATE_MAX:
            raise ValueError(f"default_sampling_rate {self.default_sampling_rate} is not in 0..{SAMPLING_RATE_MAX}")
        for exporter, rate in self.exporter_sampling_rates.items():
            address_words(exporter)
            if not 1 <= rate <= SAMPLING_RATE_MAX:
                raise ValueError(f"exporter_sampling_rates[{exporter}] {rate} is not in 1..{SAMPLING_RATE_MAX}")
        if self.event_time not in get_args(EventTime):
            raise ValueError(f"event_time {self.event_time!r} is not one of {', '.join(get_args(EventTime))}")
        if not 0 <= self.ahead_max_ns <= LATEST_NS:
            raise ValueError(f"ahead_max_ns {self.ahead_max_ns} is not in 0..{LATEST_NS}")


def normalise(
    flows: FlowBatch, config: Normalisation, reference_ns: NDArray[np.int64] | None
) -> tuple[FlowBatch, NDArray[np.bool_]]:
    """Return the rows as they should be computed with, and a mask of those whose event time is absurd.

    ``reference_ns`` holds, per row, the timestamp of its Kafka record (negative: it had none), or is None for
    files. In the mask: event times outside [2000, 2100), or more than ``ahead_max_ns`` beyond the reference.

    * A sampling rate of 0 becomes the exporter's, else the default, else 1: SAMPLING_RATE_UNKNOWN.
    * Flow times count where received - 1 day <= start <= end <= received + 60 s, else both become the receive
      time: FLOW_TIMES_IMPLAUSIBLE. Of an EVENT only start <= end is asked, for a connection may last weeks.
    * Interface numbers from 0x3FFFFFFF up are kept, with IN_IF_PSEUDO or OUT_IF_PSEUDO; no bytes either way:
      ZERO_BYTES.

    Flags that the decoder set stay. Normalising twice is normalising once.
    """
    unknown_rate = np.asarray(flows.sampling_rate == 0)
    in_if, out_if = flows.in_if.astype(np.int64), flows.out_if.astype(np.int64)
    implausible = ~_plausible(flows)
    received = flows.time_received_ns
    quality = flows.quality.astype(np.uint8)
    for flag, rows in (
        (Quality.SAMPLING_RATE_UNKNOWN, unknown_rate),
        (Quality.FLOW_TIMES_IMPLAUSIBLE, implausible),
        (Quality.IN_IF_PSEUDO, in_if >= PSEUDO_IF_MIN),
        (Quality.OUT_IF_PSEUDO, out_if >= PSEUDO_IF_MIN),
        (Quality.ZERO_BYTES, (flows.bytes == 0) & (flows.in_bytes == 0)),
    ):
        quality |= np.asarray(rows, np.uint8) * np.uint8(flag)
    times = {
        "time_ns": flows.time_ns,
        "time_received_ns": received,
        "time_flow_start_ns": np.where(implausible, received, flows.time_flow_start_ns),
        "time_flow_end_ns": np.where(implausible, received, flows.time_flow_end_ns),
    }
    times["time_ns"] = times[_TIME_COLUMN[config.event_time]]
    rates = _sampling_rates(flows, np.flatnonzero(unknown_rate), config)
    normalised = flows.replace(quality=quality, sampling_rate=rates, **times)
    return normalised, _out_of_range(normalised.time_ns, config, reference_ns)


def _plausible(flows: FlowBatch) -> NDArray[np.bool_]:
    # Near the ends of 64 bits a sum below wraps around: then no time is both >= the one and <= the other.
    received = flows.time_received_ns.astype(np.int64, copy=False)
    start = flows.time_flow_start_ns.astype(np.int64, copy=False)
    end = flows.time_flow_end_ns.astype(np.int64, copy=False)
    near = (start >= received - FLOW_TIME_BEFORE_NS) & (end <= received + FLOW_TIME_AFTER_NS)
    return np.asarray((start <= end) & (near | (flows.flow_type == FlowType.EVENT)))


def _sampling_rates(flows: FlowBatch, unknown: NDArray[np.int64], config: Normalisation) -> NDArray[Any]:
    """Return the rates, those of the rows in ``unknown`` filled in by one look-up per exporter."""
    rates = flows.sampling_rate.copy()
    fallback = config.default_sampling_rate or 1
    rates[unknown] = fallback
    if len(unknown) and config.exporter_sampling_rates:
        configured = {address_words(name): rate for name, rate in config.exporter_sampling_rates.items()}
        exporters = flows.exporter[unknown]
        groups = group_rows(exporters)
        found = [configured.get((high, low), fallback) for high, low in exporters[groups.firsts].tolist()]
        rates[unknown[groups.order]] = np.repeat(np.array(found, np.uint32), groups.sizes)
    return rates


def _out_of_range(
    time_ns: NDArray[Any], config: Normalisation, reference_ns: NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    absurd = (time_ns < EARLIEST_NS) | (time_ns >= LATEST_NS)
    if reference_ns is not None:
        # The difference can wrap around only for times that are absurd already, or where it is not used.
        ahead_ns = time_ns - reference_ns
        absurd |= (reference_ns >= 0) & (ahead_ns > config.ahead_max_ns)
    return np.asarray(absurd, np.bool_)
