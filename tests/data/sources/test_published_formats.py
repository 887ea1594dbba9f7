"""Training files as other projects publish them: lists of positives, triplets, CSV, several files of one language."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from built_folders import groups, recipe
from shard_sources import write_jsonl

from hbdist.data.build.build import build
from hbdist.data.build.recipe import Recipe
from hbdist.data.shards.read import Pair
from hbdist.errors import ConfigError, DataError

Found = list[tuple[str, str, str, tuple[str, ...]]]


def built(
    folder: Path, keys: str, *, reader: str = "jsonl", name: str = "en.jsonl"
) -> tuple[list[Pair], dict[str, int]]:
    path = recipe(folder, f'[[dataset]]\nname = "d"\nreader = "{reader}"\nfiles.en = "{name}"\n{keys}')
    manifest = build(path, folder / "out", workers=1)
    return groups(manifest)["en-en"], dict(manifest.dropped["d"])


def shown(pairs: list[Pair]) -> Found:
    return [(pair.id, pair.query, pair.document, pair.negatives) for pair in pairs]


def test_flagembeddings_positives_give_a_row_each_under_one_id(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": ["a", "b"], "neg": ["x", "y"]}, {"query": "r", "pos": ["c"], "neg": []}]
    write_jsonl(tmp_path / "en.jsonl", [*rows, {"query": "none", "pos": [], "neg": ["x"]}])
    pairs, dropped = built(tmp_path, 'fields = { document = "pos", negatives = "neg" }')
    assert shown(pairs) == [("1", "q", "a", ("x", "y")), ("1", "q", "b", ("x", "y")), ("2", "r", "c", ())]
    assert dropped == {"empty document": 1}


def test_tevatrons_passages_are_read_with_their_titles_and_ids(tmp_path: Path) -> None:
    def passage(number: int, title: str) -> dict[str, Any]:
        return {"docid": f"p{number}", "title": title, "text": f"text {number}"}

    write_jsonl(
        tmp_path / "en.jsonl",
        [
            {
                "query_id": "7",
                "query": "q",
                "positive_passages": [passage(1, "One"), passage(2, "")],
                "negative_passages": [passage(3, "Three")],
            },
            {"query_id": "8", "query": "r", "positive_passages": [passage(4, "Four")], "negative_passages": []},
        ],
    )
    pairs, _ = built(
        tmp_path,
        "[dataset.fields]\n"
        'id = "query_id"\n'
        'document = ["positive_passages.title", "positive_passages.text"]\n'
        'document_id = "positive_passages.docid"\n'
        'negatives = ["negative_passages.title", "negative_passages.text"]\n',
    )
    assert [(pair.id, pair.document, pair.document_id, pair.negatives) for pair in pairs] == [
        ("7", "One text 1", "p1", ("Three text 3",)),
        ("7", "text 2", "p2", ("Three text 3",)),
        ("8", "Four text 4", "p4", ()),
    ]


@pytest.mark.parametrize(
    ("negative", "expected"), [({"negative": "n"}, ("n",)), ({"negative": ["n", "m"]}, ("n", "m")), ({}, ())]
)
def test_a_triplets_single_negative_is_a_list_of_one(
    tmp_path: Path, negative: dict[str, Any], expected: tuple[str, ...]
) -> None:
    write_jsonl(tmp_path / "en.jsonl", [{"anchor": "q", "positive": "d", **negative}])
    pairs, _ = built(tmp_path, 'fields = { query = "anchor", document = "positive", negatives = "negative" }')
    assert shown(pairs) == [("1", "q", "d", expected)]


def test_numbered_negatives_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "en.csv").write_text("anchor,positive,negative_1,negative_2\nq,d,n,m\nr,e,o,\n")
    fields = 'fields = { query = "anchor", document = "positive", negatives = "negative_*" }'
    pairs, _ = built(tmp_path, fields, reader="datasets", name="en.csv")
    assert shown(pairs) == [("1", "q", "d", ("n", "m")), ("2", "r", "e", ("o",))]


def test_positives_of_a_parallel_dataset_are_joined_with_their_own_translations(tmp_path: Path) -> None:
    for language in ("en", "de"):
        passages = [{"docid": f"p{n}", "text": f"{n} {language}"} for n in (1, 2)]
        passages = passages[:: 1 if language == "en" else -1]
        write_jsonl(tmp_path / f"{language}.jsonl", [{"id": "a", "query": f"q {language}", "positives": passages}])
    path = recipe(
        tmp_path,
        '[[dataset]]\nname = "d"\nreader = "jsonl"\nparallel = true\nfiles = { en = "en.jsonl", de = "de.jsonl" }\n'
        'fields = { document = "positives.text", document_id = "positives.docid" }\n',
    )
    found = groups(build(path, tmp_path / "out", workers=1))["en-de"]
    assert [(pair.id, pair.query, pair.document) for pair in found] == [("a", "q en", "1 de"), ("a", "q en", "2 de")]


def test_csv_cells_are_texts_as_they_stand(tmp_path: Path) -> None:
    texts = ["null", "NA", "None", "nan", "N/A", "1", "1.50", "true", "2020-01-01"]
    rows = "".join(f"{number:03},{text},d {text}\n" for number, text in enumerate(texts))
    (tmp_path / "en.csv").write_text(f"id,query,document\n{rows}1,one,d\n")
    pairs, dropped = built(tmp_path, "", reader="datasets", name="en.csv")
    assert [pair.query for pair in pairs] == [*texts, "one"]
    assert [pair.id for pair in pairs] == [*(f"{number:03}" for number in range(len(texts))), "1"]
    assert dropped == {}


def test_csv_may_have_a_byte_order_mark_quotes_line_breaks_long_cells_and_blank_lines(tmp_path: Path) -> None:
    long = "w" * 200_000
    text = f'\ufeffquery,document\r\n"a, ""b""","two\r\nlines"\r\n\r\nq,{long}\r\n,empty\r\n'
    (tmp_path / "en.csv.gz").write_bytes(gzip.compress(text.encode()))
    pairs, dropped = built(tmp_path, "", reader="datasets", name="en.csv.gz")
    assert [(pair.query, pair.document) for pair in pairs] == [('a, "b"', "two\r\nlines"), ("q", long)]
    assert dropped == {"blank line": 1, "empty query": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query;document\na;b\n", r"en\.csv, line 1: found one column, 'query;document'; .* separated by ';': save it"),
        ("query\tdocument\na\tb\n", "seems to be separated by tabs"),
        ("query,document\na,b\nc\n", r"line 3: found 1 cells; expected 2, query, document"),
        ('query,document\na,"b" c\n', r"line 2: .*expected query and document, in quotes if"),
        ("query,text\na,b\n", r"line 2: found no document among query, text"),
        ("query,query\na,b\n", r"line 1: found the column 'query' twice"),
        ("", r"en\.csv is empty; expected CSV with a line of column names"),
    ],
)
def test_what_is_wrong_with_csv_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "en.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        built(tmp_path, "", reader="datasets", name="en.csv")


def test_a_csv_dataset_of_the_library_keeps_its_cells_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("id,query,document\n001,null,NA\n1,a,7\n")
    path = recipe(tmp_path, f'[[dataset]]\nname = "d"\nreader = "datasets"\nsources.en = "{tmp_path / "set"}"\n')
    pairs = groups(build(path, tmp_path / "out", workers=1))["en-en"]
    assert shown(pairs) == [("001", "null", "NA", ()), ("1", "a", "7", ())]


def test_json_may_be_an_array_or_lines_and_dates_stay_texts(tmp_path: Path) -> None:
    rows = [{"query": "2020-01-01 00:00:00", "document": "2021-01-01"}, {"query": "2022-01-01", "document": "d"}]
    for number, text in enumerate((json.dumps(rows, indent=1), "".join(json.dumps(row) + "\n" for row in rows))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "en.json").write_text(text, encoding="utf-8-sig")
        pairs, _ = built(folder, "", reader="datasets", name="en.json")
        assert [(pair.query, pair.document) for pair in pairs] == [(row["query"], row["document"]) for row in rows]


def test_the_reader_of_json_lines_takes_an_array_too(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_text('[\n{"query": "q", "document": "d"},\n{"query": "r", "document": "e"}]')
    assert [pair.query for pair in built(tmp_path, "")[0]] == ["q", "r"]


def test_a_blank_id_is_no_id(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "en.jsonl", [{"id": "", "query": f"q{n}", "document": "d", "document_id": " "} for n in "ab"]
    )
    pairs, _ = built(tmp_path, "")
    assert [(pair.id, pair.document_id) for pair in pairs] == [("1", None), ("2", None)]


def test_an_array_of_something_else_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text('[{"query": "q", "document": "d"}, 5]')
    with pytest.raises(
        DataError, match=r"en\.json, item 2: found a number; expected an object with query and document"
    ):
        built(tmp_path, "", reader="datasets", name="en.json")


def test_several_files_of_a_language_are_read_one_after_another(tmp_path: Path) -> None:
    for name, texts in (("a", "pq"), ("b", "rs")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"query": text, "document": f"d{text}"} for text in texts])
    path = recipe(tmp_path, '[[dataset]]\nname = "d"\nreader = "jsonl"\nfiles.en = ["a.jsonl", "b.jsonl"]\n')
    assert [(pair.id, pair.query) for pair in groups(build(path, tmp_path / "out", workers=1))["en-en"]] == [
        ("1", "p"),
        ("2", "q"),
        ("3", "r"),
        ("4", "s"),
    ]


def test_paragraphs_of_several_squad_files_are_different_documents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        question = {"id": name, "question": f"{name}?", "answers": [{"answer_start": 0}]}
        data = [{"paragraphs": [{"context": f"context {name}", "qas": [question]}]}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": data}))
    path = recipe(tmp_path, '[[dataset]]\nname = "d"\nreader = "squad"\nfiles.en = ["a.json", "b.json"]\n')
    pairs = groups(build(path, tmp_path / "out", workers=1))["en-en"]
    assert [(pair.id, pair.document_id) for pair in pairs] == [("a", "0.0"), ("b", "1:0.0")]


def test_a_link_to_another_languages_file_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en.jsonl", [{"id": "1", "query": "q", "document": "d"}])
    (tmp_path / "de.jsonl").symlink_to("en.jsonl")
    path = recipe(
        tmp_path,
        '[[dataset]]\nname = "d"\nreader = "jsonl"\nparallel = true\nfiles = { en = "en.jsonl", de = "de.jsonl" }\n',
    )
    with pytest.raises(ConfigError, match=r"files\.en and files\.de are both .*; expected another for each"):
        Recipe.load(path)


def test_halves_of_surrogate_pairs_are_left_out_of_every_kind_of_source(tmp_path: Path) -> None:
    half = '{"query": "q\\ud83d", "document": "d"}\n{"query": "a", "document": "b"}\n'
    (tmp_path / "en.jsonl").write_text(half)
    assert built(tmp_path, "")[1] == {"broken Unicode": 1}
    (tmp_path / "en.json").write_text('[{"query": "q", "document": "d\\ud83d"}, {"query": "a", "document": "b"}]')
    assert built(tmp_path, "", reader="datasets", name="en.json")[1] == {"broken Unicode": 1}
