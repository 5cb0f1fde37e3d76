"""Every reader's law over hostile bytes: the seeds of ``tests/fuzz`` with changes, and what once broke a law.

``make fuzz`` searches longer, with atheris and with many more examples of these.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.findings import FINDINGS
from tests.fuzz.law import Law
from tests.fuzz.laws import LAWS
from tests.fuzz.replay import digest, mutants

WITH_KERNELS = sorted(set(LAWS) - {"avro-schema", "links", "progress", "settings-file", "settings-variables"})


@st.composite
def changed(draw: st.DrawFn, law: Law) -> bytes:
    """A seed with a few places overwritten, put in, taken out, or repeated; or any bytes at all."""
    octets = draw(st.sampled_from(law.seeds) | st.binary(max_size=60))
    piece = st.sampled_from([b"", *law.tokens]) | st.binary(max_size=12)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(octets)))
        end = draw(st.integers(at, min(len(octets), at + 12)))
        octets = octets[:at] + (draw(piece) if draw(st.booleans()) else octets[at:end] * 2) + octets[end:]
    return octets


@pytest.mark.parametrize("name", sorted(LAWS))
@given(data=st.data())
def test_whatever_the_bytes_the_law_of_their_reader_holds(name: str, data: st.DataObject) -> None:
    LAWS[name].check(data.draw(changed(LAWS[name])))


@pytest.mark.parametrize("name", sorted(LAWS))
def test_a_seed_is_not_what_noise_is(name: str) -> None:
    noise = repr(LAWS[name].check(b"\xff"))
    assert [seed for seed in LAWS[name].seeds if repr(LAWS[name].check(seed)) == noise] == []


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_once_broke_a_law_does_so_no_more(finding: str) -> None:
    name, octets = FINDINGS[finding]
    LAWS[name].check(octets)


def test_kernels_say_the_same_where_an_index_beyond_an_array_is_an_error() -> None:
    """Interpreted, a kernel's arrays are numpy's, which check every index that compiled code does not."""
    interpreted = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.replay", ",".join(WITH_KERNELS)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert interpreted.returncode == 0, interpreted.stderr
    compiled = {name: digest(LAWS[name], [*LAWS[name].seeds, *mutants(LAWS[name])]) for name in WITH_KERNELS}
    assert dict(line.split() for line in interpreted.stdout.splitlines()) == compiled
