"""flowstream: exact, replayable stream processing of network flow telemetry.

The library half: no Kafka, no Faust, no clock. ``agents`` joins it to both.
"""

from pathlib import Path

from flowstream import kernel_cache

__version__ = "0.1.0"

kernel_cache.choose(Path(__file__).parent)
