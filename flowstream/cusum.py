"""The sequential test behind elephant detection: a Poisson CUSUM over every sighting at once.

Page, "Continuous inspection schemes", Biometrika 41, 1954. The statistic of a sighting is the log likelihood
ratio of "its rate is r1 x level" against "r0 x level", floored at zero after every step, with samples of
weight w counted as w / E[w]:

    S <- max(0, S + c ln(r1 / r0) - (r1 - r0) L)      c = sum(w) / E[w],  L = level_bytes / E[w]

E[w] is the sighting's own running mean weight, so S leaves zero only where a tick's bytes outweigh the drift,
whatever E[w] is. A sighting at S = 0 therefore needs no memory, which is what bounds the state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowstream.elephant_state import RECORD_FLOOR_NS, SAMPLES, SECOND_NS, Cells, Floats, Sightings
from flowstream.estimate import enough, rate_interval
from flowstream.log_kernel import log1p

IDLE_NS = 60 * SECOND_NS  # a sighting by samples is given up after this silence, whatever its statistic
RECORD_LIFE_MAX_NS = 3600 * SECOND_NS  # the next record of a flow is awaited this long at most


@dataclass(frozen=True, slots=True)
class Cusum:
    """The test between ``low`` x level (r0) and ``high`` x level (r1), in ticks of ``tick_ns``.

    ``level_bps`` is per sighting, 0 where there is nothing to compare with: those keep S = 0.
    """

    low: float
    high: float
    tick_ns: int

    @property
    def gain(self) -> float:
        """How far one sample of mean weight moves the statistic up."""
        return float(log1p(self.high / self.low - 1.0))

    @property
    def drift(self) -> float:
        """How far a tick in which one sample is expected at the level moves it down."""
        return self.high - self.low

    def load(self, weight: Floats, level_bps: Floats, span_s: Floats | float) -> Floats:
        """Return each row's part of the drift over ``span_s``; S leaves zero where they exceed 1."""
        paid = self.drift * level_bps / 8.0 * span_s
        return np.divide(self.gain * weight, paid, out=np.zeros_like(weight), where=paid > 0.0)

    def advance_samples(self, state: Sightings, cells: Cells, tick: int, level_bps: Floats) -> None:
        """Take in the samples of one tick; for every sighting by samples the tick has passed."""
        rows, ring, at = state.rows, state.ring, cells.place
        column = tick % ring.shape[1]
        ring[:, column] = 0.0
        ring[at, column] = cells.sums
        _remember(state, cells)
        rows["due_ns"][at] = (tick + 1) * self.tick_ns + IDLE_NS
        rows["last_ns"][at] = cells.last_ns
        paid = level_bps / 8.0 * (self.tick_ns / SECOND_NS)
        step = _per_mean(state, slice(None), self.gain * ring[:, column, 1] - self.drift * paid)
        samples = by_samples(state)
        tested = samples & (level_bps > 0.0) & (rows["due_ns"] > (tick + 1) * self.tick_ns)
        before = rows["s"].copy()
        rows["s"] = np.where(samples, np.where(tested, np.maximum(0.0, before + step), 0.0), before)
        begun = (rows["since_tick"][at] < 0) | ((before[at] == 0.0) & (rows["s"][at] > 0.0))
        rows["since_tick"][at[begun]] = tick
        rows["first_ns"][at[begun]] = cells.first_ns[begun]

    def advance_records(
        self, state: Sightings, cells: Cells, tick: int, level_bps: Floats, hold_ns: int
    ) -> NDArray[np.int64]:
        """Take in the records that arrived in one tick; return how much time is new in each, in ns.

        A record is tested by the average rate over its own life: a constant rate moves S along a straight
        line, so one step over the life ends where ticking through it would. Its time is its own, not the
        arrival's: the silence between two records drifts, the wait for the next one does not. A record of
        which half or more lies in the hull before it (the flow split into several records, or a start that
        never moves) is added to that hull, and S is computed anew from where the hull began.
        """
        rows, at = state.rows[cells.place], cells.place
        start, end = cells.first_ns, cells.last_ns
        overlap = np.minimum(rows["hull_end_ns"], end) - np.maximum(rows["hull_start_ns"], start)
        known = rows["hull"][:, 0] > 0.0
        join = known & (overlap >= 0) & (2 * overlap >= end - start)
        new_ns = end - np.where(join, np.minimum(np.maximum(start, rows["hull_end_ns"]), end), start)
        silence_s = np.where(known & ~join, np.maximum(0, start - rows["hull_end_ns"]), 0) / SECOND_NS
        _remember(state, cells)
        level = level_bps[at]
        rest = rows["s"] - _per_mean(state, at, self.drift * level / 8.0 * silence_s)
        base = np.where(join, rows["s_base"], np.maximum(0.0, rest))
        hull = cells.sums + np.where(join[:, None], rows["hull"], 0.0)
        start = np.where(join, np.minimum(start, rows["hull_start_ns"]), start)
        end = np.where(join, np.maximum(end, rows["hull_end_ns"]), end)
        paid = self.drift * level / 8.0 * np.maximum(end - start, RECORD_FLOOR_NS) / SECOND_NS
        s = np.maximum(0.0, base + _per_mean(state, at, self.gain * hull[:, 1] - paid))
        begun = (rows["since_tick"] < 0) | ((rows["s"] == 0.0) & (s > 0.0) & (rows["active"] == 0))
        wait = np.minimum(np.maximum(new_ns, RECORD_FLOOR_NS), RECORD_LIFE_MAX_NS)
        # Exporters look through their cache in rounds, so the next record may be late by a part of its life.
        due = (tick + 1) * self.tick_ns + wait + wait // 4 + hold_ns
        for name, value in (
            ("s_base", np.where(level > 0.0, base, 0.0)),
            ("s", np.where(level > 0.0, s, 0.0)),
            ("hull", hull),
            ("hull_start_ns", start),
            ("hull_end_ns", end),
            ("due_ns", np.where(join, np.maximum(due, rows["due_ns"]), due)),
            ("since_tick", np.where(begun, tick, rows["since_tick"])),
            ("first_ns", np.where(begun, start, np.minimum(rows["first_ns"], start))),
            ("last_ns", np.maximum(rows["last_ns"], end)),
            ("fresh", 1),
        ):
            state.rows[name][at] = value
        return new_ns


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rates of some sightings: (n,) arrays of samples, weight (bytes), variance, and bits per second."""

    samples: Floats
    weight: Floats
    variance: Floats
    seconds: Floats
    weight_max: Floats

    def take(self, index: NDArray[np.bool_]) -> Estimate:
        """Select some."""
        return Estimate(*(getattr(self, name)[index] for name in self.__slots__))

    @property
    def rate_bps(self) -> Floats:
        """The rate."""
        return self.weight * 8.0 / self.seconds

    def enough(self, samples_min: float) -> NDArray[np.bool_]:
        """Return of which there are enough samples to name the rate; of what was only counted there always are."""
        unseen = (self.samples == 0.0) & (self.weight_max > 0.0) & (samples_min > 0.0)
        return np.asarray(enough(self.weight, self.variance, samples_min) & ~unseen)

    def bounds_bps(self, confidence: float) -> tuple[Floats, Floats]:
        """Return the gamma interval of the rate; exactly zero where all was counted and nothing came."""
        low, high = rate_interval(self.weight, self.variance, self.weight_max, confidence)
        return low * 8.0 / self.seconds, np.nan_to_num(high, nan=0.0) * 8.0 / self.seconds


def estimate(state: Sightings, at: NDArray[np.int64], tick: int, tick_ns: int) -> Estimate:
    """Estimate rates as of the end of a tick.

    Of samples: over the ticks of the current run, the newest ``window_ticks`` at most; of records: over the
    hull.
    """
    rows, window = state.rows[at], state.ring.shape[1]
    ticks = np.where(rows["since_tick"] < 0, window, np.minimum(window, tick + 1 - rows["since_tick"]))
    age = (tick - np.arange(window)) % window
    recent = np.where((age[None, :] < ticks[:, None])[:, :, None], state.ring[at], 0.0).sum(axis=1)
    sampled = rows["key"][:, 7] >> np.uint64(32) == SAMPLES
    sums = np.where(sampled[:, None], recent, rows["hull"])
    life_ns = np.maximum(rows["hull_end_ns"] - rows["hull_start_ns"], RECORD_FLOOR_NS)
    seconds = np.where(sampled, ticks * tick_ns, life_ns) / SECOND_NS
    return Estimate(sums[:, 0], sums[:, 1], sums[:, 2], seconds, rows["weight_max"])


def by_samples(state: Sightings) -> NDArray[np.bool_]:
    """Mark the sightings that are seen through samples, not records."""
    return np.asarray(state.rows["key"][:, 7] >> np.uint64(32) == SAMPLES)


def _remember(state: Sightings, cells: Cells) -> None:
    rows, at = state.rows, cells.place
    rows["count"][at] += cells.sums[:, 0]
    rows["weight"][at] += cells.sums[:, 1]
    rows["weight_max"][at] = np.maximum(rows["weight_max"][at], cells.weight_max)
    rows["ttl"][at] = np.maximum(rows["ttl"][at], cells.ttl)
    rows["out_if"][at] = cells.out_if


def _per_mean(state: Sightings, at: NDArray[np.int64] | slice, weight: Floats) -> Floats:
    count, total = state.rows["count"][at], state.rows["weight"][at]
    steps: Floats = np.divide(weight * count, total, out=np.zeros_like(weight), where=total > 0.0)
    return steps
