"""A real CLOS fabric on one machine, to show and judge flowstream on; docs/testbed.md."""
