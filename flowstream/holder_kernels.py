"""Kernels over remembered flows: ``flowstream/holders.py`` says what they are for.

``words`` are the words of rows and ``known`` those of entries: 0-4 the flow (flow_keys.py), 5-6 exporter, 7 in_if.
``panes`` are those of entries: 0 since when, 1 last told, 2 last told by the former holder, 3 first told by another
place.
"""

from __future__ import annotations

import numpy as np

from flowstream.bare_kernel import bare_njit, inline_njit
from flowstream.hashing import mix


@inline_njit
def _slot(words, row, mask):  # type: ignore[no-untyped-def]
    """Return where in the table to look for the flow of a row first."""
    hashed = mix(words[row, 0], words[row, 1], np.uint64(0))
    hashed = mix(hashed, words[row, 2], np.uint64(0))
    hashed = mix(hashed, words[row, 3], np.uint64(0))
    return mix(hashed, words[row, 4], np.uint64(0)) & mask


@inline_njit
def _is_at(words, row, known, entry):  # type: ignore[no-untyped-def]
    """Return whether a row is of the place of an entry."""
    return words[row, 5] == known[entry, 5] and words[row, 6] == known[entry, 6] and words[row, 7] == known[entry, 7]


@bare_njit
def put(words, first, end, table, probes):  # type: ignore[no-untyped-def]
    """Put entries, of which none is there yet, into the table; return whether the probes did."""
    mask = np.uint64(len(table) - 1)
    for entry in range(first, end):
        slot = _slot(words, entry, mask)
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
            probes -= 1
            if probes < 0:
                return False
        table[slot] = entry
    return True


@bare_njit
def look_up(words, known, table, entry, probes):  # type: ignore[no-untyped-def]
    """Write the entries of the flows of rows that have one; return whether the probes did."""
    mask = np.uint64(len(table) - 1)
    for row in range(len(words)):
        slot = _slot(words, row, mask)
        while table[slot] >= 0:
            other = table[slot]
            same = True
            for word in range(5):
                same &= words[row, word] == known[other, word]
            if same:
                entry[row] = other
                break
            slot = (slot + np.uint64(1)) & mask
            probes -= 1
            if probes < 0:
                entry[:] = -1
                return False
    return True


@bare_njit
def tell(entry, words, known, panes, pane, remember):  # type: ignore[no-untyped-def]
    """Note which holders told of their flows in a new pane, and of which flows another place did."""
    for row in range(len(entry)):
        own = entry[row]
        if own < 0 or pane - panes[own, 1] > remember:
            continue
        if _is_at(words, row, known, own):
            panes[own, 1] = pane
        else:
            panes[own, 3] = min(panes[own, 3], pane)


@bare_njit
def know(entry, words, known, panes, pane, remember, state):  # type: ignore[no-untyped-def]
    """Write what was known of each row when the pane was new."""
    for row in range(len(entry)):
        own = entry[row]
        state[row] = 0
        if own < 0 or pane == panes[own, 0]:
            continue
        if pane < panes[own, 0]:
            # The flow was still that of the former holder, of which no record is left to ask about.
            state[row] = 3 if pane - panes[own, 2] <= remember else 0
        elif pane - panes[own, 1] <= remember:
            state[row] = 3 if not _is_at(words, row, known, own) else 2 if panes[own, 3] <= pane else 1


@bare_njit
def take_over(entry, words, won, known, panes, pane):  # type: ignore[no-untyped-def]
    """Let the places of rows that count hold their flows, as far as these have an entry."""
    for row in range(len(entry)):
        own = entry[row]
        if own < 0 or not won[row] or panes[own, 0] == pane:
            continue
        for word in range(5, 8):
            known[own, word] = words[row, word]
        panes[own, 2] = panes[own, 1]
        panes[own, 0] = panes[own, 1] = pane
        panes[own, 3] = 1 << 62


@bare_njit
def share(entry, words, known, panes, pane):  # type: ignore[no-untyped-def]
    """Note of flows that are held since this pane whether another place told of them in it, too."""
    for row in range(len(entry)):
        own = entry[row]
        if own >= 0 and panes[own, 0] == pane and not _is_at(words, row, known, own):
            panes[own, 3] = pane
