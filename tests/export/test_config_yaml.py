"""What YAML can do to a configuration, and does not."""

import itertools

import pytest

from onfh_export.config_yaml import mapping_from_file, value_from_text
from onfh_runtime.errors import UsageError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("{a: 1e-05, b: -2E+3}", {"a": 1e-05, "b": -2000.0}),
        ("[224,224]", [224, 224]),
        ('{\n\t"a": 1}', {"a": 1}),
        ("x: &s [1]\ny: *s", {"x": [1], "y": [1]}),
        ("e3", "e3"),
        ("1-2", "1-2"),
        ("", None),
    ],
)
def test_values_are_read_as_they_look(text, value):
    assert value_from_text(text, "here") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("- {b: 1, b: 2}", "'b' is given twice"),
        ("a: &a [*a]", "stands for more than"),
        (BOMB, "stands for more than"),
        ("x: &x {a: 1}\ny: {<<: *x}", "merge keys"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("day: 2026-01-01", "put it in quotes"),
        ("a: .nan", "not a usable number"),
        ('{"a": 1e999}', "not a usable number"),
        ("1: 2", "the key 1 is not text"),
        ("{[1]: 2}", "a key is no text"),
        ("a: [1", "line 1"),
        ("[" * 5000, "nested too deeply"),
        ("a: \x00", "here is no usable YAML"),
    ],
)  # fmt: skip
def test_what_could_mislead_is_refused(text, words):
    with pytest.raises(UsageError) as caught:
        value_from_text(text, "here")
    assert caught.value.code == "config_invalid"
    assert words in caught.value.text


def test_a_file_must_be_small_text_with_fields(tmp_path):
    path = tmp_path / "c.yaml"
    with pytest.raises(UsageError, match="cannot be read as text"):
        mapping_from_file(path)
    for content, words in (
        (b"- 1", "holds no fields"),
        (b"a: \xff", "cannot be read"),
        (b"#" * (2 << 20), "over 1 MB"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            mapping_from_file(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert mapping_from_file(path) == {"a": 1}
