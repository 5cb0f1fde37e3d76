"""All laws, by the name of what they are about."""

from __future__ import annotations

from tests.fuzz import files, messages, records
from tests.fuzz.law import Law

LAWS: dict[str, Law] = messages.LAWS | records.LAWS | files.LAWS
