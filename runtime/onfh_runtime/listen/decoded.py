"""Frames that were decoded before anybody asked for them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["MAX_DECODED_BYTES", "DecodedFrames"]

MAX_DECODED_BYTES = 1 << 29
"""512 MiB: a thousand slices of 512 x 512. What comes beyond is decoded when its series is complete."""

Padding = tuple[int, int] | None


class DecodedFrames:
    """Keeps frames by the file they were in, up to a number of bytes; every method may be called from any thread."""

    def __init__(self, max_bytes: int = MAX_DECODED_BYTES) -> None:
        self._free = max_bytes
        self._frames: dict[Path, tuple[NDArray[Any], Padding]] = {}
        self._lock = threading.Lock()

    def keep(self, path: Path, pixels: NDArray[Any], padding: Padding) -> bool:
        """Keep the pixels of a file, decoded for a padding range; False when there is no room."""
        with self._lock:
            if path in self._frames or pixels.nbytes > self._free:
                return False
            self._frames[path] = pixels, padding
            self._free -= pixels.nbytes
            return True

    def look(self, path: Path) -> NDArray[Any] | None:
        """The pixels of a file, which stay kept."""
        with self._lock:
            kept = self._frames.get(path)
        return None if kept is None else kept[0]

    def take(self, path: Path, padding: Padding) -> NDArray[Any] | None:
        """The pixels of a file, if they were decoded for this padding range; they are not kept any longer."""
        with self._lock:
            kept = self._frames.pop(path, None)
            if kept is None:
                return None
            self._free += kept[0].nbytes
        return kept[0] if kept[1] == padding else None

    def drop(self, path: Path) -> None:
        """Forget the pixels of a file."""
        self.take(path, None)
