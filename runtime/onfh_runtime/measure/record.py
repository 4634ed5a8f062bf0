"""The record of a measurement: figures, and beside them all that is needed to believe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from onfh_runtime.measure.fingerprint import machine_fingerprint

__all__ = ["SCHEMA", "record"]

SCHEMA = "onfh-benchmark/1"


def record(
    name: str,
    command: str,
    *,
    settings: Mapping[str, object],
    results: Mapping[str, object],
    does_not_measure: Sequence[str],
    machine: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The document that every benchmark writes as JSON.

    Args:
        name: of the benchmark.
        command: how to take it again, without paths: they may name a patient.
        settings: what was chosen.
        results: the figures; their names end in their unit.
        does_not_measure: sentences.
        machine: its fingerprint, taken when it had just done the work; None takes it now.
    """
    return {
        "schema": SCHEMA,
        "name": name,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "machine": machine_fingerprint() if machine is None else dict(machine),
        "settings": dict(settings),
        "results": dict(results),
        "does_not_measure": list(does_not_measure),
    }
