"""Cut the vocabulary of a packed encoder to the pieces that some texts need, and fill it up with the likeliest ones.

    python models/cut_vocabulary.py SOURCE OUT --texts FILES... --pieces 76000

SOURCE is a folder as `hbdist.models.quantized` describes it, with a Unigram tokenizer whose first four pieces and whose last
are special. The files are JSON or JSON lines, also gzipped: of any nesting, every text under a key in KINDS is one. All of
them are tokenised by the cut tokenizer piece for piece as by the whole one: their pieces are all kept, and taking away
pieces that a best segmentation does not use leaves it the best. OUT/tokenization.json holds a digest of each file's
pieces as the WHOLE vocabulary gives them, against which anyone can check the cut one.
"""

import argparse
import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer

WEIGHTS = "weights.q4.safetensors"
EMBEDDINGS = "embeddings.word_embeddings.weight"
SPECIAL = 4
"""The first pieces: <s> <pad> </s> <unk>. The last is <mask>."""
KINDS = {"query": "query: ", "question": "query: "} | dict.fromkeys(("document", "context", "sentences"), "passage: ")
"""Key of a text → the prefix with which the encoder reads it."""


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file with their prefixes, in its order."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    for value in map(json.loads, text.splitlines()) if ".jsonl" in path.name else [json.loads(text)]:
        yield from _texts(value, "")


def _texts(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str) and key in KINDS:
        yield KINDS[key] + value


def digest(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[str, set[int]]:
    """sha256 of the pieces (a space between two, a line a text; special tokens included), and the ids that occur."""
    total, used = hashlib.sha256(), set[int]()
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        total.update(f"{' '.join(encoding.tokens)}\n".encode())
        used.update(encoding.ids)
    return total.hexdigest(), used


def choose(vocabulary: list[list[Any]], used: set[int], size: int) -> list[int]:
    """The ids to keep, ascending: special ones, ASCII characters, those used, then the best scores up to `size`."""
    last = len(vocabulary) - 1
    keep = used | set(range(SPECIAL)) | {last}
    keep |= {place for place, (piece, _) in enumerate(vocabulary) if len(piece) == 1 and piece.isascii()}
    if len(keep) > size:
        raise SystemExit(f"the texts need {len(keep)} pieces, --pieces allows {size}. Allow more, or give fewer texts.")
    by_score = sorted(set(range(last)) - keep, key=lambda place: -vocabulary[place][1])
    return sorted(keep | set(by_score[: size - len(keep)]))


def cut_tokenizer(whole: dict[str, Any], keep: list[int]) -> dict[str, Any]:
    """The tokenizer with these pieces, numbered densely in the same order; all else of it stays.

    The scores are float32 numbers: they are written with the digits that those need, which saves a fifth of the file.
    """
    number = {old: new for new, old in enumerate(keep)}
    vocabulary = whole["model"]["vocab"]
    pieces = [[vocabulary[old][0], float(str(np.float32(vocabulary[old][1])))] for old in keep]
    added = [token | {"id": number[token["id"]]} for token in whole["added_tokens"]]
    assert number[whole["model"]["unk_id"]] == whole["model"]["unk_id"], "special pieces keep their ids"
    return whole | {"added_tokens": added, "model": whole["model"] | {"vocab": pieces}}


def write(source: Path, out: Path, keep: list[int]) -> None:
    """The files of the cut encoder; what else `source` has beside them is copied."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.json"):
        shutil.copyfile(path, out / path.name)
    tensors = load_file(source / WEIGHTS)
    for part in ("q4", "scale"):
        tensors[f"{EMBEDDINGS}.{part}"] = np.ascontiguousarray(tensors[f"{EMBEDDINGS}.{part}"][keep])
    (out / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    whole = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(cut_tokenizer(whole, keep), ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(compact, encoding="utf-8")
    config = json.loads((source / "config.json").read_text(encoding="utf-8")) | {"vocab_size": len(keep)}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--pieces", type=int, default=76_000)
    given = parser.parse_args()

    whole = Tokenizer.from_file(str(given.source / "tokenizer.json"))
    vocabulary = json.loads((given.source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    files, used = {}, set[int]()
    for path in given.texts:
        texts = list(texts_of(path))
        sha256, ids = digest(whole, texts)
        files[path.as_posix()] = {"texts": len(texts), "sha256": sha256}
        used |= ids
    keep = choose(vocabulary, used, given.pieces)
    write(given.source, given.out, keep)
    note = {"vocabulary": f"{given.source.name}, {len(vocabulary)} pieces", "kept": len(keep), "files": files}
    (given.out / "tokenization.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    print(f"{given.out}: {len(keep)} of {len(vocabulary)} pieces; the texts use {len(used)} of them")


if __name__ == "__main__":
    main()
