from __future__ import annotations

import pytest
from listen_room import START_S, Room

from onfh_runtime.listen.records import SeriesState


@pytest.fixture
def room(tiny_bundle, tmp_path):
    room = Room(tmp_path / "state", tiny_bundle, routes=[{"name": "default", "deadline_s": 30.0}])
    yield room
    room.close()


@pytest.fixture(scope="session")
def images(phantom_study):
    return sorted((phantom_study / "axial").glob("*.dcm"))[:3]


def test_a_deadline_passes_while_an_association_stays_open(room, images):
    row = room.send(images[:1], release=False)[0]
    room.wait(10.0)
    assert room.watch.turn() == pytest.approx(20.0)
    room.wait(21.0)
    room.watch.turn()
    assert room.watch.turn() == pytest.approx(60.0)
    ((event, told),) = room.told
    assert (event, told.series_uid, told.deadline_at_s) == ("deadline_missed", row.series_uid, START_S + 30.0)
    assert room.series(row.series_uid).state is SeriesState.RECEIVING


def test_an_image_of_the_last_moment_keeps_its_series_open(room, images, monkeypatch):
    row = room.send(images[:1])[0]
    room.wait(5.0)
    mark_ready = room.journal.mark_ready

    def late(*args, **options):
        room.wait(0.1)
        room.send(images[1:2], release=False)
        return mark_ready(*args, **options)

    monkeypatch.setattr(room.journal, "mark_ready", late)
    room.watch.turn()
    assert room.series(row.series_uid).state is SeriesState.RECEIVING
