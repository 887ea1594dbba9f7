"""Settings of the whole suite, and the small model and shards that many tests train on."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from hbdist.data.build.build import build

# Or its assertions would fail without saying what they found.
pytest.register_assert_rewrite("whole_runs")

# Times vary on shared machines, and a suite that finds something new on every run cannot guard a merge.
# With a mutant (`make mutants`), one example that fails is enough: looking for the smallest would take minutes.
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "MUTANT_UNDER_TEST" not in os.environ]
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60, phases=PHASES)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slurm's tests first: they wait more than they work, and share one cluster. At the end, one worker would be idle."""
    items.sort(key=lambda item: "slurm" not in getattr(item, "fixturenames", ()))


ROOT = Path(__file__).parent.parent
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

RECIPE = """
pairs_per_group = 100

[[dataset]]
name = "ntrex"
reader = "jsonl"
parallel = true
[dataset.files]
en = "{ntrex}/en.jsonl.gz"
de = "{ntrex}/de.jsonl.gz"
th = "{ntrex}/th.jsonl.gz"

[[dataset]]
name = "made"
reader = "jsonl"
[dataset.files]
en = "made.en.jsonl"
de = "made.de.jsonl"
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer BERT with the tokenizer that ships, and dropout in its config."""
    # torch takes seconds to import, and most tests need none.
    import torch
    from transformers import BertConfig, BertModel

    shipped, folder = ROOT / "models" / "me5-small-demo", tmp_path_factory.mktemp("model") / "tiny"
    known = json.loads((shipped / "config.json").read_text(encoding="utf-8"))
    config = BertConfig(
        vocab_size=known["vocab_size"],
        pad_token_id=known["pad_token_id"],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(shipped / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard folder that no test changes: parallel en, de and th, and `made`, whose pairs have hard negatives."""
    folder = tmp_path_factory.mktemp("shards")
    for language in ("en", "de"):
        rows = [json.dumps(made_row(number, language)) for number in range(60)]
        (folder / f"made.{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(ntrex=ROOT / "shards" / "demo" / "train" / "ntrex"), encoding="utf-8")
    return build(recipe, folder / "tiny", workers=1).root


def made_row(number: int, language: str) -> dict[str, object]:
    """One row of `made`: 0 to 3 hard negatives; every third row has the passage of the row before it."""
    return {
        "id": f"{language}{number}",
        "query": f"what is said in {language} of number {number}",
        "document": f"number {number} is said in {language} to be {number * number} times one",
        "document_id": f"passage{number - (number % 3 == 1)}",
        "negatives": [f"{language} {number} is not {wrong}" for wrong in range(number % 4)],
    }
