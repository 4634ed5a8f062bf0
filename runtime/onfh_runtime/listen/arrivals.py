"""What is done with an object the moment it is here: its header is read, its pixels are decoded, its slice classified.

Nothing of it is needed for an answer: what is missing when a series is complete is done then, by the same functions.
Pixels that are stored uncompressed stay in their file, because reading them later is the one copy that keeping them
would cost too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from onfh_runtime.dicom import Candidate, Skipped, SourceImage, find_series
from onfh_runtime.dicom.decode import decode_image
from onfh_runtime.dicom.header import read_header
from onfh_runtime.dicom.pixels import NATIVE_SYNTAXES
from onfh_runtime.errors import SeriesError
from onfh_runtime.infer import warned
from onfh_runtime.listen.decoded import DecodedFrames
from onfh_runtime.listen.early import EarlyClassifier, EarlyRows
from onfh_runtime.listen.records import ObjectRow
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["Arrivals", "Found"]

_log = logging.getLogger(__name__)

MAX_HEADERS = 20_000
"""Headers kept for series that are not complete, 150 MB at 7.5 kB each; beyond that they are read again."""


@dataclass
class _Arriving:
    """One series while its objects come in. Whoever holds the lock of :class:`Arrivals` may touch it."""

    open: bool = True
    headers: dict[Path, tuple[Dataset, int]] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)
    rows: EarlyRows = field(default_factory=EarlyRows)


@dataclass(frozen=True)
class Found:
    """A series as it was found among its objects, with what was done early.

    Attributes:
        candidates: what may be analysed; their images know where their early decoded pixels are.
        skipped: what is not.
        known: for each candidate, by part, what stage 1 said of its images before, by SOP Instance UID.
        unreadable: the objects that could not be read: code and sentence.
    """

    candidates: list[Candidate]
    skipped: list[Skipped]
    known: dict[int | None, dict[str, float]]
    unreadable: list[tuple[str, str]]


class Arrivals:
    """Works on objects in a thread of its own, in the order they came.

    Args:
        early: stage 1 for single slices; None where slices cannot be classified alone.
        busy: whether a complete series is being analysed: then slices wait, and are classified with their series.
        frames: where decoded frames are kept.
        monotonic: a clock, seconds.
    """

    def __init__(
        self,
        *,
        early: EarlyClassifier | None = None,
        busy: Callable[[], bool] = lambda: False,
        frames: DecodedFrames | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._early, self._busy, self._monotonic = early, busy, monotonic
        self._frames = frames if frames is not None else DecodedFrames()
        self._queue: queue.SimpleQueue[tuple[_Arriving, ObjectRow] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._series: dict[str, _Arriving] = {}
        self._heard: dict[str, float] = {}
        self._headers = 0
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the object in hand, leave the rest, and end the thread."""
        with self._lock:
            for arriving in self._series.values():
                arriving.open = False
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def on_object(self, row: ObjectRow) -> None:
        """A journalled object is here; returns at once."""
        with self._lock:
            arriving = self._series.setdefault(row.series_uid, _Arriving())
            self._heard[row.series_uid] = self._monotonic()
        self._queue.put((arriving, row))

    def heard_s(self, series_uid: str) -> float | None:
        """When the last object of a series came, by the monotonic clock; None when this process saw none."""
        with self._lock:
            return self._heard.get(series_uid)

    def names(self) -> set[str]:
        """Every series that something is kept of."""
        with self._lock:
            return set(self._heard)

    def forget(self, series_uids: Iterable[str]) -> None:
        """Drop all that is kept of some series."""
        for series_uid in series_uids:
            with self._lock:
                self._heard.pop(series_uid, None)
            self._release(self._taken(series_uid))

    def found(self, objects: Sequence[ObjectRow]) -> Found:
        """The series that some objects make, with everything that was done early; nothing more is done early for it.

        Args:
            objects: every object of one series that is to be analysed now.
        """
        arriving = self._taken(objects[0].series_uid) if objects else _Arriving()
        try:
            return self._found(arriving, objects)
        except BaseException:
            self._release(arriving)
            raise

    def _found(self, arriving: _Arriving, objects: Sequence[ObjectRow]) -> Found:
        now = {row.path: row.sha256 for row in objects}
        with self._lock:
            for path in [path for path, digest in arriving.digests.items() if now.get(path) != digest]:
                self._forget_file(arriving, path)
        unreadable: list[tuple[Path, str, str]] = []
        candidates, skipped = find_series(
            [row.path for row in objects if row.path is not None],
            report=lambda path, code, text: unreadable.append((path, code, text)),
            read=lambda path: arriving.headers.get(path) or read_header(path),
        )
        self._drop_headers(arriving)
        paths = {image.path for candidate in candidates for image in candidate.images if image.frame is None}
        for path in arriving.digests.keys() - paths:
            self._frames.drop(path)
        folders = [path.parent for path, _, _ in unreadable]
        candidates = [warned(self._with_pixels(candidate), folders) for candidate in candidates]
        early = self._early
        known = {one.part: {} if early is None else early.known(arriving.rows, one) for one in candidates}
        return Found(candidates, skipped, known, [(code, text) for _, code, text in unreadable])

    def release(self, found: Found) -> None:
        """Drop the early decoded pixels of a series that nobody took."""
        for candidate in found.candidates:
            for image in candidate.images:
                self._frames.drop(image.path)

    def work_off(self) -> None:
        """Do what waits, in this thread."""
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting is not None:
                self._work(*waiting)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            self._work(*waiting)

    def _work(self, arriving: _Arriving, row: ObjectRow) -> None:
        try:
            self._take_in(arriving, row)
        except Exception as error:  # its series says what is wrong with it
            _log.warning("an object could not be prepared: %s", traceback_without_messages(error))

    def _take_in(self, arriving: _Arriving, row: ObjectRow) -> None:
        if row.path is None or not arriving.open or self._headers >= MAX_HEADERS:
            return
        headers: dict[Path, tuple[Dataset, int]] = {}

        def read(path: Path) -> tuple[Dataset, int]:
            headers[path] = read_header(path)
            return headers[path]

        candidates, _ = find_series([row.path], read=read)
        with self._lock:
            if not arriving.open:
                return
            self._forget_file(arriving, row.path)  # replaced
            self._headers += len(headers)
            arriving.headers |= headers
            arriving.digests[row.path] = row.sha256
        # The frames of an enhanced object arrive all at once: nothing is gained by hurrying.
        images = [image for candidate in candidates for image in candidate.images if image.frame is None]
        for image in images:
            self._decode(arriving, image)
            arriving.rows.add(image)
        self._classify(arriving)

    def _decode(self, arriving: _Arriving, image: SourceImage) -> None:
        if image.form.syntax in NATIVE_SYNTAXES:
            return
        try:
            pixels = decode_image(image)
        except SeriesError:
            return  # the analysis of the whole series will say it
        self._frames.keep(image.path, pixels, image.form.padding)
        with self._lock:
            late = not arriving.open
        if late:
            self._frames.drop(image.path)

    def _classify(self, arriving: _Arriving) -> None:
        rows = arriving.rows
        if self._early is None or len(rows.images) < 2:  # one image has no slice direction
            return
        while rows.waiting and arriving.open and not self._busy():
            image = rows.waiting.popleft()
            pixels = self._frames.look(image.path)
            try:
                pixels = decode_image(image) if pixels is None else pixels
            except SeriesError:
                continue
            self._early.classify(rows, image, pixels)

    def _with_pixels(self, candidate: Candidate) -> Candidate:
        images = tuple(
            image if image.frame is not None else replace(image, decoded=partial(self._frames.take, image.path))
            for image in candidate.images
        )
        return replace(candidate, images=images)

    def _taken(self, series_uid: str) -> _Arriving:
        with self._lock:
            arriving = self._series.pop(series_uid, None) or _Arriving()
            arriving.open = False
            return arriving

    def _forget_file(self, arriving: _Arriving, path: Path) -> None:
        self._headers -= arriving.headers.pop(path, None) is not None
        arriving.rows.forget(path)
        self._frames.drop(path)

    def _release(self, arriving: _Arriving) -> None:
        for path in arriving.digests:
            self._frames.drop(path)
        self._drop_headers(arriving)

    def _drop_headers(self, arriving: _Arriving) -> None:
        with self._lock:
            self._headers -= len(arriving.headers)
            arriving.headers.clear()
