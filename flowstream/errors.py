"""What can go wrong, as a tree.

FlowstreamError            everything raised on purpose; the command line prints it as one line
|- SettingsError           a setting, named with its value and the fix
|- SchemaError             an Avro schema that is unknown, or does not fit the bytes
|- DecodeError             bytes that are not what their format says; carries a Reason
|- StateError              a snapshot or a block that this version cannot restore
|- ReplayError             a replay, promotion or reset that cannot be done as asked, or stands in a worker's way
`- BrokerError             Kafka cannot be reached, or lacks a topic
"""

from enum import IntEnum


class Reason(IntEnum):
    """Why a message was not decoded: a closed set, because it labels a metric and a dead letter."""

    EMPTY = 1  # no bytes at all
    TRUNCATED = 2  # the bytes end inside a field
    MALFORMED = 3  # not this wire format
    NO_TIME = 4  # no usable time: an event without one cannot be placed in a window
    NO_ADDRESS = 5  # an address that is neither 4 nor 16 bytes, or no source address
    TIME_OUT_OF_RANGE = 6  # years away from any plausible clock, or far ahead of the log
    UNKNOWN_SCHEMA = 7  # framed with a schema id or fingerprint we do not have
    TOO_LARGE = 8  # larger than the limit of the format
    OUT_OF_RANGE = 9  # a number that does not fit its field

    @property
    def label(self) -> str:
        """The name used in metrics and dead letters, e.g. ``no_time``."""
        return self.name.lower()


class FlowstreamError(Exception):
    """Base of every error raised on purpose."""


class SettingsError(FlowstreamError):
    """A setting is wrong; the message names it, its value and the fix."""


class SchemaError(FlowstreamError):
    """A schema is unknown or does not describe the bytes at hand."""


class DecodeError(FlowstreamError):
    """The bytes are not what their format says."""

    def __init__(self, wire_format: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{wire_format}: {reason.label}" + (f": {detail}" if detail else ""))
        self.wire_format = wire_format
        self.reason = reason


class StateError(FlowstreamError):
    """A snapshot or a block cannot be restored by this version."""


class ReplayError(FlowstreamError):
    """A replay, promotion or reset cannot be done as asked, or an app must not run because of one."""


class BrokerError(FlowstreamError):
    """Kafka cannot be reached, or lacks what we need."""
