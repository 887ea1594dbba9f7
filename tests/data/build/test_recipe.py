from pathlib import Path

import pytest
from built_folders import one_file, recipe
from shard_sources import row

from hbdist.data.build.build import build
from hbdist.data.build.recipe import Recipe
from hbdist.errors import ConfigError


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    path = one_file(tmp_path / "recipes", [row(1, "en")])
    path.write_text('out = "../built"\n' + path.read_text())
    monkeypatch.chdir(tmp_path)
    assert build(Path("recipes/recipe.toml"), workers=1).root.resolve() == tmp_path / "built"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shard_row = 5", "unknown key shard_row. Did you mean shard_rows?"),
        (
            "shard_rows = 0",
            "shard_rows = 0: input should be greater than or equal to 1. shard_rows: Number of pairs per tar",
        ),
        ("x = ", "is not valid TOML"),
        ("", "dataset is missing. Add it:"),
        ("[[dataset]]\nname='d'\nreader='jsonl'", "[[dataset]] 1: files is missing. Add it: Language code"),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={zh-Hant='a'}", "not a canonical language code"),
        ("[[dataset]]\nname='a-b'\nreader='jsonl'\nfiles={en='a'}", "'a-b' cannot name a dataset"),
        (
            "[[dataset]]\nname='d'\nreader='csv'\nfiles={en='a'}",
            "reader = 'csv': input should be 'jsonl', 'squad', 'lines'",
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nlicense='x'", "Did you mean licence?"),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nfields={text='x'}", "fields = 'text'"),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\ndocument='sentence'",
            'document is for reader "squad"',
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\ncross='all'", "cross needs parallel = true"),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nparallel=true\ncross=[['en','de']]",
            "cross has ['en', 'de']; expected two different languages of en",
        ),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nlayout='parallel'",
            'layout = "parallel" needs parallel = true',
        ),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\n" * 2,
            "dataset d occurs twice",
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a.jsonl'}", "a.jsonl; expected files that exist"),
        (
            "[[dataset]]\nname='d'\nreader='squad'\nfiles={en='a'}\nwhere={x=1}",
            'where is for reader "jsonl" or "datasets"',
        ),
        ("[[dataset]]\nname='d'\nreader='ir_datasets'", "sources is missing. Add it: Language code → id"),
        ("[[dataset]]\nname='d'\nreader='datasets'\nfiles={en='a.txt'}", "a.txt is not one of .parquet"),
        (
            "[[dataset]]\nname='d'\nreader='datasets'\nfiles={en='a.csv'}\nsources={en='x'}",
            "files and sources are both given; expected one",
        ),
        ("[[dataset]]\nname='d'\nreader='msmarco'\nfiles={en='a'}\nqueries={en='b'}", "and either triples or qrels"),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nparallel=true\nfiles={en='a',de='b/../a'}",
            "[[dataset]] 1: files.en and files.de are both",
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en=['a','a']}", "files.en, twice, are both"),
        (
            "[[dataset]]\nname='d'\nreader='ir_datasets'\nsources={en='x',de='x'}",
            "sources.en and sources.de are both x",
        ),
        (
            "[[dataset]]\nname='d'\nreader='msmarco'\nqrels='r'\nfiles={en='a',de='b'}\nqueries={en='q',de='q'}",
            "queries.en and queries.de are both",
        ),
        (
            "[[dataset]]\nname='d'\nreader='lines'\nparallel=true\nfiles={en=['a','b'],de='c'}",
            "files.en is a list of 2; several files are for reader",
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en=[]}", "files"),
        (f"[[dataset]]\nname='d'\nreader='jsonl'\nfiles={{en='{'x' * 256}'}}", "has a name of more than 255 bytes"),
        ('[[dataset]]\nname="d"\nreader="jsonl"\nfiles={en="a\\u0000b"}', "has a null byte"),
        (f"[[dataset]]\nname='{'x' * 101}'\nreader='jsonl'\nfiles={{en='a'}}", "Use at most 100 of a-z"),
        (
            "[[dataset]]\nname='d'\nreader='datasets'\nfiles={en='a.csv'}\nsplit='test'",
            "split is for sources on the hub, but the dataset has files",
        ),
        ("limits.query_characters = [9, 3]", "query_characters = [9, 3] leaves nothing; expected [fewest, most]"),
        ("shard_rows = 2000000000", "shard_rows = 2000000000: input should be less than or equal to 1000000000"),
        ("[[dataset]]\nname='d'\nreader='lines'\nfiles={en='a',de='b'}", 'reader "lines" needs parallel = true'),
        (
            "[[dataset]]\nname='validation'\nreader='jsonl'\nfiles={en='a'}",
            "like the folder of held-out pairs. Rename it",
        ),
        ("limits.query_chars = 5", "[limits] unknown key query_chars. Did you mean query_characters?"),
        ("deduplicate.text = 'fuzzy'", "[deduplicate] text = 'fuzzy': input should be 'exact' or 'normalised'"),
        ("decontaminate.files = []", "[decontaminate] files = []: tuple should have at least 1 item"),
        (
            "validation = 0.9",
            "validation = 0.9: input should be less than or equal to 0.5. validation: Share of the ids",
        ),
    ],
)
def test_the_error_of_a_wrong_recipe_says_what_is_wrong_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(recipe(tmp_path, text), tmp_path / "out")
    assert message in str(error.value)
    assert str(tmp_path / "recipe.toml") in str(error.value)


def test_a_recipe_needs_a_folder_to_build(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no key out, and none was given"):
        build(one_file(tmp_path, [row(1, "en")]))


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has a name of more than 255 bytes, .* Give another --out"):
        build(one_file(tmp_path, [row(1, "en")]), tmp_path / ("x" * 256))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = one_file(tmp_path, [row(1, "en")])
    with pytest.raises(ConfigError, match=r"recipe\.toml/out cannot be written: .* Give another --out"):
        build(path, path / "out")


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_file(tmp_path / "home", [row(1, "en")])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = recipe(tmp_path, '[[dataset]]\nname="d"\nreader="jsonl"\nfiles.en="~/en.jsonl"\n')
    assert build(path, tmp_path / "out", workers=1).rows == 1


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = one_file(tmp_path, [row(1, "en")])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert build(path, tmp_path / "out", workers=1).rows == 1


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        build(tmp_path / "nowhere.toml")


RECIPES = sorted((Path(__file__).parents[3] / "shards" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.name for path in RECIPES])
def test_shipped_recipes_are_valid_and_state_their_licences(path: Path) -> None:
    loaded = Recipe.load(path)
    assert loaded.out
    assert loaded.out.parent.name == "built"
    assert all(dataset.licence != "not stated" for dataset in loaded.dataset)
    assert not loaded.decontaminate or all(file.is_file() for file in loaded.decontaminate.files), (
        "these are shipped too"
    )


def test_the_recipe_of_the_paper_has_its_datasets_and_languages() -> None:
    loaded = Recipe.load(next(path for path in RECIPES if path.name == "paper.toml"))
    languages = {dataset.name: set(dataset.languages) for dataset in loaded.dataset}
    english = {"wikiqa", "mrtydi", "duorc", "newsqa", "nq", "yahoo", "entityquestions", "mfaq"}
    assert languages == {name: {"en"} for name in english} | {"mmarco": {"en", "ar", "zh", "de", "es", "ru", "hi"}}
    assert len(next(dataset for dataset in loaded.dataset if dataset.name == "mmarco").groups) == 7 * 7
