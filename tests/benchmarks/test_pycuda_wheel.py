"""Where PyCUDA's headers come from; that it builds is seen by CI, which makes its wheel this way."""

from __future__ import annotations

import sys

from pycuda_wheel import cuda_headers


def test_headers_of_packages_come_first_and_must_be_whole(tmp_path, monkeypatch):
    half, whole = (tmp_path / name / "nvidia" / "cu13" / "include" for name in ("half", "whole"))
    for folder, names in ((half, ["cuda.h"]), (whole, ["cuda.h", "cudaProfiler.h"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "half"), str(tmp_path / "whole"), *sys.path])
    assert cuda_headers() == whole
