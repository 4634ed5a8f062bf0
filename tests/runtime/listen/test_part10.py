from __future__ import annotations

import shutil
import subprocess
from io import BytesIO

import pydicom
import pytest

from onfh_runtime.listen.part10 import file_head

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
@pytest.mark.parametrize("title", ["CT", "CT1", "SIXTEEN LETTERS!"])
def test_pydicom_reads_what_comes_before_a_data_set(uid, title):
    head = file_head(CT, uid, EXPLICIT, title)
    read = pydicom.dcmread(BytesIO(head + b"\x08\x00\x60\x00CS\x02\x00CT"))
    assert read.Modality == "CT"
    meta = read.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, uid)
    assert (meta.TransferSyntaxUID, meta.SourceApplicationEntityTitle) == (EXPLICIT, title)
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.FileMetaInformationGroupLength == len(head) - 132 - 12
    assert meta.ImplementationClassUID
    assert meta.ImplementationVersionName


def test_dcmtk_reads_it_without_a_word(tmp_path):
    tool = shutil.which("dcmdump")
    if tool is None:
        pytest.skip("dcmdump is not installed: apt install dcmtk")
    (tmp_path / "a.dcm").write_bytes(file_head(CT, "1.2.3", EXPLICIT, "CT") + b"\x08\x00\x60\x00CS\x02\x00CT")
    done = subprocess.run([tool, tmp_path / "a.dcm"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "(0008,0060) CS [CT]" in done.stdout
