from __future__ import annotations

import math

import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.csv_table import read_csv


@pytest.fixture
def read(tmp_path):
    def made(content, needed=()):
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        return read_csv(path, "table_invalid", needed=needed)

    return made


def test_a_spreadsheets_mark_blanks_and_empty_lines_do_not_count(read):
    table = read("\ufeff series , p \r\n 1.2 , 0.5\r\n,\r\n".encode())
    assert table.columns == {"series", "p"}
    (row,) = table.rows
    assert (row.text("series"), row.number("p"), row.text("other"), row.line) == ("1.2", 0.5, "", 2)


def test_values_are_taken_for_what_they_are(read):
    (row,) = read(b"a,b,c,d,e\n1,nan,TRUE,,-inf\n").rows
    assert row.flag("a") is True
    assert row.flag("c") is True
    assert row.flag("d") is None
    assert math.isnan(row.number("d"))
    assert math.isnan(row.probability("b"))
    assert math.isnan(row.probability("e"))


@pytest.mark.parametrize(
    "content", [b"a\n1\n", b"series;p\n1;2\n", b"series,p\n1\n", b"series,p\n1,2,3\n", b"series,p\n\xff,1\n", b""]
)
def test_what_is_no_such_table_is_refused(read, content):
    with pytest.raises(UsageError, match="table_invalid"):
        read(content, needed=("series", "p"))


@pytest.mark.parametrize("call", ["number", "probability", "flag", "needed"])
def test_a_wrong_value_names_its_line_and_is_not_quoted(read, call):
    (row,) = read(b"a,b\nSmith,\n").rows
    with pytest.raises(UsageError, match="line 2") as caught:
        getattr(row, call)("b" if call == "needed" else "a")
    assert "Smith" not in str(caught.value)
