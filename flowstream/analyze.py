"""The analyses over recorded files: the same pipeline as the worker's, without a broker."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.progress import Progress

from flowstream.errors import SettingsError
from flowstream.links import LinkTable
from flowstream.operators import Result, Said
from flowstream.pipeline import FilePipeline, Ledger, decode_context, in_batches
from flowstream.recordings import Recording, RecordingError
from flowstream.results import KEPT, column_to_json, to_json
from flowstream.settings import Settings
from flowstream.topics import STREAMS
from flowstream.topology import Topology
from flowstream.topology_json import read_topology


class ResultFiles:
    """One JSON Lines file per stream in a folder, or everything on standard output."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        if folder is not None:
            with _writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for stream in STREAMS:  # what an earlier run said would pass for this one's
                    (folder / f"{stream}.jsonl").unlink(missing_ok=True)

    def write(self, said: Iterable[Said]) -> None:
        """Append results, one line each; what operators keep for themselves is none."""
        for results in said:
            if results.stream in KEPT:
                continue
            lines = (
                [to_json(results.stream, results.value)]
                if isinstance(results, Result)
                else column_to_json(results).values()
            )
            self._file(results.stream).write(b"\n".join([*lines, b""]))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.flush()
            if self._folder is not None:
                file.close()

    def _file(self, stream: str) -> BinaryIO:
        if stream not in self._files:
            if self._folder is None:
                self._files[stream] = sys.stdout.buffer
            else:
                with _writable(self._folder):
                    self._files[stream] = (self._folder / f"{stream}.jsonl").open("wb")
        return self._files[stream]


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"--output {folder}: cannot be written ({error.strerror})") from error


def analyze_files(
    settings: Settings,
    paths: Sequence[Path],
    wire_format: str | None,
    links_file: Path | None,
    topology_file: Path | None,
    output: Path | None,
    bar: Progress,
) -> Ledger:
    """Analyse files of one format, one after the other as one stream; return where everything went.

    Raises FlowstreamError for a file that cannot be read, and where the files are of different formats or none
    of their messages is of the format.
    """
    recordings = [Recording(path, wire_format) for path in paths]
    formats = sorted({r.wire_format for r in recordings})
    if len(formats) > 1:
        raise RecordingError(f"the files are of different formats ({', '.join(formats)}); analyse them apart")
    links = LinkTable() if links_file is None else LinkTable.from_path(links_file)
    topology = Topology() if topology_file is None else read_topology(topology_file)
    context = decode_context(settings.inputs[0])
    pipeline = FilePipeline(settings, links, settings.inputs[0].topic, formats[0], context, topology)
    files = ResultFiles(output)
    task = bar.add_task("analyse", total=sum(r.bytes_total for r in recordings))
    done = 0
    try:
        for recording in recordings:
            for payloads in in_batches(recording.messages()):
                files.write(pipeline.feed(payloads))
                bar.update(task, completed=done + recording.bytes_read)
            done += recording.bytes_total
        files.write(pipeline.finish())
    finally:
        files.close()
    ledger = pipeline.ledger
    if 0 < ledger.messages == ledger.rejected:
        first = pipeline.rejected[0]
        raise RecordingError(
            f"none of {ledger.messages:,} messages is {formats[0]} (the first is {first.reason.label}); "
            f"name their format with --format"
        )
    return ledger
