"""Rows of partials, and an oracle of their top talkers: sums in dicts, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowstream.batch import FlowType
from flowstream.counting import Rule
from flowstream.operators import Pane, Result
from flowstream.partials import KEYS, Cube, PartialBatch
from flowstream.talker_results import WAYS, Wanted
from flowstream.talker_tables import MEASURES
from flowstream.talkers import TalkersConfig, TopTalkers
from tests.partial_rows import interval

SECOND = 10**9
FIRST = 1_700_000_400  # a whole number of quarters of an hour


SEQUENCE = "sequence"  # instead of a way to group: the key is an exporter's, and what is sent its datagram's number


class Row(NamedTuple):
    """What a flows partition adds to a key in a pane."""

    pane: int
    key: tuple[int, ...]
    sent: int
    packets: int = 1
    records: int = 1
    partition: int = 0
    by: str = "protocol"
    rule: Rule = Rule.ONLY


def as_served(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as the web gives it: of what names a key what is set, and all of its figures."""
    named = {"src_addr", "dst_addr", "src_port", "dst_port", "proto", "port", "src_as", "dst_as", "exporter", "in_if"}
    top = [{n: v for n, v in entry.items() if v is not None or n not in named} for entry in value["top"]]
    return {**value, "top": top}


def pane_of(index: int, rows: Iterable[Row]) -> Pane:
    """Return a pane of rows, in time order as the analysis gives it."""
    rows = list(rows)
    if not rows:
        return Pane(index, index * SECOND, (index + 1) * SECOND, PartialBatch.zeros(0))
    columns: dict[str, Any] = {
        "time_ns": [r.pane * SECOND for r in rows],
        "origin_id": [r.partition for r in rows],
        "origin_offset": [r.pane for r in rows],
        "origin_row": range(len(rows)),
        "cube": [int(Cube.SEQUENCE if r.by == SEQUENCE else WAYS[r.by].cube) for r in rows],
        "bits": np.array([1 << (r.key[3] & 63 if r.by == SEQUENCE else r.rule) for r in rows], np.uint64),
        "bytes": [r.sent for r in rows],
        "packets": [r.packets for r in rows],
        "records": [r.records for r in rows],
        "variance": [float(r.sent) ** 2 for r in rows],
        "weight_max": [float(r.sent) for r in rows],
    }
    for at, name in enumerate(KEYS):
        columns[name] = np.array([_words(r)[at] if at < len(_words(r)) else 0 for r in rows], np.uint64)
    batch = PartialBatch.of(len(rows), {name: np.asarray(column) for name, column in columns.items()})
    return Pane(index, index * SECOND, (index + 1) * SECOND, batch.in_time_order())


def _words(row: Row) -> tuple[int, ...]:
    if row.by != SEQUENCE:
        return row.key
    *owner, number = row.key
    return (*owner, number >> 6, number & 63)


def exported(panes: Iterable[int], lost: Sequence[int], kind: FlowType = FlowType.NETFLOW_V5) -> list[Row]:
    """Return the numbers of an exporter that sends a record in every pane, without those of the panes ``lost``."""
    return [Row(p, (0, int(kind), int(kind), p & 0xFFFF_FFFF), 1, by=SEQUENCE) for p in panes if p not in lost]


def fed(operator: TopTalkers, rows: Sequence[Row], first: int = 0) -> Iterator[tuple[int, list[Result]]]:
    """Give an operator the panes of rows from ``first`` on, as ``Analysis`` does, and yield what it says after each."""
    panes: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        panes[row.pane].append(row)
    history: list[Pane] = []
    wanted, last = iter(sorted(panes)), max(panes)
    at = next(wanted)
    while at <= last or not operator.quiet or any(len(p.rows) for p in history):
        history = [p for p in [*history, pane_of(at, panes.get(at, []))] if p.index >= at - operator.lookback]
        if at >= first:
            yield at, operator.process(history)
        if operator.quiet and not any(len(p.rows) for p in history):
            at = next((index for index in wanted if index > at), last + 1)
            if at > last:
                return
        else:
            at += 1


def run(config: TalkersConfig, rows: Sequence[Row]) -> list[Result]:
    """Return the talkers of all windows."""
    operator = TopTalkers(config, SECOND)
    return [r for _, said in fed(operator, rows) for r in said if r.stream == "talkers"]


def summed(rows: Iterable[Row]) -> dict[tuple[int, ...], list[int]]:
    """Return the sums of every key, in plain Python."""
    sums: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        for at, number in enumerate((row.sent, row.packets, row.records)):
            sums[row.key][at] += number
    return sums


def expected(config: TalkersConfig, rows: Sequence[Row]) -> dict[str, tuple[Any, ...]]:
    """Return the largest keys of every window by brute force: by result key, (keys, total, [(key, sums)])."""
    found: dict[str, tuple[Any, ...]] = {}
    for by in config.by:
        own = [r for r in rows if r.by == by]
        for size, step in config.windows:
            for end in sorted({(r.pane // step + 1) * step for r in own}):
                sums = summed(r for r in own if end - size <= r.pane < end)
                for ranking in config.wanted.rank:
                    m = MEASURES.index(ranking)
                    ranked = sorted((-s[m], key) for key, s in sums.items() if s[m] > 0)[: config.wanted.count]
                    top = [(key, *sums[key]) for _, key in ranked]
                    total = sum(s[m] for s in sums.values())
                    found[f"{(end - size) * SECOND}|{size}|{by}|{ranking}"] = (len(sums), total, top)
    return found


def ruled(config: TalkersConfig, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return by which rules the rows of every window count, by brute force: by result key, in the order of the enum."""
    found: dict[str, list[str]] = {}
    for by in config.by:
        own = [r for r in rows if r.by == by]
        for size, step in config.windows:
            for end in {(r.pane // step + 1) * step for r in own}:
                rules = {r.rule for r in own if end - size <= r.pane < end}
                for ranking in config.wanted.rank:
                    found[f"{(end - size) * SECOND}|{size}|{by}|{ranking}"] = [rule.name for rule in sorted(rules)]
    return found


def of_all(config: TalkersConfig, rows: Sequence[Row]) -> dict[str, tuple[int | None, float, float]]:
    """Return the bytes of every window with their bounds, by brute force: by result key, with bytes None if unsure.

    A row is a sample of its own.
    """
    found: dict[str, tuple[int | None, float, float]] = {}
    for by in config.by:
        own = [r for r in rows if r.by == by]
        for size, step in config.windows:
            for end in {(r.pane // step + 1) * step for r in own}:
                sent = [r.sent for r in own if end - size <= r.pane < end]
                total, squares = sum(sent), sum(n * n for n in sent)
                named = total if total**2 >= config.wanted.samples_min * squares else None
                bounds = interval(total, squares, max(sent))
                for ranking in config.wanted.rank:
                    found[f"{(end - size) * SECOND}|{size}|{by}|{ranking}"] = (named, *bounds)
    return found


def told(results: Iterable[Result], name: str = "proto") -> dict[str, tuple[Any, ...]]:
    """Return results in the form of ``expected``, of keys that are one number."""
    return {
        r.key: (
            r.value["keys"],
            r.value[r.value["ranked_by"]],
            [((t[name],), t["bytes"], t["packets"], t["records"]) for t in r.value["top"]],
        )
        for r in results
    }


CONFIG = TalkersConfig(((4, 2), (12, 4), (8, 8)), by=("protocol",), wanted=Wanted(count=3, samples_min=0.0))


def traffic(seed: int, panes: int = 60, keys: int = 40) -> list[Row]:
    """Return rows of some panes, with gaps, of a few large keys and many small ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for pane in range(FIRST, FIRST + panes):
        if (pane // 7) % 4 != 3:
            drawn = zip((rng.zipf(1.3, 8) % keys).tolist(), rng.integers((1, 0), (9, 4), (8, 2)).tolist(), strict=True)
            rule = Rule(pane // 5 % len(Rule))
            rows += [Row(pane, (key,), sent, 2, 1, partition, rule=rule) for key, (sent, partition) in drawn]
    return rows
