"""Names and shapes of our topics. The version in a name is its schema's: a new shape is a new topic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flowstream.settings import Settings

#: Result streams and the operator that says them.
STREAMS: Mapping[str, str] = {
    "distances": "distances",
    "distance-pairs": "distances",
    "distance-pair-blocks": "distances",
    "elephants": "elephants",
    "paths": "paths",
    "path-events": "paths",
    "path-windows": "paths",
    "elephant-links": "paths",
    "sources": "sources",
    "input-quality": "quality",
    "talkers": "talkers",
    "talker-steps": "talkers",
    "link-use": "links",
    "link-use-percentiles": "links",
    "link-events": "links",
}

#: Streams whose records may be large: of very many sources, pairs or interfaces.
WIDE = frozenset({"sources", "distance-pair-blocks", "link-use", "link-use-percentiles"})

#: Streams that all replays of a prefix share with the live app.
SHARED = frozenset({"links", "topology", "replays"})

BLOCK_BYTES_MAX = 16 << 20  # a flows or changelog message: a block of one huge message's rows, a snapshot


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic should be."""

    name: str
    purpose: str
    schema: str  # name of its Avro schema, without version
    partitions: int
    config: Mapping[str, str]


def name(settings: Settings, stream: str, version: int = 1) -> str:
    """Return the topic of a stream, e.g. ``flowstream.elephants.v1``, of a replay ``flowstream.elephants.v1.tuned``."""
    chosen = settings.topics
    own = {"flows": chosen.flows_suffix, "partials": chosen.suffix or chosen.partials_suffix}
    suffix = "" if stream in SHARED else own.get(stream, chosen.suffix)
    return f"{chosen.prefix}.{stream}.v{version}" + (f".{suffix}" if suffix else "")


def specs(settings: Settings) -> list[TopicSpec]:
    """Return every topic flowstream writes, in the order of the flow."""
    hour_ms = 3_600_000
    flows = {
        "cleanup.policy": "delete",
        "retention.ms": str(int(settings.topics.flows_retention_hours * hour_ms)),
        "max.message.bytes": str(BLOCK_BYTES_MAX),
    }
    kept = {
        "cleanup.policy": "delete",
        "retention.ms": str(int(settings.topics.results_retention_hours * hour_ms)),
    }
    late = {**kept, "max.message.bytes": str(BLOCK_BYTES_MAX)}
    upserted = {**kept, "cleanup.policy": "compact,delete"}
    wide = {**upserted, "max.message.bytes": str(BLOCK_BYTES_MAX)}
    # Steps are wanted for as long as windows reach back, also by a worker that comes back after some time.
    longest_h = max(window.size_s for window in settings.talkers.windows) / 3600
    steps_ms = int((2 * longest_h + settings.topics.results_retention_hours) * hour_ms)
    steps = {**wide, "retention.ms": str(steps_ms)}
    compacted = {"cleanup.policy": "compact"}
    count = settings.topics.partitions
    made = [
        TopicSpec(name(settings, "flows"), "flow records as columnar blocks", "flow_block", count, flows),
        TopicSpec(name(settings, "dead-letters"), "messages that could not be used", "dead_letter", count, kept),
        TopicSpec(name(settings, "late"), "rows behind the watermark", "flow_block", count, late),
        TopicSpec(name(settings, "links"), "link capacities", "links", 1, compacted),
        TopicSpec(name(settings, "topology"), "which port is joined to which", "topology", 1, compacted),
        TopicSpec(name(settings, "replays"), "replays and promotions", "replays", 1, compacted),
    ]  # fmt: skip
    if settings.is_merging:
        made.insert(1, TopicSpec(name(settings, "partials"), "sums by pane and cube", "partial_block", count, flows))
    purposes = {
        "distances": "distance summary per source and window",
        "distance-pairs": "single pairs",
        "distance-pair-blocks": "all pairs, in blocks",
        "elephants": "elephant flow events",
        "paths": "where flows went",
        "path-events": "flows that changed their path",
        "path-windows": "how much the paths tell",
        "elephant-links": "elephants that share a link",
        "sources": "table of sources per window",
        "input-quality": "doubtful rows per exporter",
        "talkers": "top talkers per window, grouping and ranking",
        "talker-steps": "what windows of talkers are put together from",
        "link-use": "load of interfaces per exporter and interval",
        "link-use-percentiles": "95th percentiles of it per exporter, hour and day",
        "link-events": "links over the threshold",
    }
    for stream, purpose in purposes.items():
        if STREAMS[stream] in settings.analyses:
            config = steps if stream == "talker-steps" else wide if stream in WIDE else upserted
            made.append(TopicSpec(name(settings, stream), purpose, stream.replace("-", "_"), count, config))
    return made


def stream_of(settings: Settings, topic: str) -> str | None:
    """Return which stream a topic name is, with whatever suffix; None if it is not ours."""
    found = re.fullmatch(re.escape(settings.topics.prefix) + r"\.(.+)\.v[0-9]+(\.[a-z0-9_-]+)?", topic)
    return found.group(1) if found else None
