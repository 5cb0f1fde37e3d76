"""Windows kept as running sums: whose snapshots they take."""

from __future__ import annotations

import pytest

from flowstream.counting_results import CountingResults
from flowstream.errors import StateError
from flowstream.export_loss_results import ExportLoss
from flowstream.running_windows import RunningWindows

S = 10**9
KINDS = (CountingResults, ExportLoss)


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_of_the_same_windows_is_taken(kind: type[RunningWindows]) -> None:
    state = kind(60, S).snapshot()
    again = kind(60, S)
    again.restore(state)
    assert again.snapshot() == state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_panes", [30, 61])
def test_a_snapshot_of_windows_of_another_length_is_refused(kind: type[RunningWindows], size_panes: int) -> None:
    with pytest.raises(StateError, match=f"over {size_panes * S} ns"):
        kind(60, S).restore(kind(size_panes, S).snapshot())


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_of_another_operator_is_refused(kind: type[RunningWindows]) -> None:
    state = kind(60, S).snapshot().replace(kind.name.encode(), b"x" * len(kind.name))
    with pytest.raises(StateError, match="a snapshot of x"):
        kind(60, S).restore(state)
