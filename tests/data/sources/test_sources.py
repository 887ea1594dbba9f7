"""Readers of source formats: rows that they yield, records that they leave out, and errors."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from built_folders import groups, msmarco, one_file, recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_sources import parallel, row, write_jsonl

from hbdist.data.build.build import build
from hbdist.data.shards.read import Pair
from hbdist.data.sources.corpora import read_msmarco
from hbdist.errors import ConfigError, DataError

# -- JSON lines


def test_equal_ids_of_files_that_are_not_translations_stay_different(tmp_path: Path) -> None:
    for language in ("en", "ar"):
        write_jsonl(tmp_path / f"{language}.jsonl", [{"query": "q", "document": "d", "document_id": 7}])
    path = recipe(tmp_path, '[[dataset]]\nname="d"\nreader="jsonl"\n[dataset.files]\nen="en.jsonl"\nar="ar.jsonl"\n')
    found = groups(build(path, tmp_path / "out", workers=1))
    assert {name: (pairs[0].id, pairs[0].document_id) for name, pairs in found.items()} == {
        "ar-ar": ("ar:1", "ar:7"),
        "en-en": ("en:1", "en:7"),
    }


def test_fields_may_have_other_names_in_the_source(tmp_path: Path) -> None:
    rows = [{"qid": 3, "query": "q", "passage": "d", "pid": "x"}]
    path = one_file(tmp_path, rows, 'fields = { id = "qid", document = "passage", document_id = "pid" }')
    assert groups(build(path, tmp_path / "out", workers=1))["en-en"] == [
        Pair("d", "3", "q", "d", "en", "en", document_id="x")
    ]


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "One is here. Two is there.",
                    "sentence_breaks": [[0, 12], [13, 26]],
                    "qas": [
                        {"id": "a", "question": "Where is two?", "answers": [{"text": "there", "answer_start": 20}]},
                        {
                            "id": "b",
                            "question": "Where is one?",
                            "answers": [{"text": "here", "answer_start": 7}, {"text": "there", "answer_start": 20}],
                        },
                        {"id": "c", "question": "Where is three?", "answers": [], "is_impossible": True},
                        {"id": "d", "question": "Where is the gap?", "answers": [{"text": " ", "answer_start": 12}]},
                    ],
                }
            ]
        }
    ]
}


def squad(folder: Path, more: str = "", source: object = SQUAD) -> Path:
    (folder / "en.json.gz").write_bytes(gzip.compress(json.dumps(source).encode()))
    return recipe(folder, f'[[dataset]]\nname = "d"\nreader = "squad"\nfiles.en = "en.json.gz"\n{more}')


def test_squad_gives_each_question_its_paragraph(tmp_path: Path) -> None:
    manifest = build(squad(tmp_path), tmp_path / "out", workers=1)
    pairs = groups(manifest)["en-en"]
    assert [pair.id for pair in pairs] == ["a", "b", "d"]
    assert {(pair.document, pair.document_id) for pair in pairs} == {("One is here. Two is there.", "0.0")}
    assert manifest.dropped == {"d": {"no answer": 1}}


def test_squad_gives_each_question_the_sentence_of_its_first_answer(tmp_path: Path) -> None:
    manifest = build(squad(tmp_path, 'document = "sentence"'), tmp_path / "out", workers=1)
    assert [(pair.id, pair.document, pair.document_id) for pair in groups(manifest)["en-en"]] == [
        ("a", "Two is there.", "0.0.1"),
        ("b", "One is here.", "0.0.0"),
    ]
    assert manifest.dropped == {"d": {"no answer": 1, "no sentence holds the answer": 1}}


def test_squad_without_sentence_breaks_is_refused_for_sentences(tmp_path: Path) -> None:
    source = json.loads(json.dumps(SQUAD).replace("sentence_breaks", "other"))
    with pytest.raises(DataError, match=r"not SQuAD JSON with .*sentence_breaks"):
        build(squad(tmp_path, 'document = "sentence"', source), tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"en\.jsonl, line 2: .*expected an object"),
        ("[1]", "line 2: found a list"),
        ('{"id": "x", "query": "q", "text": "d"}', "line 2: found no document among id, query, text"),
        ('{"query": 5, "document": "d"}', "line 2: found a query that is not a text"),
        ('{"id": 1.5, "query": "q", "document": "d"}', "line 2: found id = 1.5"),
        ('{"query": "q", "document": "d", "negatives": [5]}', "line 2: found a negatives that is not a text"),
        ('{"query": ["q"], "document": "d"}', "line 2: found a query that is a list; expected one text"),
        (
            '{"query": "q", "document": ["d"], "document_id": [1, 2]}',
            "document_id that is not a list of 1, one for each",
        ),
    ],
)
def test_a_line_that_is_not_a_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = one_file(tmp_path, [row(1, "en")])
    with (tmp_path / "en.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "out", workers=1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["en.jsonl", "recipe.toml"], (
        "nothing unfinished is left"
    )


def test_a_truncated_gzip_file_is_named_by_a_worker_process_too(tmp_path: Path) -> None:
    path = parallel(tmp_path, {language: [row(n, language) for n in range(99)] for language in ("en", "de")})
    source = tmp_path / "de.jsonl.gz"
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"de\.jsonl\.gz is damaged after line .*fetch it again"):
        build(path, tmp_path / "out", workers=2)


def test_a_parallel_row_without_an_id_is_refused(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [{"query": "q", "document": "d"}]})
    with pytest.raises(DataError, match=r"row 1: no id; expected one, because p is parallel"):
        build(path, tmp_path / "out", workers=1)


def test_a_file_without_a_single_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d/en-en: no pairs in .*'empty query': 1"):
        build(one_file(tmp_path, [row(1, "en", query="")]), tmp_path / "out", workers=1)


def test_only_records_that_meet_the_condition_are_kept(tmp_path: Path) -> None:
    rows = [row(n, "en", label=n % 2, meta={"split": "train" if n < 4 else "test"}) for n in range(6)]
    manifest = build(
        one_file(tmp_path, rows, 'where = { label = 1, "meta.split" = "train" }'), tmp_path / "o", workers=1
    )
    assert [pair.id for pair in groups(manifest)["en-en"]] == ["i1", "i3"]
    assert manifest.dropped == {"d": {"not where": 4}}


def test_a_field_may_be_inside_another(tmp_path: Path) -> None:
    rows = [{"query": "q", "passage": {"text": "d", "id": 3}}]
    path = one_file(tmp_path, rows, 'fields = { document = "passage.text", document_id = "passage.id" }')
    pair = groups(build(path, tmp_path / "out", workers=1))["en-en"][0]
    assert (pair.document, pair.document_id) == ("d", "3")


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    path = one_file(tmp_path, [row(1, "en"), row(2, "en")])
    with (tmp_path / "en.jsonl").open("ab") as file:
        file.write(b'{"query": "\xff"}\n')
    with pytest.raises(DataError, match=r"en\.jsonl is damaged after line 2: .*expected UTF-8"):
        build(path, tmp_path / "out", workers=1)


def test_a_sentence_may_come_with_its_paragraph(tmp_path: Path) -> None:
    manifest = build(squad(tmp_path, 'document = "sentence and paragraph"'), tmp_path / "out", workers=1)
    assert [(pair.id, pair.document, pair.document_id) for pair in groups(manifest)["en-en"]] == [
        ("a", "Two is there.\nOne is here. Two is there.", "0.0.1"),
        ("b", "One is here.\nOne is here. Two is there.", "0.0.0"),
    ]


# -- BEIR


def beir(folder: Path, qrels: str, more: str = "", language: str = "en", **files: list[dict[str, Any]]) -> Path:
    corpus = [{"_id": f"d{n}", "title": f"T{n}" if n % 2 else "", "text": f"text {n} {language}"} for n in range(5)]
    queries = [{"_id": f"q{n}", "text": f"question {n} {language}"} for n in range(3)]
    root = folder / language
    write_jsonl(root / "corpus.jsonl.gz", files.get("corpus", corpus))
    write_jsonl(root / "queries.jsonl", files.get("queries", queries))
    (root / "qrels").mkdir(parents=True, exist_ok=True)
    (root / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    return recipe(folder, f'[[dataset]]\nname = "b"\nreader = "beir"\nfiles.{language} = "{language}"\n{more}')


QRELS = "q1\td1\t1\nq1\td2\t2\nq0\td3\t0\nq9\td0\t1\nq2\td9\t1\nq0\td0\t1\n"


def test_beir_gives_each_relevant_pair_the_id_of_its_query(tmp_path: Path) -> None:
    manifest = build(beir(tmp_path, QRELS), tmp_path / "out", workers=1)
    assert groups(manifest)["en-en"] == [
        Pair("b", "q1", "question 1 en", "T1 text 1 en", "en", "en", document_id="d1"),
        Pair("b", "q1", "question 1 en", "text 2 en", "en", "en", document_id="d2"),
        Pair("b", "q0", "question 0 en", "text 0 en", "en", "en", document_id="d0"),
    ]
    assert manifest.dropped == {
        "b": {"document not in the source": 1, "judged not relevant": 1, "query not in the source": 1}
    }


def test_two_documents_of_one_query_are_each_joined_with_their_own_translations(tmp_path: Path) -> None:
    beir(tmp_path, QRELS, language="en")
    path = beir(tmp_path, "q1\td2\t1\nq1\td1\t1\n", 'files.en = "en"\nparallel = true', language="de")
    found = groups(build(path, tmp_path / "out", workers=1))["de-en"]
    assert [(pair.id, pair.query, pair.document_id, pair.document) for pair in found] == [
        ("q1", "question 1 de", "d2", "text 2 en"),
        ("q1", "question 1 de", "d1", "T1 text 1 en"),
    ]


def test_a_repeated_document_id_counts_once_and_is_reported(tmp_path: Path) -> None:
    corpus = [{"_id": "d0", "text": "first"}, {"_id": "d0", "text": "second"}]
    manifest = build(beir(tmp_path, "q0\td0\t1\n", corpus=corpus), tmp_path / "out", workers=1)
    assert [pair.document for pair in groups(manifest)["en-en"]] == ["first"]
    assert manifest.dropped == {"b": {"repeated document id in the source": 1}}


@pytest.mark.parametrize(
    ("qrels", "files", "message"),
    [
        ("q1\td1\n", {}, r"train\.tsv, line 2: found 2 columns; expected 3: query-id"),
        ("q1\td1\tyes\n", {}, r"train\.tsv, line 2: found the judgement 'yes'; expected a number"),
        ("q1\td1\t1\n", {"corpus": [{"id": "d1", "text": "x"}]}, r"line 1: found no text under _id among id, text"),
        ("q1\td1\t1\n", {"queries": [{"_id": 7.5, "text": "x"}]}, r"queries\.jsonl, line 1: found _id = 7\.5"),
    ],
)
def test_a_file_that_is_not_in_beirs_format_is_named(tmp_path: Path, qrels: str, files: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(beir(tmp_path, qrels, **files), tmp_path / "out", workers=1)


def test_a_missing_file_of_a_beir_folder_is_named(tmp_path: Path) -> None:
    path = beir(tmp_path, QRELS, 'split = "dev"')
    with pytest.raises(ConfigError, match=r"en/qrels/dev\.tsv; expected files that exist"):
        build(path, tmp_path / "out", workers=1)


# -- MS MARCO, mMARCO


def test_triples_of_a_pair_become_one_row_with_the_first_negatives(tmp_path: Path) -> None:
    lines = "2\t5\t1\n1\t3\t4\n2\t5\t7\n2\t6\t8\n2\t5\t1\n2\t5\t8\n1\t3\t99\n7\t3\t4\n1\t98\t4\n"
    manifest = build(msmarco(tmp_path, lines, "negatives_per_pair = 2"), tmp_path / "out", workers=2)
    assert groups(manifest)["en-de"] == [
        Pair("m", "2", "query 2 en", "document 5 de", "en", "de", ("document 1 de", "document 7 de"), "5"),
        Pair("m", "1", "query 1 en", "document 3 de", "en", "de", ("document 4 de",), "3"),
        Pair("m", "2", "query 2 en", "document 6 de", "en", "de", ("document 8 de",), "6"),
    ]
    assert manifest.dropped["m"] == {
        "document not in the source": 2,
        "negative not in the source": 2,
        "negative over the limit": 2,
        "query not in the source": 2,
    }


def test_trec_qrels_become_rows_without_negatives(tmp_path: Path) -> None:
    path = msmarco(tmp_path, "1 0 3 1\n2 0 5 0\n2\t0\t4\t2\n", key="qrels")
    assert [(p.id, p.document, p.negatives) for p in groups(build(path, tmp_path / "o", workers=1))["de-en"]] == [
        ("1", "document 3 en", ()),
        ("2", "document 4 en", ()),
    ]


@settings(max_examples=20)
@given(
    triples=st.lists(
        st.tuples(st.sampled_from((0, 3, 4)), st.sampled_from((0, 8, 9)), st.sampled_from((0, 1, 2, 9))),
        min_size=1,
        max_size=20,
    ),
    limit=st.integers(0, 3),
)
def test_triples_are_grouped_as_by_a_dictionary(
    triples: list[tuple[int, int, int]], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected: dict[tuple[int, int], list[int]] = {}
    for query, document, negative in triples:
        if query < 4 and document < 9:
            found = expected.setdefault((query, document), [])
            found += [negative] if negative < 9 and negative not in found else []
    folder = tmp_path_factory.mktemp("triples")
    msmarco(folder, "".join("\t".join(map(str, triple)) + "\n" for triple in triples))
    rows = read_msmarco(
        folder / "collection.en.tsv",
        queries=folder / "queries.en.tsv",
        triples=folder / "relevant.tsv",
        qrels=None,
        negatives=limit,
        scratch=folder,
    )
    assert [(row.id, row.document_id, row.negatives) for row in rows if not isinstance(row, str)] == [
        (str(query), str(document), tuple(f"document {n} en" for n in found[:limit]))
        for (query, document), found in expected.items()
    ]


@pytest.mark.parametrize(
    ("lines", "key", "message"),
    [
        ("1 2\n", "triples", r"relevant\.tsv, line 1: found 2 columns; expected 3: query id, relevant"),
        ("1 2 3\n", "qrels", r"relevant\.tsv, line 1: found 3 columns; expected 4: query id, 0, document id"),
    ],
)
def test_a_line_with_another_number_of_columns_is_named(tmp_path: Path, lines: str, key: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(msmarco(tmp_path, lines, key=key), tmp_path / "out", workers=1)


def test_a_line_of_a_corpus_without_a_tab_is_named(tmp_path: Path) -> None:
    path = msmarco(tmp_path, "1 2 3\n")
    (tmp_path / "collection.en.tsv").write_text("1\ta\n2 b\n")
    with pytest.raises(DataError, match=r"collection\.en\.tsv, line 2: found no tab in '2 b'; expected id <tab> text"):
        build(path, tmp_path / "out", workers=1)


# -- parallel text


def lines(folder: Path, **texts: str) -> Path:
    for language, text in texts.items():
        (folder / f"{language}.txt").write_text(text, encoding="utf-8")
    files = "".join(f'files.{language} = "{language}.txt"\n' for language in texts)
    return recipe(folder, f'[[dataset]]\nname = "t"\nreader = "lines"\nparallel = true\n{files}')


def test_lines_are_paired_with_their_translations_and_never_with_themselves(tmp_path: Path) -> None:
    path = lines(tmp_path, en="One\n\nThree\nOK\n", de="Eins\nZwei\nDrei\nOK\n", ar="واحد\nاثنان\nثلاثة\nحسنا\n")
    manifest = build(path, tmp_path / "out", workers=1)
    found = groups(manifest)
    assert sorted(found) == ["ar-de", "ar-en", "de-ar", "de-en", "en-ar", "en-de"]
    assert [(pair.id, pair.query, pair.document) for pair in found["en-de"]] == [
        ("1", "One", "Eins"),
        ("3", "Three", "Drei"),
    ]
    assert [pair.id for pair in found["de-ar"]] == ["1", "2", "3", "4"]
    assert manifest.dropped == {"t": {"blank line": 1, "no translation": 2, "same text in both languages": 2}}


def test_files_with_different_numbers_of_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t: the files have different numbers of lines \(en 2, de 3\)"):
        build(lines(tmp_path, en="a\nb\n", de="a\nb\nc\n"), tmp_path / "out", workers=1)


# -- other packages


def test_a_missing_package_of_a_reader_is_named_with_its_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, '[[dataset]]\nname = "x"\nreader = "ir_datasets"\nsources.en = "vaswani"\n')
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package ir_datasets.*pip install 'hbdist\[sources\]'"):
        build(path, tmp_path / "out", workers=1)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_files_of_hugging_face_datasets_are_read(tmp_path: Path, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"qid": [1, 2, 3], "question": ["a", "b", "c"], "answer": ["A", "B", "C"], "label": [1, 0, 1]}
    made = datasets.Dataset.from_dict(rows)
    getattr(made, {"jsonl": "to_json"}.get(suffix, f"to_{suffix}"))(str(tmp_path / f"en.{suffix}"))
    path = recipe(
        tmp_path,
        f'[[dataset]]\nname = "h"\nreader = "datasets"\nfiles.en = "en.{suffix}"\nwhere = {{ label = 1 }}\n'
        'fields = { id = "qid", query = "question", document = "answer" }',
    )
    manifest = build(path, tmp_path / "out", workers=1)
    assert [(p.id, p.query, p.document) for p in groups(manifest)["en-en"]] == [("1", "a", "A"), ("3", "c", "C")]
    assert manifest.dropped == {"h": {"not where": 1}}


def test_a_column_that_a_dataset_lacks_is_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"query": ["a"], "text": ["A"]}).to_parquet(str(tmp_path / "en.parquet"))
    path = recipe(tmp_path, '[[dataset]]\nname = "h"\nreader = "datasets"\nfiles.en = "en.parquet"\n')
    with pytest.raises(DataError, match=r"en\.parquet, row 1: found no document among query, text"):
        build(path, tmp_path / "out", workers=1)


def test_an_unavailable_dataset_is_named_and_finished_work_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_jsonl(tmp_path / "en.jsonl", [row(1, "en")])
    path = recipe(
        tmp_path,
        'out = "out"\n[[dataset]]\nname = "d"\nreader = "jsonl"\nfiles.en = "en.jsonl"\n'
        '[[dataset]]\nname = "h"\nreader = "datasets"\nsources.en = "nobody/nothing:small"\n',
    )
    code = f"from hbdist.data.build.build import build; build({str(path)!r}, workers=1)"
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120)
    assert "SourceUnavailableError: datasets cannot load nobody/nothing:small" in done.stderr
    assert list(tmp_path.glob(".out.*.partial/.build/records/d/en.json"))


def test_pairs_of_ir_datasets_are_read(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tone\nd2\ttwo\n")
    (tmp_path / "queries.tsv").write_text("q1\tfirst\nq2\tsecond\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq2 0 d1 0\nq2 0 d2 1\n")
    local = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    ir_datasets.registry.register(f"made/{tmp_path.name}", local)
    path = recipe(tmp_path, f'[[dataset]]\nname = "i"\nreader = "ir_datasets"\nsources.en = "made/{tmp_path.name}"\n')
    manifest = build(path, tmp_path / "out", workers=1)
    assert [(p.id, p.query, p.document) for p in groups(manifest)["en-en"]] == [
        ("q1", "first", "one"),
        ("q2", "second", "two"),
    ]
    assert manifest.dropped == {"i": {"judged not relevant": 1}}
