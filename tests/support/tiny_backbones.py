"""XLM-R, LaBSE, M2M100 and NLLB in their real architectures, with small random weights."""

import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "me5-small-demo"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POSITIONS = 100
"""Most tokens of a text for the small XLM-R."""


def make_xlm_r(folder: Path) -> Path:
    """Make an XLM-RoBERTa, whose position ids begin after the id of its padding token."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))["vocab_size"],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        pad_token_id=1,
    )
    save_random(XLMRobertaModel, config, folder, seed=1)  # with its pooler, as published
    for name in TOKENIZER:
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def make_unused(kind: str, folder: Path, *, pieces: int = 76_000) -> Path:
    """Make a LUKE, an XLM or a Longformer, which have parameters that the vector of a text does not depend on."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    own: dict[str, dict[str, Any]] = {
        "luke": {"entity_vocab_size": 10, "entity_emb_size": 8, "max_position_embeddings": 130, **sizes},
        "xlm": {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "n_langs": 3, "max_position_embeddings": 130},
        "longformer": {"attention_window": 16, "max_position_embeddings": 130, **sizes},
    }
    name = {"luke": "Luke", "xlm": "XLM", "longformer": "Longformer"}[kind]
    config = getattr(transformers, f"{name}Config")(vocab_size=pieces, pad_token_id=1, **own[kind])
    save_random(getattr(transformers, f"{name}Model"), config, folder, seed=4)
    for file in TOKENIZER:
        shutil.copyfile(SHIPPED / file, folder / file)
    return folder


def make_labse(folder: Path, bert: Path, *layers: Any) -> Path:
    """Make a sentence-transformers BERT like LaBSE: [CLS], a dense layer with tanh (or the given layers), L2 norm."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    with torch.random.fork_rng():
        torch.manual_seed(2)
        parts = [modules.Transformer(str(bert)), modules.Pooling(32, pooling_mode="cls")]
        parts += layers or [modules.Dense(32, 24, activation_function=torch.nn.Tanh())]
        SentenceTransformer(modules=[*parts, modules.Normalize()], device="cpu").save(str(folder))
    return folder


def make_m2m100(folder: Path) -> Path:
    """Make an M2M100 whose pieces are learned from a few hundred sentences in three languages."""
    texts = []
    for language in ("en", "de", "th"):
        path = ROOT / "shards/demo/train/ntrex" / f"{language}.jsonl.gz"
        texts += [json.loads(line)["query"] for line in gzip.decompress(path.read_bytes()).decode().splitlines()[:200]]
    return tiny_m2m100().make(folder, texts, pieces=600, width=32)


def tiny_m2m100() -> ModuleType:
    """Import the script models/make_tiny_m2m100.py."""
    spec = importlib.util.spec_from_file_location("make_tiny_m2m100", ROOT / "models" / "make_tiny_m2m100.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_nllb(folder: Path, *, legacy: bool = False) -> Path:
    """Make an NLLB whose pieces are letters; `legacy` puts the language token at the end."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = NllbTokenizer(vocab=number_pieces(pieces), merges=[], legacy_behaviour=legacy)
    tokenizer.save_pretrained(folder)
    sizes = encoder_decoder(layers=2, ffn_dim=64)
    config = M2M100Config(vocab_size=len(tokenizer), d_model=32, init_std=0.2, **sizes)
    save_random(M2M100ForConditionalGeneration, config, folder, seed=3)
    return folder


def number_pieces(pieces: list[str]) -> dict[str, int]:
    """Return the vocabulary in which each piece has its index as its id."""
    return {piece: index for index, piece in enumerate(pieces)}


def encoder_decoder(*, layers: int, ffn_dim: int) -> dict[str, Any]:
    """Return the sizes of an encoder and a decoder, each with as many attention heads as layers."""
    sizes = {"layers": layers, "attention_heads": layers, "ffn_dim": ffn_dim}
    return {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in sizes.items()}


def save_random(model: Any, config: Any, folder: Path, *, seed: int) -> None:
    """Save a model of this class and config with random weights, without touching the global generator."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model(config).save_pretrained(folder)
