"""flowstream: exact, replayable stream processing of network flow telemetry.

The library half: no Kafka, no Faust, no clock. ``agents`` joins it to both.
"""

__version__ = "0.1.0"
