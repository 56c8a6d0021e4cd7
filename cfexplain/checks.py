"""Ranges of a spec's values: a ValueError names the field, what it must be, and what it got."""

from __future__ import annotations


def check_positive(spec: object, *names: str) -> None:
    for name in names:
        if getattr(spec, name) <= 0:
            raise ValueError(f"{name} must be > 0, got {getattr(spec, name)}")


def check_at_least(spec: object, **least: int) -> None:
    """By field; null passes."""
    for name, low in least.items():
        value = getattr(spec, name)
        if value is not None and value < low:
            raise ValueError(f"{name} must be >= {low}, got {value}")


def check_seed(spec: object) -> None:
    if spec.seed is not None and not 0 <= spec.seed < 2**32:
        raise ValueError(f"seed must be between 0 and {2**32 - 1}, got {spec.seed}")


def check_limits(spec: object, **least: int) -> None:
    """By field; upper limits of which null is none."""
    for name, low in least.items():
        value = getattr(spec, name)
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, or null for all, got {value}")


def check_between(spec: object, low: float, high: float, *names: str) -> None:
    for name in names:
        if not low <= getattr(spec, name) <= high:
            raise ValueError(f"{name} must lie between {low} and {high}, got {getattr(spec, name)}")


def check_share(spec: object, *names: str) -> None:
    """Neither nothing nor all."""
    for name in names:
        if not 0 < getattr(spec, name) < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {getattr(spec, name)}")


def check_range(spec: object, part: str, most: float) -> None:
    """0 < min_<part> <= max_<part> <= most."""
    low, high = getattr(spec, f"min_{part}"), getattr(spec, f"max_{part}")
    if not 0 < low <= high <= most:
        raise ValueError(f"min_{part} must be > 0 and at most max_{part}, and that {most}, got {low} and {high}")
