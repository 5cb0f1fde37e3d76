"""What is printed of paths."""

from flowstream.render import path_text, render_line
from tests.unit.test_render import FLOW, T_NS


def hop(node, into, out, **more):
    return {"node": node, "in_port": into, "out_port": out, "in_if": 7, "out_if": None, "missing_after": 0} | more


PATH = {
    "window_end_ns": T_NS, "flow": FLOW, "elephant": True, "bytes": 1234567, "bytes_low": 1000000,
    "bytes_high": 1500000, "samples": 40, "ambiguous": False,
    "paths": [{
        "ordered_by": "topology", "entered_from": "hA", "left_to": "hC", "first_known": True, "last_known": True,
        "hops": [
            hop("leaf1", "l1h", "l1s1"), hop("spine1", "s1l1", "s1l3", inferred=True), hop("leaf3", "l3s1", "l3h"),
        ],
    }],
}  # fmt: skip


def test_a_path_is_a_line_from_host_to_host():
    assert render_line("paths", "", PATH) == (
        "01:33:27.354 tcp 10.0.1.11:40012 > 10.0.3.11:5202  hA > leaf1[l1h>l1s1] > (spine1[s1l1>s1l3]) > "
        "leaf3[l3s1>l3h] > hC  1,234,567 B [1,000,000 to 1,500,000], by topology, elephant"
    )
    line = render_line("paths", "", PATH | {"bytes": None})
    assert line.endswith(" > hC  1,000,000 to 1,500,000 B, not enough samples, by topology, elephant")


def test_what_is_not_known_of_a_path_is_shown_as_such():
    path = {
        "entered_from": None,
        "left_to": None,
        "hops": [hop("10.0.0.1", None, None, missing_after=2), hop("b", "x", "y")],
    }
    assert path_text(path | {"first_known": True}, FLOW) == "10.0.1.11 > 10.0.0.1[7>?] > ? > ? > b[x>y] > ..."
    two = PATH | {"ambiguous": True, "paths": [path | {"ordered_by": "ttl"}] * 2}
    assert render_line("paths", "", two).count(" | ... > 10.0.0.1[7>?]") == 1


def test_a_change_of_path_says_what_it_was_and_is():
    before = {"entered_from": "hA", "left_to": None, "hops": [hop("a", "b", "c")]}
    line = render_line("path-events", "", {**PATH, "before": before, "after": before | {"hops": [hop("d", "e", "f")]}})
    assert line.endswith("was hA > a[b>c] > 10.0.3.11  is hA > d[e>f] > 10.0.3.11")


def test_a_window_of_paths_says_how_much_of_it_is_told():
    value = {
        "window_end_ns": T_NS, "flows": 1234, "flows_told": 1000, "bytes": 2000, "bytes_low": 1900, "bytes_high": 2200,
        "samples": 50, "bytes_told": 1500, "complete": 900, "ambiguous": 7,
    }  # fmt: skip
    rest = "900 known whole, 7 in doubt"
    line = f"01:33:27.354 1,234 flows, 2,000 B [1,900 to 2,200], of 1,000 the path is told (75% of bytes): {rest}"
    assert render_line("path-windows", "", value) == line
    line = f"01:33:27.354 1,234 flows, 1,900 to 2,200 B, not enough samples, of 1,000 the path is told: {rest}"
    assert render_line("path-windows", "", value | {"bytes": None, "bytes_told": None}) == line
    assert " 0 flows, 0 B, of 0 the path is told: 0 " in render_line("path-windows", "", dict.fromkeys(value, 0))
