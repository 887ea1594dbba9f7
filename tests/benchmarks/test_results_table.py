"""docs/results.md: what its command measures of small files that are there, keeps, and shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_backbones import make_m2m100

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SENTENCES = ["The cat sat on a mat.", "Snow fell in June.", "Nobody answers the door.", "A ship came back at dawn."]


def written(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Translations that are copies, so that each finds its own; TyDi QA's questions, which are copies of passages."""
    folder = tmp_path_factory.mktemp("data")
    for language in ("deu_Latn", "eng_Latn", "tha_Thai"):
        rows: list[dict[str, object]] = [{"id": n, "text": text} for n, text in enumerate(SENTENCES)]
        written(folder / "flores-sib" / f"{language}.jsonl", rows)
    for language in ("deu", "fry"):
        written(folder / "tatoeba" / f"{language}.jsonl", [{"text": text, "en": text} for text in SENTENCES])
    tydiqa = folder / "tydiqa-goldp-dev"
    for language in ("ar", "sw"):
        asked = [{"id": f"{language}{n}", "query": text, "pid": f"p{n}"} for n, text in enumerate(SENTENCES)]
        written(tydiqa / f"queries.{language}.jsonl", list(asked))
        written(tydiqa / f"passages.{language}.jsonl", [{"pid": f"p{n}", "text": t} for n, t in enumerate(SENTENCES)])
    return folder


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m2m100(tmp_path_factory.mktemp("models") / "m2m100")


def run_python(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=BENCHMARKS, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MEASURE = """
import json, sys
from measure import machine
from results_table import FOLDERS, find, measure_row
from results_page import page
from pathlib import Path
model, data = sys.argv[1:]
found = {row: {"reason": "its data are not at hand"} for row in FOLDERS}
for row in ("tydiqa", "flores", "tatoeba"):
    folder = find(row, Path(data))
    found[row] = {"key": ["abc", ""], "machine": machine(), **measure_row(row, model, str(folder))}
print(json.dumps(found))
print("PAGE")
print(page(model, found, about="Random weights."))
"""


def test_rows_hold_what_the_files_hold_and_the_page_shows_them(tiny_model: Path, data: Path) -> None:
    rows, page = run_python("-c", MEASURE, tiny_model, data).split("PAGE\n")
    found = json.loads(rows)
    assert found["flores"]["languages"] == 3
    assert found["flores"]["alignment"]["bitext_accuracy"] == 1
    assert found["flores"]["alignment"]["parallel_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["tatoeba"]["by_language"]["fry"]["items"] == 4
    assert found["tatoeba"]["by_language"]["fry"]["bitext_accuracy"] == 1
    assert found["tydiqa"]["scores"]["counts"] == {"queries": 8, "candidates": 8}
    assert found["tydiqa"]["scores"]["monolingual"]["recall@1"] == 1
    assert found["tydiqa"]["peak_bytes"] > 1e8
    lines = page.splitlines()
    assert lines[0] == "# Results"
    assert any(line.startswith("| TyDi QA GoldP | 8 | 8 | 1.000 | – | – | 1.000 |") for line in lines)
    assert any(line.startswith("| ↳ 95 % |") and line.endswith(" | – | – |  |  |  |  |  |  |") for line in lines)
    assert any(line.startswith("| FLORES-200, 3 languages | 4 | 1.000 |") for line in lines)
    assert any(line.startswith("| Tatoeba, 1 languages (XTREME’s) | 4 to 4 | 1.000 |") for line in lines)
    assert "**Tatoeba**: deu 1.00 / 1.00, fry 1.00 / 1.00." in page
    assert "2 of its 9 languages" in page
    assert "- XQuAD-R, sentence is not here: its data are not at hand." in page
    assert " The model: Random weights. The page" in page
    assert str(data) not in page


def test_a_model_with_language_tokens_gets_the_languages_and_is_refused_for_an_unsupported_one(
    data: Path, m2m100: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from results_table import measure_row

    found = measure_row("flores", str(m2m100), str(data / "flores-sib"))
    # The sentences are copies, and their languages' tokens are not.
    assert 0 < found["alignment"]["parallel_cosine"] < 0.9999
    refused = measure_row("tatoeba", str(m2m100), str(data / "tatoeba"))
    assert refused["reason"].startswith("m2m100 has no token for the language fry; it supports 100 languages")
    assert str(m2m100.parent) not in refused["reason"]


def test_languages_are_known_by_the_names_of_flores_and_tatoeba(m2m100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from results_table import known_languages

    from hbdist.models.encoder import Encoder, settings_of

    names = {"deu_Latn": "de", "arb_Arab": "ar", "eng": "en", "ara": "ar", "cmn": "zh", "swh": "sw", "sqi": "sq"}
    assert known_languages(Encoder.load_for_use(settings_of(str(m2m100))), [*names]) == names


KEEP = """
import sys
from pathlib import Path
from results_page import page
from results_table import rows
model, data, work = sys.argv[1], *map(Path, sys.argv[2:])
path = data / "tatoeba" / "fry.jsonl"
for name in ("fry", "fry", "fao"):
    path = path.rename(path.with_name(f"{name}.jsonl"))
    found = rows(model, data, work, ["tatoeba"])
    print("languages", *found["tatoeba"]["by_language"])
print(page(model, found))
"""


@pytest.mark.slow
def test_a_row_is_kept_and_measured_anew_only_for_other_files(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    said = run_python("-c", KEEP, tiny_model, data, tmp_path / "work")
    found = [line.split(" ", 1)[1] for line in said.splitlines() if line.startswith("languages") or " tatoeba" in line]
    assert found == ["tatoeba", "deu fry", "deu fry", "tatoeba", "deu fao"]
    assert "- FLORES-200 is not here: it was not asked for." in said
    assert (tmp_path / "work" / "tatoeba.json").is_file()


def test_the_command_says_what_it_wants(tmp_path: Path) -> None:
    for arguments, sentence in (
        (("model", tmp_path / "none"), "is not a folder"),
        (("model", tmp_path, "--only", "xquad"), "no row is called xquad; there are xquad-r, xquad-r:paragraph"),
    ):
        done = subprocess.run(
            [sys.executable, "results_table.py", *map(str, arguments)], cwd=BENCHMARKS, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert sentence in done.stderr
