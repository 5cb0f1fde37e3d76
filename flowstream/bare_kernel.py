"""Decorators of kernels that allocate nothing, called very often with arrays that outlive the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Numba holds on to every array for as long as a function may use it: two locked additions per array and call, which
# were more than half of the time spent on a group of six flows. Without its runtime it counts nothing, and does
# not compile a function that allocates. The option is that of ``numba.extending.register_jitable``'s documentation.
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}


def bare_njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that makes no array; whoever calls it keeps those it is given alive."""
    compiled: Callable[..., Any] = njit(**_OPTIONS)(function)
    return compiled


def inline_njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a small one of those into its callers: a call costs more than it does, above all if it returns a pair."""
    compiled: Callable[..., Any] = njit(**_OPTIONS, forceinline=True)(function)
    return compiled
