"""The trained encoder as a folder that both `AutoModel` and `SentenceTransformer` load, with a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hbdist.config import Config
from hbdist.encoder import Encoder
from hbdist.sections import LossSection


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
    mine = "encoder.backbone."
    state = {name.removeprefix(mine): value for name, value in (weights or {}).items() if name.startswith(mine)}
    assert weights is None or state, "no weights of the encoder among the trained module's"
    encoder.backbone.save_pretrained(partial, state_dict=state or None)
    encoder.tokenize.tokenizer.save_pretrained(partial)
    for name, content in sentence_transformers_files(encoder).items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(model_card(config, steps=steps, fingerprint=fingerprint), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def sentence_transformers_files(encoder: Encoder) -> dict[str, Any]:
    """The files by which sentence-transformers knows modules, pooling, prompts and lengths: {path: content}."""
    settings = encoder.settings
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": "" if kind == "Transformer" else f"{place}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": max(settings.max_query_tokens, settings.max_document_tokens),
            "do_lower_case": False,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": encoder.dimensions,
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


def model_card(config: Config, *, steps: int, fingerprint: str) -> str:
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

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
query = model.encode("…", prompt_name="query")
document = model.encode("…", prompt_name="document")
score = query @ document  # vectors are unit length
```

Queries are prefixed with `{config.model.query_prefix}`, documents with `{config.model.document_prefix}`; pooling is
{config.model.pooling}, then L2 normalisation. It loads with `AutoModel.from_pretrained` as well; pooling is then yours.

## Training

- Languages: {languages}. Data: shards with manifest fingerprint `{fingerprint}`.
- {steps} of {config.steps} steps of {batch.size} pairs, α = {batch.mono_share:g} (`batch.mix = "{batch.mix}"`).
- InfoNCE at temperature {_loss(config.loss)}, {config.loss.hard_negatives} hard negatives a pair.
- AdamW, learning rate {config.optimizer.lr:g} ({config.optimizer.schedule}, {config.optimizer.warmup_steps} warm-up steps),
  weight decay {config.optimizer.weight_decay:g}, seed {config.seed}.

Made with hbdist; the method is arXiv 2408.10536. The config below, in a file, trains it again:
`accelerate launch hbdist/train.py FILE.toml`.

```toml
{config.to_toml()}```
"""


def _loss(loss: LossSection) -> str:
    learned = " at first, then learned" if loss.learn_temperature else ""
    margin = f", margin {loss.margin:g}" if loss.margin is not None else ""
    return f"{loss.temperature:g}{learned}{', symmetric' * loss.symmetric}{margin}"
