"""Faults: real workers on a real broker are harmed, and an independent checker says whether a result changed."""
