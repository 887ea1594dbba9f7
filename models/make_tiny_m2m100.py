"""Make a tiny M2M100 with random weights, to try training from M2M100's encoder without a download.

    python models/make_tiny_m2m100.py [models/built/tiny-m2m100]

It has the same files as facebook/m2m100_418M, including the decoder, and its tokenizer has the same hundred languages. Its
pieces are learned from the queries of the demo's training data. The same texts give the same files.
"""

import argparse
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

DEMO = Path(__file__).parent.parent / "shards" / "demo" / "train"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MADE_UP = 8
"""Number of unused ids after those of the languages, as in the published models."""


def demo_texts() -> Iterable[str]:
    """Yield the queries of the demo's training data, in all its languages."""
    for path in sorted(DEMO.glob("*/*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().rstrip("\n").split("\n"):
            yield json.loads(line)["query"]


def make(folder: Path, texts: Iterable[str], *, pieces: int = 8000, width: int = 128, layers: int = 2) -> Path:
    """Write the model and its tokenizer, and return the folder.

    Args:
        pieces: size of the vocabulary.
        width: dimensions of a token's vector.
        layers: layers of the encoder; the decoder has one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=0.9995,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    learned = SentencePieceProcessor(model_proto=model.getvalue())
    known = [learned.id_to_piece(number) for number in range(learned.get_piece_size())]
    vocabulary = [*SPECIAL, *(piece for piece in known if piece not in SPECIAL)]
    (folder / "vocab.json").write_text(
        json.dumps({piece: number for number, piece in enumerate(vocabulary)}, ensure_ascii=False), encoding="utf-8"
    )
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    config = M2M100Config(
        vocab_size=len(vocabulary) + len(tokenizer.lang_code_to_id) + MADE_UP,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_position_embeddings=1024,
        init_std=width**-0.5,  # at the usual 0.02, positions would dominate so narrow an embedding
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("models/built/tiny-m2m100"))
    folder = make(parser.parse_args().out, demo_texts())
    print(f"{folder}: a tiny M2M100 with random weights")


if __name__ == "__main__":
    main()
