"""Wire load: what each row of a pane put on the links it came by, as partials of cube ``INTERFACE``.

Every sighting counts, at its own interfaces: a packet that crosses three switches loads six interfaces. A row loads
``in_if`` inwards and ``out_if`` outwards, so exporters sample (or account) on ingress only; one that does both ways
reports each packet twice, and no field of a record tells. Bytes are those on the wire, preamble and gap between
frames included, which is what a link's capacity is of:

    packet samples (sFlow)      bytes of the frame with FCS + 20 x packets
    flow records (NetFlow, v9, IPFIX)   layer 3 bytes + 38 x packets: Ethernet header 14, FCS 4, preamble 8, gap 12

A packet sample is of one moment. A flow record is a total that comes late, so it is spread over the life of its flow
in proportion to time, in whole bytes that sum up to the total: what ``[start, t)`` gets is rounded down, and an
interval gets the difference. Parts that lie further than ``reach_ns`` from their pane, and records whose times are
not known, are in no interval: they stand under the interval that starts at 0, so that nothing is lost silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.batch import Array, FlowBatch, FlowType, Quality
from flowstream.cube_sums import Sums
from flowstream.hashing import number_groups
from flowstream.normalise import PSEUDO_IF_MIN
from flowstream.operators import Pane
from flowstream.spread import FULL_FRAME_BYTES, by_packets

SAMPLES, RECORDS = 0, 1  # the last key: packet samples, flow records
FRAME_OVERHEAD_BYTES: Final = 20  # preamble, start of frame, gap
PACKET_OVERHEAD_BYTES: Final = 38  # those, Ethernet header and FCS
_ROW_MAX: Final = 1 << 53  # bytes or packets that a row may stand for: nine petabytes
LIFE_MAX_NS: Final = 1 << 47  # a flow record says at most a day (normalise); the exact division needs this bound
_PARTS: Final = 1 << 18  # parts summed up at once

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WireLoadConfig:
    """Length of the intervals, and how far from its pane a part of a flow may lie; ValueError unless positive.

    A flow record tells of ``life_max_ns`` before its end at the most, whatever start it names.
    """

    interval_ns: int = 10 * 10**9
    reach_ns: int = 120 * 10**9
    life_max_ns: int = LIFE_MAX_NS

    def __post_init__(self) -> None:
        for name in ("interval_ns", "reach_ns", "life_max_ns"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; set a length above 0")


class _Parts(NamedTuple):
    """What rows or parts add, with their keys (n, 2): exporter's number << 33 | ifIndex << 1 | is out, and interval.

    The latter is (number of the interval + 1) << 1 | kind, without a number where it is in none.
    """

    words: NDArray[np.uint64]
    sums: Sums


def interface_partials(pane: Pane, config: WireLoadConfig) -> dict[str, Array]:
    """Return the columns of a pane's partials of cube ``INTERFACE``, in key order, one row per key.

    Keys are exporter (``key_0``, ``key_1``), ifIndex << 1 | is out, start of the interval in ns (0: in none), and
    ``SAMPLES`` or ``RECORDS``. ``records`` counts the samples, or the flow records with a part in the interval.
    """
    rows = _on_links(pane.rows)
    numbers, exporters = number_groups(rows.exporter)
    interface = numbers.astype(np.uint64) << np.uint64(33)
    first = (pane.start_ns - config.reach_ns) // config.interval_ns
    last = (pane.end_ns - 1 + config.reach_ns) // config.interval_ns
    parts = [_summed(part) for part in _parts(rows, interface, config, (first, last))]
    words, sums = parts[0] if len(parts) == 1 else _summed(_joined(parts))
    interface, slot = words[:, 0], words[:, 1]
    exporter = exporters[(interface >> np.uint64(33)).astype(np.int64)]
    interval = (slot >> np.uint64(1)).astype(np.int64)
    return {
        "key_0": exporter[:, 0],
        "key_1": exporter[:, 1],
        "key_2": interface & np.uint64((1 << 33) - 1),
        "key_3": np.where(interval > 0, (interval - 1) * config.interval_ns, 0).astype(np.uint64),
        "key_4": slot & np.uint64(1),
        **sums.columns(),
    }


def _on_links(rows: FlowBatch) -> FlowBatch:
    """Return the rows that say something about a link."""
    usable = (_is_link(rows.in_if) | _is_link(rows.out_if)) & (rows.bytes > 0) & (rows.flow_type != FlowType.EVENT)
    return rows if usable.all() else rows.take(usable)


def _is_link(if_index: Array) -> NDArray[np.bool_]:
    return np.asarray((if_index > 0) & (if_index < PSEUDO_IF_MIN))


def _parts(rows: FlowBatch, interface: Array, config: WireLoadConfig, reach: tuple[int, int]) -> list[_Parts]:
    """Spread rows over intervals and interfaces; the parts are cut into runs of rows, to bound what they take."""
    is_record = by_packets(rows)
    interval_ns = config.interval_ns
    rate = np.maximum(rows.sampling_rate, 1).astype(np.int64)
    seen = np.clip(rows.packets, 0, _ROW_MAX // PACKET_OVERHEAD_BYTES)
    overhead = np.where(is_record, PACKET_OVERHEAD_BYTES, FRAME_OVERHEAD_BYTES)
    wire = np.minimum(np.minimum(rows.bytes, _ROW_MAX) + overhead * seen, _ROW_MAX // rate) * rate
    packets = np.minimum(seen, _ROW_MAX // rate) * rate
    start_ns, end_ns = _lives(rows, is_record, config.life_max_ns)
    weight = wire / np.maximum(np.where(is_record, seen, 1), 1)  # of one packet
    variance = weight * wire * (1.0 - 1.0 / rate)
    weight_max = np.where(rate > 1, np.maximum(weight, (FULL_FRAME_BYTES + FRAME_OVERHEAD_BYTES) * rate), 0.0)

    room = max(_PARTS, reach[1] - reach[0] + 2)
    place, slot = np.empty(room, np.int64), np.empty(room, np.int64)
    counts, fraction = np.empty((room, 3), np.int64), np.empty(room)
    found: list[_Parts] = []
    row = 0
    while row < len(rows) or not found:
        made = _spread(row, start_ns, end_ns, wire, packets, interval_ns, *reach, place, slot, counts, fraction)
        own = place[:made]
        row = int(own[-1]) + 1 if made else len(rows)
        kind = (slot[:made] + 1).astype(np.uint64) << np.uint64(1) | is_record[own].astype(np.uint64)
        spread = np.stack([variance[own] * fraction[:made], weight_max[own]], axis=1)
        sides = []
        for is_out, column in enumerate((rows.in_if, rows.out_if)):
            port = column.astype(np.uint64)[own]
            on = np.flatnonzero(_is_link(port))
            word = interface[own] | port << np.uint64(1) | np.uint64(is_out)
            sides.append(_Parts(np.stack([word[on], kind[on]], axis=1), Sums(counts[:made], spread).take(on)))
        found.append(_joined(sides))
    return found


def _lives(rows: FlowBatch, is_record: NDArray[np.bool_], life_max_ns: int) -> tuple[Integers, Integers]:
    """Return start and end of what rows report: of a sample its moment, of a record without times -1."""
    start_ns = np.where(is_record, rows.time_flow_start_ns, rows.time_ns)
    end_ns = np.where(is_record, rows.time_flow_end_ns, rows.time_ns)
    doubted = (rows.quality & np.uint8(Quality.FLOW_TIMES_IMPLAUSIBLE)) != 0
    known = (start_ns > 0) & (end_ns >= start_ns) & (end_ns - start_ns < LIFE_MAX_NS) & ~(is_record & doubted)
    return np.where(known, np.maximum(start_ns, end_ns - life_max_ns), -1), np.where(known, end_ns, -1)


def _joined(parts: list[_Parts]) -> _Parts:
    return _Parts(np.concatenate([part.words for part in parts]), Sums.concat([part.sums for part in parts]))


def _summed(parts: _Parts) -> _Parts:
    """Add up what has the same key, in the order in which it comes; the keys ascend."""
    group, words = number_groups(parts.words)
    return _Parts(words, parts.sums.by(group, len(words)))


@inline_njit
def _share(total, elapsed, life):  # type: ignore[no-untyped-def]
    """Return floor(total * elapsed / life) for 0 <= elapsed <= life < 2**47: long division in steps of 16 bits."""
    whole, rest = total // life, total % life
    quotient, remainder = np.uint64(0), np.uint64(0)
    for shift in (32, 16, 0):
        limb = np.uint64((elapsed >> shift) & 0xFFFF)  # an int64 beside a uint64 would make a float
        remainder = (remainder << np.uint64(16)) + np.uint64(rest) * limb
        quotient = (quotient << np.uint64(16)) + remainder // np.uint64(life)
        remainder %= np.uint64(life)
    return whole * elapsed + np.int64(quotient)


@bare_njit
def _spread(  # type: ignore[no-untyped-def]
    row, start_ns, end_ns, wire, packets, interval_ns, first, last, place, slot, counts, fraction
):
    """Write the parts of rows from ``row`` on, as many as there is room for; return how many parts there are.

    A part is its row, its interval's number (-1: none), its bytes, packets and records, and its share of the life.
    """
    made = 0
    room = len(place) - (last - first + 2)
    while row < len(start_ns) and made <= room:
        start, life = start_ns[row], end_ns[row] - start_ns[row]
        begin = start // interval_ns
        final = (end_ns[row] - 1) // interval_ns if life > 0 else begin
        low, high = max(begin, first), min(final, last)
        inside = start >= 0
        gone_bytes, gone_packets, gone_ns = np.int64(0), np.int64(0), np.int64(0)
        if inside and low > begin and low <= high:
            gone_ns = low * interval_ns - start
            gone_bytes, gone_packets = _share(wire[row], gone_ns, life), _share(packets[row], gone_ns, life)
        told_bytes, told_packets, told = np.int64(0), np.int64(0), 0.0
        if inside:
            for number in range(low, high + 1):
                now_ns = min((number + 1) * interval_ns, end_ns[row]) - start
                now_bytes, now_packets, share = wire[row], packets[row], 1.0
                if life > 0:
                    now_bytes, now_packets = _share(wire[row], now_ns, life), _share(packets[row], now_ns, life)
                    share = (now_ns - gone_ns) / life
                place[made], slot[made], fraction[made] = row, number, share
                counts[made, 0], counts[made, 1], counts[made, 2] = (
                    now_bytes - gone_bytes,
                    now_packets - gone_packets,
                    1,
                )
                told_bytes += now_bytes - gone_bytes
                told_packets += now_packets - gone_packets
                told += share
                gone_ns, gone_bytes, gone_packets = now_ns, now_bytes, now_packets
                made += 1
        if not inside or low != begin or high != final:
            place[made], slot[made], fraction[made] = row, -1, 1.0 - told
            counts[made, 0], counts[made, 1], counts[made, 2] = wire[row] - told_bytes, packets[row] - told_packets, 1
            made += 1
        row += 1
    return made
