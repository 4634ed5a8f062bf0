"""What is well formed and cannot be meant, or should be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.config_checks import problems_of, warnings_here, warnings_of

PEER = {"name": "ct", "ae_title": "CT", "addresses": ["10.0.0.1"]}
PACS = {"name": "pacs", "ae_title": "PACS", "host": "localhost", "port": 104}


def config(tmp_path: Path, **fields: Any) -> ListenConfig:
    return ListenConfig.model_validate({"state_dir": tmp_path / "state", "peers": [PEER], **fields})


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"routes": [{"name": "r", "deadline_s": 5.0}]}, ("routes", 0, "deadline_s")),
        ({"series": {"quiet_s": 700.0}}, ("series", "max_wait_s")),
        ({"disk": {"max_spool_bytes": 4_000_000}}, ("disk", "max_spool_bytes")),
        ({"destinations": [{**PACS, "send": ["sr", "sr"]}]}, ("destinations", 0, "send")),
        (
            {"destinations": [{**PACS, "retry": {"first_s": 9.0, "most_s": 3.0}}]},
            ("destinations", 0, "retry", "first_s"),
        ),
    ],
)
def test_what_cannot_be_meant_is_a_problem(tmp_path: Path, fields: dict[str, Any], place: tuple[object, ...]) -> None:
    assert [problem.place for problem in problems_of(config(tmp_path, **fields))] == [place]


@pytest.mark.parametrize(
    "fields",
    [
        {"routes": [{"name": "r", "deadline_s": 5.1}]},
        {"routes": [{"name": "r", "deadline_s": 3.0}], "series": {"complete_when": "count", "count": 60}},
        {"disk": {"max_spool_bytes": 1 << 32}},
        {"destinations": [PACS], "routes": [{"name": "r", "destinations": ["pacs"]}]},
    ],
)
def test_what_can_be_meant_is_none(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert problems_of(config(tmp_path, **fields)) == []
    assert warnings_of(config(tmp_path, **fields)) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"routes": [{"name": "r", "from": []}]}, ["peers: no route takes what ct sends, so it is rejected.",
                                                   "routes: no series ever takes the route r."]),
        ({"routes": [{"name": "r"}, {"name": "s", "from": ["ct"]}]}, ["routes: no series ever takes the route s."]),
        ({"peers": [{**PEER, "addresses": ["0.0.0.0/0"]}]}, ["peers: ct may call from every address."]),
        ({"peers": [{**PEER, "addresses": ["::/0"]}]}, ["peers: ct may call from every address."]),
        ({"disk": {"max_spool_bytes": 1 << 30}}, ["disk: an object of max_object_bytes is larger than max_spool_bytes"
                                                  " and never taken."]),
        ({"destinations": [{**PACS, "send": ["sr", "sc"]}], "routes": [{"name": "r", "destinations": ["pacs"]}]},
         ["destinations: pacs gets no sc, since no route to it has secondary_capture."]),
    ],
)  # fmt: skip
def test_what_never_happens_is_mentioned(tmp_path: Path, fields: dict[str, Any], said: list[str]) -> None:
    assert problems_of(config(tmp_path, **fields)) == []
    assert warnings_of(config(tmp_path, **fields)) == said


def test_a_folder_that_others_may_look_into_is_mentioned(tmp_path: Path) -> None:
    node = config(tmp_path)
    assert warnings_here(node) == []
    node.state_dir.mkdir(mode=0o700)
    assert warnings_here(node) == []
    node.state_dir.chmod(0o750)
    assert warnings_here(node) == [f"state_dir: others on this machine may look into {node.state_dir} (chmod 700)."]
