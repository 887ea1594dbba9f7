"""Make evaluation tasks of the TICO-19 texts that ship, for studies that train without them.

    python launch/studies/tico19_tasks.py [OUT]

OUT (data/tico19) then has `passages`, a BEIR folder a language: find the sentences around a sentence; and `parallel`: find its
translation. Of each passage one sentence is asked for: its others are in the documents of one another.
"""

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "shards" / "demo" / "train" / "tico19"


def make_tasks(out: Path) -> None:
    """Write both tasks, in all languages of TICO-19 that ship."""
    (out / "parallel").mkdir(parents=True, exist_ok=True)
    for path in sorted(SOURCE.glob("*.jsonl.gz")):
        language = path.name.removesuffix(".jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        first = {row["document_id"]: row for row in reversed(rows)}
        number = {passage: f"p{place}" for place, passage in enumerate(sorted(first))}
        folder = out / "passages" / language
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        _write(
            folder / "queries.jsonl",
            ({"_id": f"q{number[key][1:]}", "text": row["query"]} for key, row in first.items()),
        )
        _write(folder / "corpus.jsonl", ({"_id": number[key], "text": row["document"]} for key, row in first.items()))
        judged = [f"q{name[1:]}\t{name}\t1" for name in number.values()]
        (folder / "qrels" / "test.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n", encoding="utf-8"
        )
        # Sentences by their own ids, which are the same in all languages.
        sentences = ({"id": row["id"].replace(" ", "_"), "text": row["query"]} for row in rows)
        _write(out / "parallel" / f"{language}.jsonl", sentences)


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data/tico19")
    make_tasks(out)
    print(f"made {out / 'passages'} and {out / 'parallel'}")
