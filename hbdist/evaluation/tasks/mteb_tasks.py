"""XQuAD-R as mteb tasks, so that every model that mteb runs gets the same queries and candidates.

mteb (github.com/embeddings-benchmark/mteb, its issue 347) has XQuAD as 240 paragraphs per language, and no pool of
several languages. It is installed separately from hbdist and imported when a task is made.

    import mteb
    from sentence_transformers import SentenceTransformer
    mteb.evaluate(SentenceTransformer("runs/demo/model"), xquad_r_tasks(load_xquad_r()), cache=None)
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, assert_never

from hbdist.errors import ConfigError
from hbdist.evaluation.scores import SETTINGS, Setting
from hbdist.evaluation.tasks.files import TABLES
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import NAME

SPLIT = "test"
LANGUAGES: dict[str, str] = TABLES["mteb"]["languages"]
"""Language → mteb's name of it."""


def xquad_r_tasks(task: RetrievalTask) -> list[Any]:
    """Return one mteb task per setting, in the order of SETTINGS, of XQuAD-R in either variant, whole or cut.

    A subset is a language ("en", monolingual and multilingual) or an ordered pair of two ("en-de"); mteb's mean over
    subsets is the macro mean of `hbdist evaluate`. mteb scores the first 1,000 candidates: its nDCG@10, recall@k and
    precision@k equal those of hbdist, but map_at_1000 is not mAP over the full ranking.

    mteb caches results by the names of task and model. A cut has a name of its own, but a model that was trained again in
    the same folder does not, so turn the cache off (`cache=None`). mteb encodes anew for every subset: in the multilingual
    setting, all 13,014 sentences eleven times, which its CachedEmbeddingWrapper avoids.

    Raises:
        ConfigError: mteb is not installed, or the task is another one.
    """
    if task.name.partition(":")[0] != NAME:
        raise ConfigError(f"{task.name} cannot be given to mteb; expected {NAME}, in either variant.")
    try:
        base = import_module("mteb.abstasks.retrieval").AbsTaskRetrieval
        metadata = import_module("mteb.abstasks.task_metadata").TaskMetadata
    except ImportError as error:
        raise ConfigError(f"mteb cannot be imported ({error}). Install it: pip install mteb") from None
    # A cross-lingual task needs two languages.
    settings = [setting for setting in SETTINGS if setting != "cross_lingual" or len(task.languages) > 1]
    return [_task_class(base, metadata(**describe(task, setting)), task, setting)() for setting in settings]


def describe(task: RetrievalTask, setting: Setting) -> dict[str, Any]:
    """Return the fields of mteb's TaskMetadata."""
    variant = "Paragraph" if task.name != NAME else ""
    cut = f"Cut{task.fingerprint[:8]}" if task.cut_to.languages or task.cut_to.questions else ""
    pools = subsets(task, setting).items()
    return {
        "name": f"XQuADR{variant}{setting.title().replace('_', '')}Retrieval{cut}",
        "description": TABLES["mteb"]["descriptions"][setting],
        "dataset": {"path": NAME, "revision": task.fingerprint},
        "eval_splits": [SPLIT],
        "eval_langs": {name: [LANGUAGES[one] for one in sorted({spoken, *pool})] for name, (spoken, pool) in pools},
        "date": ("2019-05-21", "2020-04-11"),
    } | TABLES["mteb"]["metadata"]


def subsets(task: RetrievalTask, setting: Setting) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the name of each subset → the language of its queries and the languages of its candidates."""
    match setting:
        case "monolingual":
            return {one: (one, (one,)) for one in task.languages}
        case "cross_lingual":
            return {f"{x}-{y}": (x, (y,)) for x in task.languages for y in task.languages if x != y}
        case "multilingual":
            return {one: (one, task.languages) for one in task.languages}
        case _:
            assert_never(setting)


def relevant_documents(task: RetrievalTask, language: str, pool: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return qrels as mteb has them: id of each query in a language → id of each relevant candidate in the pool → 1."""
    return {
        identifier: {
            task.candidate_ids[index]: 1
            for index in task.relevance[query.id]
            if task.candidates[index].language in pool
        }
        for identifier, query in zip(task.query_ids, task.queries, strict=True)
        if query.language == language
    }


def _task_class(base: Any, metadata: Any, task: RetrievalTask, setting: Setting) -> Any:
    """Return a subclass of mteb's AbsTaskRetrieval that serves the data of the task."""

    def load_data(self: Any, *_: Any, **__: Any) -> None:
        if not self.data_loaded:
            self.dataset = datasets(task, setting)
            self.data_loaded = True

    return type(metadata.name, (base,), {"metadata": metadata, "load_data": load_data})


def datasets(task: RetrievalTask, setting: Setting) -> dict[str, Mapping[str, Any]]:
    """Return subset → split → the data that mteb expects: corpus, queries, relevant_docs, top_ranked."""
    make = import_module("datasets").Dataset.from_dict
    query_texts = [query.text for query in task.queries]
    candidate_texts = [text for part in task.candidate_texts(1024) for text in part]

    @cache
    def queries(language: str) -> Any:
        part = task.query_slices[language]
        return make({"id": task.query_ids[part], "text": query_texts[part]})

    @cache
    def corpus(pool: tuple[str, ...]) -> Any:
        parts = [task.candidate_slices[language] for language in pool]
        ids, texts = ([one for part in parts for one in of[part]] for of in (task.candidate_ids, candidate_texts))
        return make({"id": ids, "text": texts})

    return {
        name: {
            SPLIT: {
                "corpus": corpus(pool),
                "queries": queries(language),
                "relevant_docs": relevant_documents(task, language, pool),
                "top_ranked": None,
            }
        }
        for name, (language, pool) in subsets(task, setting).items()
    }
