"""Rows of a CSV file that people keep: every complaint names the file, the line, and what would be right."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flowstream.errors import SettingsError


def read_text(path: Path) -> str:
    """Return a file's text, UTF-8; SettingsError where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def rows(
    text: str, source: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) of CSV text that begins with a header; empty lines are passed over.

    Raises SettingsError, naming ``source`` and the line, for a header or a line that does not fit.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, source, required, (*required, *optional))
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise SettingsError(
                    f"{source}, line {reader.line_num}: {len(cells)} columns where the header has {len(header)}; "
                    "give every column, quoting names that hold a comma"
                )
            yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise SettingsError(
            f"{source}, line {reader.line_num}: not CSV ({error}); check the quotes of that line"
        ) from error


def to_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Return rows as CSV text that ``rows`` reads."""
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _check_header(header: Sequence[str], source: str, required: Sequence[str], known: Sequence[str]) -> None:
    for name in required:
        if name not in header:
            raise SettingsError(
                f"{source}, line 1: column {name} is missing, the header is {','.join(header)!r}; "
                f"begin the file with {','.join(known)}"
            )
    for place, name in enumerate(header):
        if name not in known or name in header[:place]:
            raise SettingsError(
                f"{source}, line 1, column {place + 1}: {name!r} is unknown or there twice; "
                f"the columns are {', '.join(known)}"
            )
