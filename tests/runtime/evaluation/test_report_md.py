"""The Markdown report, read back as tables."""

import re

from onfh_runtime.evaluation.report_md import markdown
from onfh_runtime.evaluation.report_sections import report_sections


def test_every_table_is_there_and_whole(document):
    text = markdown(document)
    assert text.startswith("# Evaluation\n\n**Research use only. Not for diagnosis.**\n")
    tables = [table for section in report_sections(document) for table in section.tables]
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == len(tables)
    for block, table in zip(blocks, tables, strict=True):
        lines = block.splitlines()
        assert len(lines) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.columns) + 1}
    for name in document["definitions"]:
        assert f"- {name}:".replace("_", "\\_") in text


def test_notes_stand_at_the_top(document):
    text = markdown(dict(document, notes=["Phantoms only."]))
    assert text.index("**Phantoms only.**") < text.index("Frozen thresholds")


def test_text_of_others_makes_no_markup_and_no_row(document):
    evil = "x|y<img src=a>\n# [z](u)`*_"
    case = document["cases"][0] | {"patient": evil, "label": True, "positive": False, "probability": 0.1}
    text = markdown(dict(document, cases=[case]))
    (line,) = [line for line in text.splitlines() if "img" in line]
    assert "<img" not in re.sub(r"\\.", "", line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 7
    assert not re.search(r"(?<!\\)[\[\]`*<>]", line)
