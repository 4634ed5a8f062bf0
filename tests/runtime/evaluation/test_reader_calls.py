"""The readers' table: what is read, and which line is refused."""

import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.reader_calls import read_calls


def test_lines_speak_of_patients_or_slices(write_table):
    path = write_table(
        "readers.csv",
        """reader patient series position_mm sop_instance_uid call score seconds mask
           A      P1      -      -           -                1    -     61.5    m.npz
           A      -       1.2.3  -4.5        -                0    -     -       -
           B      -       -      -           1.2.3.4          -    0.8   -       -""",
    )
    whole, by_place, by_uid = read_calls(path)
    assert (whole.of_slice, whole.call, whole.seconds, whole.mask) == (False, True, 61.5, path.parent / "m.npz")
    assert (by_place.of_slice, by_place.call, by_place.position_mm) == (True, False, -4.5)
    assert (by_uid.of_slice, by_uid.call, by_uid.score, by_uid.sop_instance_uid) == (True, None, 0.8, "1.2.3.4")


@pytest.mark.parametrize(
    ("head", "line", "said"),
    [
        ("reader patient call", "- P1 1", "line 2: reader is empty"),
        ("reader patient call", "A - 1", "line 2: neither patient"),
        ("reader patient call", "A P1 2", "line 2: call is neither 0 nor 1"),
        ("reader patient call score", "A P1 - -", "line 2: neither call, score nor mask"),
        ("reader patient score", "A P1 nan", "line 2: score is no number"),
        ("reader patient call seconds", "A P1 1 -3", "line 2: seconds is negative"),
        ("reader patient position_mm call mask", "A P1 3 1 m.npz", "line 2: a mask on a line of a slice"),
        ("reader patient cal", "A P1 1", "unknown columns: cal"),
        ("patient call", "P1 1", "lacks the column"),
    ],
)
def test_a_wrong_line_is_named(write_table, head, line, said):
    path = write_table("readers.csv", f"{head}\n{line}")
    with pytest.raises(UsageError, match=said) as error:
        read_calls(path)
    assert error.value.code == "readers_invalid"
    assert "P1" not in error.value.text.replace(str(path), "")


def test_no_table_and_no_line(write_table, tmp_path):
    with pytest.raises(UsageError) as error:
        read_calls(tmp_path / "none.csv")
    assert error.value.code == "readers_not_found"
    with pytest.raises(UsageError, match="no line but its header"):
        read_calls(write_table("readers.csv", "reader patient call"))
