"""The trained encoder as a folder that `SentenceTransformer` loads, and `AutoModel` where it can, with a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.config.sections import LossSection, ModelSection
from hbdist.models.encoder import Encoder
from hbdist.models.pretrained import CHOSEN_FILE, MODULES, SETTINGS_FILE, selection_record


def export(
    encoder: Encoder,
    folder: Path,
    config: Config,
    *,
    fingerprint: str,
    steps: int,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the model folder, whole or not at all.

    Args:
        fingerprint: of the manifest it was trained on.
        steps: updates that made these weights.
        weights: of the trained module, by name; by default those that the encoder holds. Under ZeRO-3 it holds none.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} if weights is None else weights
    encoder.backbone.save_pretrained(partial, state_dict=_part(weights, "encoder.backbone."))
    _with_fixed_language(encoder).save_pretrained(partial)
    for number, _ in enumerate(encoder.head.layers):
        path = partial / f"{2 + number}_Dense" / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(save(_part(weights, f"encoder.head.{number}."), metadata={"format": "pt"}))
    for name, content in sentence_transformers_files(encoder).items():
        path = partial / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    criterion = Criterion.of(config)
    if criterion and criterion.task:
        (partial / CHOSEN_FILE).write_text(json.dumps(selection_record(criterion, steps)) + "\n", encoding="utf-8")
    card = model_card(config, encoder, steps=steps, fingerprint=fingerprint)
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    assert part, f"no weights of {prefix} among the trained module's"
    return {name: value.detach().cpu().contiguous() for name, value in part.items()}


def _with_fixed_language(encoder: Encoder) -> Any:
    """The tokenizer, which puts the fixed language's token before each text where there is one."""
    tokenize, settings = encoder.tokenize, encoder.settings
    if tokenize.language_tokens and settings.language_token == "fixed":
        tokenize.tokenizer.src_lang = tokenize.language_tokens.code(settings.fixed_language)
    return tokenize.tokenizer


def sentence_transformers_files(encoder: Encoder) -> dict[str, Any]:
    """The files by which others know modules, pooling, prompts and lengths, and we the rest: {path: content}."""
    settings = encoder.settings
    transformer, pooling, dense, normalize = MODULES
    kinds = (transformer, pooling, *[dense] * len(encoder.head.layers), normalize)
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": "" if kind == transformer else f"{place}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    own = {"language_token": settings.language_token, "fixed_language": settings.fixed_language}
    return {
        **{f"{2 + number}_{dense}/config.json": layer.config for number, layer in enumerate(encoder.head.layers)},
        **({SETTINGS_FILE: own} if encoder.tokenize.language_tokens else {}),
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": max(settings.max_query_tokens, settings.max_document_tokens),
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
        },
    }


def model_card(config: Config, encoder: Encoder, *, steps: int, fingerprint: str) -> str:
    """The model's README: what it is, how to use it, what it was trained on, how to train it again."""
    base, batch = config.model.name, config.batch
    languages = ", ".join(config.data.languages) or "all of the shards"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, multilingual, dense-retrieval, hbdist]
---

# {Path(config.run.folder).name}

A multilingual dense retriever: `{base}` fine-tuned with hybrid batches, a share {batch.mono_share:g} of them monolingual
(query and document in one language) and the others cross-lingual.

{_usage(encoder)}

{_prefixes(config.model)} Pooling is {config.model.pooling}, then {_dense(encoder)}L2 normalisation.
{_alone(encoder)}

## Training

- Languages: {languages}. Data: shards with manifest fingerprint `{fingerprint}`.
- {steps} of {config.steps} steps of {batch.size} pairs, α = {batch.mono_share:g} (`batch.mix = "{batch.mix}"`).
{_choice(config)}- InfoNCE at temperature {_loss(config.loss)}, {config.loss.hard_negatives} hard negatives a pair.
- AdamW, learning rate {config.optimizer.lr:g} ({config.optimizer.schedule}, {config.optimizer.warmup_steps} warm-up steps),
  weight decay {config.optimizer.weight_decay:g}, seed {config.seed}.

Made with hbdist; the method is arXiv 2408.10536. The config below, in a file, trains it again:
`accelerate launch hbdist/train.py FILE.toml`.

```toml
{config.to_toml()}```
"""


def _usage(encoder: Encoder) -> str:
    """Code that gives the vectors the model was trained to give."""
    tokens, how = encoder.tokenize.language_tokens, encoder.settings.language_token
    if tokens and how == "drop":
        return """```python
from hbdist.models.encoder import Encoder, settings_of

model = Encoder.load_for_use(settings_of("path/of/this/folder"))
query, document = model.encode(["…"], "query")[0], model.encode(["…"], "document")[0]
score = query @ document  # vectors are unit length
```

It was trained without language tokens (`model.language_token = "drop"`), and sentence-transformers would put one before
each text: its vectors are others."""
    lines = ["", ""]
    if tokens and how == "keep":
        codes = [tokens.code("en") or min(tokens.ids), tokens.code("de") or max(tokens.ids)]
        lines = [f'model.tokenizer.src_lang = "{code}"  # the language of the next texts\n' for code in codes]
    return f"""```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
{lines[0]}query = model.encode("…", prompt_name="query")
{lines[1]}document = model.encode("…", prompt_name="document")
score = query @ document  # vectors are unit length
```"""


def _prefixes(model: ModelSection) -> str:
    if not model.query_prefix and not model.document_prefix:
        return "Neither queries nor documents have a prefix."
    return f"Queries are prefixed with `{model.query_prefix}`, documents with `{model.document_prefix}`."


def _dense(encoder: Encoder) -> str:
    return "".join(
        f"a dense layer ({layer.config['in_features']} → {layer.config['out_features']},"
        f" {type(layer.activation).__name__.lower()}), then "
        for layer in encoder.head.layers
    )


def _alone(encoder: Encoder) -> str:
    """What `AutoModel` makes of the folder."""
    if encoder.tokenize.language_tokens:
        return (
            "It is an encoder cut out of M2M100 or NLLB, and `AutoModel.from_pretrained` cannot load it: it makes the whole"
            "\nmodel, with random weights."
        )
    if encoder.head.layers:
        return (
            "`AutoModel.from_pretrained` loads it without pooling and without the dense layer: what it gives are not this"
            " model's vectors."
        )
    return "It loads with `AutoModel.from_pretrained` as well; pooling is then yours."


def _choice(config: Config) -> str:
    criterion = Criterion.of(config)
    if not criterion or not criterion.exported:
        return ""
    flattered = f" Its scores on {criterion.task} are of the best step on it, and so a little too good."
    return f"- This step was {criterion.label}.{flattered * bool(criterion.task)}\n"


def _loss(loss: LossSection) -> str:
    learned = " at first, then learned" if loss.learn_temperature else ""
    margin = f", margin {loss.margin:g}" if loss.margin is not None else ""
    return f"{loss.temperature:g}{learned}{', symmetric' * loss.symmetric}{margin}"
