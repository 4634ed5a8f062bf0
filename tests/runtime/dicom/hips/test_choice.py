"""What the rules of a bundle leave out is listed, and the rest of the study is analysed."""

from __future__ import annotations

from onfh_runtime.dicom import find_series
from onfh_runtime.infer import infer
from onfh_runtime.result import Study


def test_a_study_lists_what_its_bundle_leaves_out_and_succeeds(hip, write_tiny_bundle, tmp_path):
    bundle = write_tiny_bundle(series={"refused_kernels": ["SOFT"]})
    axial = hip.series().put(ConvolutionKernel="BONE").again(ConvolutionKernel="SOFT", SeriesDescription="soft")
    sagittal = hip.oriented((0, 1, 0), (0, 0, -1)).put(SeriesInstanceUID="1.2.826.0.1.3680043.10.999.78")
    axial.write(tmp_path / "study")
    sagittal.write(tmp_path / "study" / "sagittal")
    report = infer([tmp_path / "study"], tmp_path / "out", bundle=bundle)
    assert report.exit_code == 0
    assert [(r.status, r.part, r.preferred) for r in report.results] == [("succeeded", 1, True)]
    (study,) = [Study.model_validate_json(path.read_text()) for path in (tmp_path / "out").glob("*/study.json")]
    assert [(e.outcome, e.reason and e.reason.code, e.part) for e in study.series] == [
        ("succeeded", None, 1),
        ("skipped", "excluded_kernel", 2),
        ("skipped", "excluded_plane", None),
    ]


def test_a_study_whose_every_series_is_left_out_has_nothing_to_analyse(hip, write_tiny_bundle, tmp_path):
    written = hip.series(12).write(tmp_path / "in")
    report = infer([written.folder], tmp_path / "out", bundle=write_tiny_bundle(series={"planes": ["coronal"]}))
    assert (report.exit_code, report.results) == (3, [])
    (candidate,), _ = find_series([written.folder])
    assert [e.series_instance_uid for e in report.studies[0].series] == [candidate.series_instance_uid]
