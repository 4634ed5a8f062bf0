import json
from collections import Counter
from pathlib import Path

from onfh_runtime.phantom.study import write_demo_study


def test_the_demo_study_has_both_planes_and_a_lesion(tmp_path: Path) -> None:
    paths = write_demo_study(tmp_path, seed=7, slices=20, matrix=96)
    kinds = Counter(path.parent.name for path in paths)
    assert kinds["axial"] == 20
    assert kinds["coronal"] > 30
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert truth["sides"]["right"] is True
    assert truth["lesion_volume_mm3"]["right"] > 0
