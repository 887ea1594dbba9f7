"""Translation models in the file formats of real ones, small enough to be made within a test.

The weights of the M2M100 are not trained but set by hand: it spells each word of a made-up English in Greek or Thai
letters. D is its width. Half of the dimensions are sines of the position; the slowest quarter of them hardly changes with
the position and carries the content.
"""

import json
from pathlib import Path
from typing import Any

from tiny_backbones import encoder_decoder, number_pieces, save_random

SYLLABLES = "base bipo bube dagi dora fasu feni gata gulo kami keso lipa loru mabe midu nasi nelo pafu pori ruda"
ENGLISH = SYLLABLES.split()
LETTERS = "abdefgiklmnoprstu"
SPELLINGS = {
    "el": dict(zip(LETTERS, "αβδεφγικλμνοπρστυ", strict=True)),
    "th": dict(zip(LETTERS, "าบดเฟกิคลมนอปรสตุ", strict=True)),
}
NEUTRAL = [".", "</s>", *(f"▁{number}" for number in range(10, 20))]
WIDTH, WORD, LANGUAGE, MARK = 512, 0, 40, 50
"""D; first index, among the content dimensions, of words, languages and the mark of a language token."""


def spell(text: str, language: str) -> str:
    """Return the translation that the M2M100 gives of an English text."""
    return "".join(SPELLINGS[language].get(letter, letter) for letter in text)


def make_m2m100(folder: Path) -> Path:
    """Make an M2M100 that spells English words in Greek (`el`) or Thai (`th`) letters, and copies numbers and stops."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    spelled = [
        word if language == "en" else spell(word, language) for language in ("en", "el", "th") for word in ENGLISH
    ]
    pieces = [*(f"▁{word}" for word in spelled), *(piece for piece in NEUTRAL if piece != "</s>"), "▁"]
    folder.mkdir(parents=True)
    vocabulary = number_pieces(["<s>", "<pad>", "</s>", "<unk>", *pieces])
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    write_sentencepiece(folder / "sentencepiece.bpe.model", pieces)
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    config = M2M100Config(
        **encoder_decoder(layers=1, ffn_dim=8),
        vocab_size=len(vocabulary) + len(tokenizer.lang_code_to_id) + 8,
        d_model=WIDTH,
        max_position_embeddings=64,
        scale_embedding=False,
    )
    model = M2M100ForConditionalGeneration(config)
    wire(model, vocabulary, {code: tokenizer.get_lang_id(code) for code in ("el", "th")})
    model.save_pretrained(folder)
    return folder


def wire(model: Any, vocabulary: dict[str, int], languages: dict[str, int]) -> None:
    """Set the weights by hand.

    Cross-attention attends to its own position and carries the word; self-attention attends to the language token and
    carries the language. The piece that has both gets the largest score.
    """
    import torch

    content = torch.arange(WIDTH // 2 * 3 // 4, WIDTH // 2)
    positions = torch.cat([torch.arange(0, WIDTH // 2 * 3 // 4), torch.arange(WIDTH // 2, WIDTH // 2 * 7 // 4)])
    word, language, mark = content[:LANGUAGE], content[LANGUAGE:MARK], content[MARK]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        embeddings_VD = model.get_input_embeddings().weight
        for number, english in enumerate(ENGLISH):
            for index, code in enumerate(("el", "th", "en")):
                piece = vocabulary[f"▁{english if code == 'en' else spell(english, code)}"]
                embeddings_VD[piece, word[number]] = embeddings_VD[piece, language[index]] = 3.0
        for number, neutral in enumerate(NEUTRAL, len(ENGLISH)):
            embeddings_VD[vocabulary[neutral], word[number]] = 3.0 * 2**0.5  # the same norm as the others
        for index, token in enumerate(languages.values()):
            embeddings_VD[token, mark] = embeddings_VD[token, language[index]] = 3.0
        layer = model.model.decoder.layers[0]
        attend(layer.encoder_attn, match=positions, sharpness=15.0, carry=word)
        attend(layer.self_attn, match=mark.unsqueeze(0), sharpness=15.0, carry=language)
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.q_proj.bias[mark] = 100.0


def attend(attention: Any, *, match: Any, sharpness: float, carry: Any) -> None:
    """Set an attention to attend where the `match` dimensions agree, and to carry the `carry` dimensions from there."""
    attention.q_proj.weight[match, match] = sharpness
    attention.k_proj.weight[match, match] = sharpness
    attention.v_proj.weight[carry, carry] = 1.0
    attention.out_proj.weight[carry, carry] = 20.0


def make_marian(folder: Path, *, target: str | None = "de", tokens: tuple[str, ...] = ()) -> Path:
    """Make a Marian with random weights: from English into `target`, or into the languages of tokens such as `>>de<<`."""
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    pieces = [f"▁{word}" for word in ENGLISH] + list("abdefgiklmnoprstu.▁")
    vocabulary = number_pieces(["</s>", "<unk>", *tokens, *pieces, "<pad>"])
    for side in ("source.spm", "target.spm"):
        write_sentencepiece(folder / side, pieces)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, source_lang="en", target_lang=target).save_pretrained(folder)
    config = MarianConfig(
        **encoder_decoder(layers=1, ffn_dim=16),
        vocab_size=len(vocabulary),
        d_model=16,
        max_position_embeddings=48,
        pad_token_id=vocabulary["<pad>"],
        eos_token_id=0,
        forced_eos_token_id=0,
        decoder_start_token_id=vocabulary["<pad>"],
        init_std=0.5,
    )
    save_random(MarianMTModel, config, folder, seed=0)
    return folder


def write_sentencepiece(path: Path, pieces: list[str]) -> None:
    """Write a unigram model of exactly these pieces, which prefers the longer ones."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    for piece, kind in [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((piece, 1) for piece in pieces)]:
        model.pieces.add(piece=piece, type=kind, score=-1.0 if kind == 1 else 0.0)
    model.trainer_spec.model_type = 1
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())
