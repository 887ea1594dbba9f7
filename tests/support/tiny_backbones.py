"""The real architectures of XLM-R, LaBSE, M2M100 and NLLB with small random weights. Used by test_backbones.py."""

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
"""Tokens that the small XLM-R has positions for."""


def make_xlm_r(folder: Path) -> Path:
    """XLM-RoBERTa, whose positions begin behind its padding token's."""
    import torch
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
    with torch.random.fork_rng():
        torch.manual_seed(1)
        XLMRobertaModel(config).save_pretrained(folder)  # with its pooler, as published
    for name in TOKENIZER:
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def make_labse(folder: Path, bert: Path, *layers: Any) -> Path:
    """A BERT of sentence-transformers as LaBSE is: [CLS], a dense layer with tanh (or those given), L2 norm."""
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
    """M2M100, encoder and decoder, whose pieces are learned from a few hundred sentences in three languages."""
    texts = []
    for language in ("en", "de", "th"):
        path = ROOT / "shards/demo/train/ntrex" / f"{language}.jsonl.gz"
        texts += [json.loads(line)["query"] for line in gzip.decompress(path.read_bytes()).decode().splitlines()[:200]]
    return tiny_m2m100().make(folder, texts, pieces=600, width=32)


def tiny_m2m100() -> ModuleType:
    """The script models/make_tiny_m2m100.py."""
    spec = importlib.util.spec_from_file_location("make_tiny_m2m100", ROOT / "models" / "make_tiny_m2m100.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_nllb(folder: Path, *, legacy: bool = False) -> Path:
    """NLLB, encoder and decoder, whose pieces are letters; `legacy` puts the language token at the end."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[], legacy_behaviour=legacy)
    tokenizer.save_pretrained(folder)
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    widths = {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = M2M100Config(vocab_size=len(tokenizer), d_model=32, init_std=0.2, **sizes, **widths)
        M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder
