"""Export of the trained encoder: a folder that `SentenceTransformer` (and mostly `AutoModel`) loads, with a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.models.encoder import Encoder, exported_length
from hbdist.models.pretrained import CHOSEN_FILE, MODULES, SETTINGS_FILE, selection_record
from hbdist.runs.checkpoint import refuse_non_finite
from hbdist.utils.files import atomic_folder
from hbdist.utils.templates import environment


def export(
    encoder: Encoder,
    folder: Path,
    config: Config,
    *,
    fingerprint: str,
    steps: int,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the model folder, completely or not at all.

    Args:
        fingerprint: fingerprint of the manifest it was trained on.
        steps: number of updates that led to these weights.
        weights: weights of the trained module, by name; by default those in the encoder. Under ZeRO-3 the encoder has none.

    Raises:
        NotFiniteError: a weight is infinite or NaN; nothing is written.
        WriteError: the disk is full; nothing of the new model stays.
    """
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} if weights is None else weights
    refuse_non_finite(weights, step=steps, before="the model is exported")
    with atomic_folder(folder) as partial:
        _write_model(encoder, partial, weights)
        for name, content in sentence_transformers_files(encoder).items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        criterion = Criterion.of(config)
        if criterion and criterion.task:
            (partial / CHOSEN_FILE).write_text(json.dumps(selection_record(criterion, steps)) + "\n", encoding="utf-8")
        card = render_model_card(config, encoder, steps=steps, fingerprint=fingerprint)
        (partial / "README.md").write_text(card, encoding="utf-8")
        _share_rights(partial)
    return folder


def _write_model(encoder: Encoder, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write backbone, tokenizer and dense layers."""
    encoder.backbone.save_pretrained(folder, state_dict=_select(weights, "encoder.backbone."))
    _with_fixed_language(encoder).save_pretrained(folder)
    for number, _ in enumerate(encoder.head.layers):
        path = folder / f"{2 + number}_Dense" / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(save(_select(weights, f"encoder.head.{number}."), metadata={"format": "pt"}))


def _share_rights(folder: Path) -> None:
    """Give all files the rights of a new file here: safetensors makes files that only their owner can read."""
    rights = (folder / "README.md").stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(rights)


def _select(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with the prefix, without it."""
    part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    assert part, f"the trained module has no weights named {prefix}…"
    return {name: value.detach().cpu().contiguous() for name, value in part.items()}


def _with_fixed_language(encoder: Encoder) -> Any:
    """Return the tokenizer, set to put the token of `model.fixed_language` before each text if there is one."""
    tokenize, settings = encoder.tokenize, encoder.settings
    if tokenize.language_tokens and settings.language_token == "fixed":
        tokenize.tokenizer.src_lang = tokenize.language_tokens.code(settings.fixed_language)
    return tokenize.tokenizer


def sentence_transformers_files(encoder: Encoder) -> dict[str, Any]:
    """Return the JSON files that describe modules, pooling, prompts and lengths, by path: sentence-transformers' and ours."""
    settings = encoder.settings
    transformer, pooling, dense, normalize = MODULES
    kinds = (transformer, pooling, *[dense] * len(encoder.head.layers), normalize)
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if kind == transformer else f"{index}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    own = {"language_token": settings.language_token, "fixed_language": settings.fixed_language}
    return {
        **{f"{2 + number}_{dense}/config.json": layer.config for number, layer in enumerate(encoder.head.layers)},
        **({SETTINGS_FILE: own} if encoder.tokenize.language_tokens else {}),
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": exported_length(settings),
            "do_lower_case": False,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": int(encoder.backbone.config.hidden_size),
            "pooling_mode_cls_token": settings.pooling == "cls",
            "pooling_mode_mean_tokens": settings.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": settings.query_prefix, "document": settings.document_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
            **({"truncate_dim": encoder.truncate_dim} if encoder.truncate_dim else {}),
        },
    }


def render_model_card(config: Config, encoder: Encoder, *, steps: int, fingerprint: str) -> str:
    """Return the model's README: what it is, how to use it, what it was trained on, how to train it again."""
    tokens = encoder.tokenize.language_tokens
    language_token = encoder.settings.language_token if tokens else ""
    codes = []
    if tokens and language_token == "keep":
        codes = [tokens.code("en") or min(tokens.ids), tokens.code("de") or max(tokens.ids)]
    template = environment(Path(__file__).parent / "templates").get_template("model_card.md")
    return template.render(
        name=Path(config.run.folder).name,
        config=config,
        criterion=Criterion.of(config),
        language_token=language_token,
        codes=codes,
        layers=encoder.head.layers,
        steps=steps,
        fingerprint=fingerprint,
    )
