"""Kernels over sorted tables of keys: adding them, subtracting them, finding keys in them.

Keys are rows of 64-bit words, most significant first, each key once, in ascending order. No key is without a sum
above zero: so one whose sums all come to zero is in none of the tables that were added, and goes.
"""

from __future__ import annotations

from flowstream.bare_kernel import bare_njit, inline_njit


@inline_njit
def _compare(left, i, right, j):  # type: ignore[no-untyped-def]
    """Return -1, 0 or 1 as the key at ``i`` of one table is before, at or behind that at ``j`` of the other."""
    for word in range(left.shape[1]):
        if left[i, word] != right[j, word]:
            return -1 if left[i, word] < right[j, word] else 1
    return 0


@bare_njit
def sum_rows(order, bounds, columns, weights, limit, sums, spread):  # type: ignore[no-untyped-def]
    """Sum up the rows of each group, in their order; nothing counts as less than zero or more than ``limit``.

    ``columns`` and ``sums`` are bytes, packets and records, ``weights`` and ``spread`` variance and largest weight.
    """
    for group in range(len(bounds) - 1):
        for at in range(bounds[group], bounds[group + 1]):
            row = order[at]
            for measure in range(sums.shape[1]):
                value = min(max(columns[measure, row], 0), limit)
                sums[group, measure] = min(sums[group, measure] + value, limit)
            spread[group, 0] += weights[0, row]
            spread[group, 1] = max(spread[group, 1], weights[1, row])


@inline_njit
def _add(keys, sums, spread, at, out_keys, out_sums, out_spread, row, is_first):  # type: ignore[no-untyped-def]
    """Add a key's sums to the row that is being written, or begin it with them."""
    for word in range(keys.shape[1]):
        out_keys[row, word] = keys[at, word]
    for measure in range(sums.shape[1]):
        out_sums[row, measure] = sums[at, measure] + (0 if is_first else out_sums[row, measure])
    if spread.shape[1]:
        out_spread[row, 0] = spread[at, 0] + (0.0 if is_first else out_spread[row, 0])
        out_spread[row, 1] = max(spread[at, 1], 0.0 if is_first else out_spread[row, 1])


@bare_njit
def slide(  # type: ignore[no-untyped-def]
    keys, sums, spread, added_keys, added_sums, added_spread, leaving_keys, leaving_sums, out_keys, out_sums, out_spread
):
    """Write a table plus one, minus another whose keys are all in the first; return how many keys are left.

    ``spread`` has two columns, variance, which adds, and largest weight; or none.
    """
    i = j = k = row = 0
    while i < len(keys) or j < len(added_keys):
        order = 1 if i == len(keys) else -1 if j == len(added_keys) else _compare(keys, i, added_keys, j)
        if order <= 0:
            _add(keys, sums, spread, i, out_keys, out_sums, out_spread, row, is_first=True)
            if k < len(leaving_keys) and _compare(keys, i, leaving_keys, k) == 0:
                for measure in range(sums.shape[1]):
                    out_sums[row, measure] -= leaving_sums[k, measure]
                k += 1
            i += 1
        if order >= 0:
            _add(added_keys, added_sums, added_spread, j, out_keys, out_sums, out_spread, row, is_first=order > 0)
            j += 1
        held = False
        for measure in range(sums.shape[1]):
            held |= out_sums[row, measure] != 0
        row += held
    return row


@bare_njit
def add_spread(wanted, keys, spread, out):  # type: ignore[no-untyped-def]
    """Add a table's variance and largest weight to those of the wanted keys that it has."""
    for row in range(len(wanted)):
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            if _compare(keys, middle, wanted, row) < 0:
                low = middle + 1
            else:
                high = middle
        if low < len(keys) and _compare(keys, low, wanted, row) == 0:
            out[row, 0] += spread[low, 0]
            out[row, 1] = max(out[row, 1], spread[low, 1])
