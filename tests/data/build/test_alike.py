"""Texts that are the same in two languages of a parallel dataset: counted by the build, and named above a share."""

import json
from pathlib import Path

import pytest
from shard_sources import parallel, row

from hbdist.data.build.build import build
from hbdist.data.build.statistics import STATISTICS, Statistics
from hbdist.data.shards.alike import ALIKE_WARNING, TextDigests, alike_share, limit_of
from hbdist.data.shards.verify import check


def statistics(folder: Path, **more: int) -> Statistics:
    path = parallel(folder, {one: [row(n, "en") for n in range(4)] for one in ("en", "de", "es")}, **more)
    return Statistics.load(build(path, folder / "out", workers=1).folder)


def test_a_file_copied_as_three_languages_is_counted_and_warned_of(tmp_path: Path) -> None:
    found = statistics(tmp_path)
    assert {language: size.alike for language, size in found.languages.items()} == {"en": 8, "de": 8, "es": 8}
    assert "24 of 24 cross-lingual pairs (100.0%) have the same query or the same document" in found.text()
    assert found.text().endswith(ALIKE_WARNING)


def test_only_pairs_that_are_kept_are_counted(tmp_path: Path) -> None:
    assert {size.alike for size in statistics(tmp_path, pairs_per_group=1).languages.values()} == {2}


def test_one_text_that_is_not_translated_is_counted_without_a_warning(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(50)] for language in ("en", "de")}
    rows["de"][0]["query"] = rows["en"][0]["query"]
    text = Statistics.load(build(parallel(tmp_path, rows), tmp_path / "out", workers=1).folder).text()
    assert "2 of 100 cross-lingual pairs (2.0%)" in text
    assert ALIKE_WARNING not in text


def test_translations_and_folders_of_earlier_versions_have_no_such_line(tmp_path: Path) -> None:
    rows = {language: [row(1, language)] for language in ("en", "de")}
    folder = build(parallel(tmp_path, rows), tmp_path / "out", workers=1).folder
    assert "in both languages" not in Statistics.load(folder).text()
    values = json.loads((folder / STATISTICS).read_text())
    for size in values["languages"].values():
        del size["alike"]
    (folder / STATISTICS).write_text(json.dumps(values))
    assert "in both languages" not in Statistics.load(folder).text()


@pytest.mark.parametrize("layout", ["pairs", "parallel"])
def test_a_check_finds_copies_among_the_samples_themselves(tmp_path: Path, layout: str) -> None:
    path = parallel(tmp_path, {one: [row(n, "en") for n in range(4)] for one in ("en", "de")})
    path.write_text(f'{path.read_text()}\nlayout = "{layout}"\n')
    folder = build(path, tmp_path / "out", workers=1).folder
    (folder / STATISTICS).unlink()
    text = check(folder, workers=1).text()
    assert "the same query and document under several languages: 100.00% of the rows of p" in text
    assert ALIKE_WARNING in text


@pytest.mark.parametrize("layout", ["pairs", "parallel"])
def test_a_check_of_translations_has_no_such_line(tmp_path: Path, layout: str) -> None:
    path = parallel(tmp_path, {one: [row(n, one) for n in range(4)] for one in ("en", "de")})
    path.write_text(f'{path.read_text()}\nlayout = "{layout}"\n')
    assert "under several languages" not in check(build(path, tmp_path / "out", workers=1).folder, workers=1).text()


def test_a_sample_of_a_large_data_set_gives_the_same_share() -> None:
    def digests(numbers: range, limit: int) -> TextDigests:
        made = TextDigests(limit)
        for number in numbers:
            made.add(f"query {number}", f"document {number}")
        return made

    parts = range(20_000), range(10_000, 30_000)
    assert alike_share([digests(part, limit_of(40_000, parts=2)) for part in parts]) == 0.5
    sampled = [digests(part, limit_of(2**26, parts=2)) for part in parts]
    assert 2000 < len(sampled[0].kept) < 3000
    assert abs(alike_share(sampled) - 0.5) < 0.03
    assert not digests(range(10), limit_of(10, parts=1)).kept
