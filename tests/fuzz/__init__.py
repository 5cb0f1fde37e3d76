"""Fuzzing: laws over any bytes, one or more per reader, and what searches for bytes that break them.

``python -m tests.fuzz`` (``make fuzz``) searches with atheris; ``tests/contracts/test_hostile_bytes.py`` tries the same
laws on Hypothesis' bytes.
"""
