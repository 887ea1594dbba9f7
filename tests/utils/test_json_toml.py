"""JSON and TOML from disk: each way in which a file can be wrong is one sentence with file, place and remedy."""

import gzip
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hbdist.config.config import parse_override
from hbdist.data.formats.json_files import json_records
from hbdist.errors import ConfigError, DataError, HbdistError, ResumeError
from hbdist.utils.json_toml import (
    read_bytes,
    read_json,
    read_json_lines,
    read_json_object,
    read_text,
    read_toml,
)
from hbdist.utils.parse import DEEPEST, json_value
from hbdist.utils.stored import read_stored, read_stored_if_any

DIGITS = b"9" * 5000
DEEP = b'{"a":' * 5000
WRONG_JSON = [
    (b"", "is not JSON: Expecting value at column 1"),
    (b'{"a": 1,\n "b": }', "is not JSON: Expecting value at line 2, column 7"),
    (b"\xff\xfe{\x00}\x00", "is not JSON: the byte 0xff at line 1, byte 1 is not UTF-8"),
    (b'{"a": "x",\n"b": "\xb3"}', "the byte 0xb3 at line 2, byte 7 is not UTF-8"),
    (b'{"a": %s}' % DIGITS, "found 99999999999999999999… (5,000 digits); expected whole numbers below 2^63"),
    (b'{"a": [1, {"b": 9223372036854775808}]}', "found 9223372036854775808 at a[1].b; expected whole numbers below"),
    (DEEP, "nested more than 100 levels deep"),
    (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested more than 100 levels deep"),
    (b'{"a": NaN}', "found nan at a; expected finite numbers"),
    (b'{"a": 1e400}', "found inf at a; expected finite numbers"),
    (b'{"a": {"b": "x\\ud800"}}', r"found half of a surrogate pair, which is no character, in 'x\ud800' at a.b"),
    (b'{"\\udc00": 1}', "found half of a surrogate pair"),
    (b"[1]", "contains a list; expected an object"),
    (b"null", "contains null; expected an object"),
    (b"true", "contains true or false; expected an object"),
]
WRONG_TOML = [
    (b"a = ", "is not valid TOML: Invalid value (at end of document)"),
    (b"a = 1\nb == 2", "is not valid TOML: Invalid value (at line 2, column 4)"),
    (b'a = "\xb3"', "is not valid TOML: the byte 0xb3 at line 1, byte 6 is not UTF-8"),
    (b"a = " + DIGITS, "found 99999999999999999999… (5,000 digits)"),
    (b"[a]\nb = -9223372036854775809", "found -9223372036854775809 at a.b; expected whole numbers below 2^63"),
    (b"a = " + b"[" * 5000, "nested more than 100 levels deep"),
    (b".".join([b"a"] * 200) + b" = 1", "nested more than 100 levels deep"),
]


def refused(error: type[HbdistError], read: Any, path: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read(path, error=error, remedy="Do something.", **options)
    message = str(caught.value)
    assert path.name[:20] in message
    assert message.endswith("Do something.")
    return message


@pytest.mark.parametrize(("content", "sentence"), WRONG_JSON)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_json_that_is_wrong_is_refused_with_its_place(
    content: bytes, sentence: str, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.json{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    assert sentence in refused(DataError, read_json_object, path)


@pytest.mark.parametrize(("content", "sentence"), WRONG_TOML)
def test_toml_that_is_wrong_is_refused_with_its_place(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    assert sentence in refused(ConfigError, read_toml, path)


@pytest.mark.parametrize("read", [read_bytes, read_text, read_json, read_json_object, read_toml])
def test_a_file_that_cannot_be_read_is_refused(read: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}" * 999)[:-9])
    assert "is a folder" in refused(ResumeError, read, tmp_path)
    for name, sentence in (
        ("gone", "does not exist"),
        ("file/inner", "does not exist"),
        ("n" * 256, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: embedded null byte"),
        ("\udcff", "does not exist"),
        ("cut.gz", "cannot be read: Compressed file ended"),
    ):
        assert sentence in refused(ResumeError, read, tmp_path / name).encode(errors="replace").decode()


def test_a_default_is_for_a_file_that_is_absent_and_no_other(tmp_path: Path) -> None:
    assert read_text(tmp_path / "gone", default="") == ""
    assert read_json(tmp_path / "gone", default=None) is None
    assert read_json_lines(tmp_path / "gone") == []
    assert read_stored_if_any(dict, tmp_path / "gone") is None
    (tmp_path / "broken").write_bytes(b"\xff")
    for read in (read_text, read_json, read_json_object):
        with pytest.raises(DataError, match="0xff"):
            read(tmp_path / "broken", default={})


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(tmp_path / "x") == {"a": 1}
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(tmp_path / "x") == {"a": 1}


def test_what_is_right_is_read_as_it_is(tmp_path: Path) -> None:
    values = {"a": [2**63 - 1, -(2**63), 1.5, None, True, "\U0001f600\u2028"], "b": {}}
    for text in (json.dumps(values), json.dumps(values, ensure_ascii=False)):
        (tmp_path / "x").write_text(text, encoding="utf-8")
        assert read_json_object(tmp_path / "x") == values
    deep: Any = 0
    for _ in range(DEEPEST):
        deep = [deep]
    (tmp_path / "x").write_text(json.dumps(deep))
    assert read_json(tmp_path / "x") == deep


def test_data_of_others_may_have_what_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"a": NaN, "b": "\\ud800", "c": 99999999999999999999}')
    assert read_json(tmp_path / "x", strict=False)["c"] == 99999999999999999999
    (tmp_path / "x").write_text("[" * 101 + "]" * 101)
    with pytest.raises(DataError, match="nested"):
        read_json(tmp_path / "x", strict=False)


def test_lines_of_a_log_end_at_line_feeds_alone_and_a_last_one_may_be_unfinished(tmp_path: Path) -> None:
    lines = [{"step": 1, "text": "a\u2028b\u0085c\x0c"}, {"step": 2, "loss": float("nan")}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "x.jsonl").write_text(text + '{"step": 3, "lo', encoding="utf-8")
    assert [line["step"] for line in read_json_lines(tmp_path / "x.jsonl")] == [1, 2]
    (tmp_path / "x.jsonl").write_bytes(text.encode() + b"\xb3\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 3, is not JSON: the byte 0xb3"):
        read_json_lines(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text(text + "7\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 3, contains a number; expected an object"):
        read_json_lines(tmp_path / "x.jsonl")


@pytest.mark.parametrize("line", [b'{"a": %s}' % DIGITS, DEEP, b"[" * 900 + b"]" * 900, b"{", b"1"])
def test_a_line_of_data_that_is_wrong_is_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 3: .*; expected something\."):
        list(json_records(tmp_path / "x.jsonl", dict, expected="something"))


def test_json_is_refused_by_its_depth_wherever_the_reader_stands() -> None:
    def at(depth: int) -> str:
        if depth:
            return at(depth - 1)
        with pytest.raises(ValueError, match="nested") as caught:
            json_value("[" * 5000)
        return str(caught.value)

    assert at(0) == at(sys.getrecursionlimit() // 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a=" + "9" * 5000, "a: found 99999999999999999999… (5,000 digits)"),
        ("a=9223372036854775808", "a: found 9223372036854775808; expected"),
        ("model.dropout=" + "[" * 3000, "model.dropout: it is nested more than 100 levels deep"),
        ("model.name=\udcc9[]", r"'model.name=\udcc9[]' on the command line is not UTF-8"),
        ("=1", "'=1' is not an override"),
        (" =1", "' =1' is not an override"),
    ],
)
def test_an_override_that_no_config_can_have_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert sentence in str(caught.value)


def test_an_override_sets_one_key() -> None:
    assert parse_override("a=1\nb = 2") == ("a", "1\nb = 2")


@dataclass(frozen=True)
class Kept:
    step: int
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "is damaged: step is missing"),
        ("[]", "is damaged: it contains no object"),
        ('{"step": "1"}', "is damaged: step = '1': input should be a valid integer"),
        ('{"step": true}', "is damaged: step = True: input should be a valid integer"),
        ('{"step": 1, "names": ["a", 2]}', "is damaged: names.1 = 2: input should be a valid string"),
    ],
)
def test_a_file_of_our_own_has_exactly_its_types(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(ResumeError) as caught:
        read_stored(Kept, tmp_path / "kept.json", error=ResumeError, remedy="Delete it.")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(". Delete it.")


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text('{"step": 1, "names": ["a"], "later": null}')
    assert read_stored(Kept, tmp_path / "kept.json") == Kept(1, ("a",))
