"""Cut the vocabulary of a quantized encoder to the pieces that some texts need, plus the most likely others.

    python models/cut_vocabulary.py SOURCE OUT --texts FILES... --pieces 76000

SOURCE is a folder as described in `hbdist.models.quantized`, with a Unigram tokenizer whose first four pieces and whose last
piece are special. The files are JSON or JSON lines, plain or gzipped; every string under a key in KINDS counts, at any depth.
The cut tokenizer splits all these texts exactly as the complete one does: all their pieces are kept, and the best segmentation
of a text stays the best when pieces that it does not use are removed. OUT/tokenization.json has a digest of each file's pieces
under the COMPLETE vocabulary, to check the cut one against.
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
"""Number of special pieces at the start: <s> <pad> </s> <unk>. The last piece is <mask>."""
KINDS = {"query": "query: ", "question": "query: "} | dict.fromkeys(("document", "context", "sentences"), "passage: ")
"""Key of a text → the prefix that the encoder expects before it."""


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file with their prefixes, in its order."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    for value in map(json.loads, filter(None, text.split("\n"))) if ".jsonl" in path.name else [json.loads(text)]:
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
    """Return the sha256 of the pieces (separated by spaces, one line per text, with special tokens), and the ids used."""
    total, used = hashlib.sha256(), set[int]()
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        total.update(f"{' '.join(encoding.tokens)}\n".encode())
        used.update(encoding.ids)
    return total.hexdigest(), used


def choose(vocabulary: list[list[Any]], used: set[int], size: int) -> list[int]:
    """Return the ids to keep, ascending: special pieces, ASCII characters, used pieces, then the best scores up to `size`."""
    last = len(vocabulary) - 1
    keep = used | set(range(SPECIAL)) | {last}
    keep |= {number for number, (piece, _) in enumerate(vocabulary) if len(piece) == 1 and piece.isascii()}
    if len(keep) > size:
        raise SystemExit(f"the texts need {len(keep)} pieces, --pieces allows {size}. Allow more, or give fewer texts.")
    by_score = sorted(set(range(last)) - keep, key=lambda number: -vocabulary[number][1])
    return sorted(keep | set(by_score[: size - len(keep)]))


def cut_tokenizer(whole: dict[str, Any], keep: list[int]) -> dict[str, Any]:
    """Return the tokenizer with these pieces alone, numbered without gaps in the same order.

    The scores are float32 numbers, and are written with no more digits than those need: this saves a fifth of the file.
    """
    number = {old: new for new, old in enumerate(keep)}
    vocabulary = whole["model"]["vocab"]
    pieces = [[vocabulary[old][0], float(str(np.float32(vocabulary[old][1])))] for old in keep]
    added = [token | {"id": number[token["id"]]} for token in whole["added_tokens"]]
    assert number[whole["model"]["unk_id"]] == whole["model"]["unk_id"], "special pieces keep their ids"
    return whole | {"added_tokens": added, "model": whole["model"] | {"vocab": pieces}}


def write(source: Path, out: Path, keep: list[int]) -> None:
    """Write the files of the cut encoder; the other JSON files of `source` are copied."""
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
    arguments = parser.parse_args()

    whole = Tokenizer.from_file(str(arguments.source / "tokenizer.json"))
    vocabulary = json.loads((arguments.source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    files, used = {}, set[int]()
    for path in arguments.texts:
        texts = list(texts_of(path))
        sha256, ids = digest(whole, texts)
        files[path.as_posix()] = {"texts": len(texts), "sha256": sha256}
        used |= ids
    keep = choose(vocabulary, used, arguments.pieces)
    write(arguments.source, arguments.out, keep)
    note = {"vocabulary": f"{arguments.source.name}, {len(vocabulary)} pieces", "kept": len(keep), "files": files}
    (arguments.out / "tokenization.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(keep)} of {len(vocabulary)} pieces; the texts use {len(used)} of them")


if __name__ == "__main__":
    main()
