"""Translation models small enough to make on the spot, whose files are those of real ones. Used by test_translate*.py.

The M2M100 is not trained but built: it turns each word of a made-up English into its Greek or Thai spelling. D is its
width; a half of it are sines, whose slowest quarter hardly changes with the position and holds the content.
"""

import json
from pathlib import Path
from typing import Any

SYLLABLES = "base bipo bube dagi dora fasu feni gata gulo kami keso lipa loru mabe midu nasi nelo pafu pori ruda"
ENGLISH = SYLLABLES.split()
LETTERS = "abdefgiklmnoprstu"
SPELLINGS = {
    "el": dict(zip(LETTERS, "αβδεφγικλμνοπρστυ", strict=True)),
    "th": dict(zip(LETTERS, "าบดเฟกิคลมนอปรสตุ", strict=True)),
}
NEUTRAL = [".", "</s>", *(f"▁{number}" for number in range(10, 20))]
WIDTH, WORD, LANGUAGE, MARK = 512, 0, 40, 50
"""D; where in the content dimensions words, languages and the mark of a language token begin."""


def spell(text: str, language: str) -> str:
    """What the built model makes of an English text."""
    return "".join(SPELLINGS[language].get(letter, letter) for letter in text)


def make_m2m100(folder: Path) -> Path:
    """An M2M100 that spells English words in Greek (`el`) or Thai (`th`) letters, and copies numbers and stops."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    spelled = [
        word if language == "en" else spell(word, language) for language in ("en", "el", "th") for word in ENGLISH
    ]
    pieces = [*(f"▁{word}" for word in spelled), *(piece for piece in NEUTRAL if piece != "</s>"), "▁"]
    folder.mkdir(parents=True)
    vocabulary = {piece: place for place, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    write_sentencepiece(folder / "sentencepiece.bpe.model", pieces)
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    small: dict[str, Any] = {
        f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")
    }
    config = M2M100Config(
        **small,
        vocab_size=len(vocabulary) + len(tokenizer.lang_code_to_id) + 8,
        d_model=WIDTH,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=64,
        scale_embedding=False,
    )
    model = M2M100ForConditionalGeneration(config)
    wire(model, vocabulary, {code: tokenizer.get_lang_id(code) for code in ("el", "th")})
    model.save_pretrained(folder)
    return folder


def wire(model: Any, vocabulary: dict[str, int], languages: dict[str, int]) -> None:
    """Set the weights: cross-attention looks at its own position and brings the word, self-attention at the language
    token and brings the language; of all pieces that has the largest score which has both."""
    import torch

    content = torch.arange(WIDTH // 2 * 3 // 4, WIDTH // 2)
    places = torch.cat([torch.arange(0, WIDTH // 2 * 3 // 4), torch.arange(WIDTH // 2, WIDTH // 2 * 7 // 4)])
    word, language, mark = content[:LANGUAGE], content[LANGUAGE:MARK], content[MARK]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        embeddings_VD = model.get_input_embeddings().weight
        for number, english in enumerate(ENGLISH):
            for place, code in enumerate(("el", "th", "en")):
                piece = vocabulary[f"▁{english if code == 'en' else spell(english, code)}"]
                embeddings_VD[piece, word[number]] = embeddings_VD[piece, language[place]] = 3.0
        for number, neutral in enumerate(NEUTRAL, len(ENGLISH)):
            embeddings_VD[vocabulary[neutral], word[number]] = 3.0 * 2**0.5  # all of one length
        for place, token in enumerate(languages.values()):
            embeddings_VD[token, mark] = embeddings_VD[token, language[place]] = 3.0
        layer = model.model.decoder.layers[0]
        bring(layer.encoder_attn, look=places, sharpness=15.0, carry=word)
        bring(layer.self_attn, look=mark.unsqueeze(0), sharpness=15.0, carry=language)
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.q_proj.bias[mark] = 100.0


def bring(attention: Any, *, look: Any, sharpness: float, carry: Any) -> None:
    """Attend where `look` dimensions agree, and bring the `carry` dimensions from there."""
    attention.q_proj.weight[look, look] = sharpness
    attention.k_proj.weight[look, look] = sharpness
    attention.v_proj.weight[carry, carry] = 1.0
    attention.out_proj.weight[carry, carry] = 20.0


def make_marian(folder: Path, *, target: str | None = "de", tokens: tuple[str, ...] = ()) -> Path:
    """A Marian model with random weights: from English into `target`, or into the languages of tokens such as `>>de<<`."""
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    pieces = [f"▁{word}" for word in ENGLISH] + list("abdefgiklmnoprstu.▁")
    vocabulary = {piece: place for place, piece in enumerate(["</s>", "<unk>", *tokens, *pieces, "<pad>"])}
    for side in ("source.spm", "target.spm"):
        write_sentencepiece(folder / side, pieces)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, source_lang="en", target_lang=target).save_pretrained(folder)
    small = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = MarianConfig(
        **small,
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=48,
        pad_token_id=vocabulary["<pad>"],
        eos_token_id=0,
        forced_eos_token_id=0,
        decoder_start_token_id=vocabulary["<pad>"],
        init_std=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MarianMTModel(config).save_pretrained(folder)
    return folder


def write_sentencepiece(path: Path, pieces: list[str]) -> None:
    """A unigram model of just these pieces, longer ones preferred."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    for piece, kind in [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((piece, 1) for piece in pieces)]:
        model.pieces.add(piece=piece, type=kind, score=-1.0 if kind == 1 else 0.0)
    model.trainer_spec.model_type = 1
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())
