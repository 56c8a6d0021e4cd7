"""One line of the health check: what was looked at, how it stands, and what to do where it is not well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    ok = "ok"
    note = "note"  # something is missing that not every run needs
    problem = "problem"  # runs fail, or their numbers cannot be believed


@dataclass(frozen=True)
class Check:
    """remedy: what to type or to do; empty where all is well."""

    name: str
    mark: Mark
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.mark.value:8}{self.name:20}{self.found}" + (f". {self.remedy}" if self.remedy else "")
