"""XQuAD-R as tasks of mteb, so that any model that mteb runs is asked the same questions of the same pools.

mteb (github.com/embeddings-benchmark/mteb, its issue 347) has XQuAD as 240 paragraphs a language, and no pool of several
languages. It is installed apart from hbdist and is imported when a task is made.

    import mteb
    from sentence_transformers import SentenceTransformer
    mteb.evaluate(SentenceTransformer("runs/demo/model"), xquad_r_tasks(load_xquad_r()), cache=None)
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from hbdist.errors import ConfigError
from hbdist.evaluation.scores import SETTINGS, Setting
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import NAME

SPLIT = "test"

LANGUAGES = {
    "ar": "arb-Arab",
    "de": "deu-Latn",
    "el": "ell-Grek",
    "en": "eng-Latn",
    "es": "spa-Latn",
    "hi": "hin-Deva",
    "ru": "rus-Cyrl",
    "th": "tha-Thai",
    "tr": "tur-Latn",
    "vi": "vie-Latn",
    "zh": "zho-Hans",
}
"""What mteb calls the languages."""

DESCRIPTIONS = {
    "monolingual": "Find the sentence that answers a question among all sentences in its own language.",
    "cross_lingual": "Find the sentence that answers a question among all sentences in one other language.",
    "multilingual": "Find the sentences that answer a question, one in each language, in one pool of all languages.",
}
_CITATION = """@inproceedings{roy-etal-2020-lareqa,
  author = {Roy, Uma and Constant, Noah and Al-Rfou, Rami and Barua, Aditya and Phillips, Aaron and Yang, Yinfei},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing (EMNLP)},
  eprint = {2004.05484},
  title = {{LAReQA}: Language-Agnostic Answer Retrieval from a Multilingual Pool},
  year = {2020},
}"""


def xquad_r_tasks(task: RetrievalTask) -> list[Any]:
    """A task of mteb for each setting, in the order of SETTINGS.

    A subset is a language ("en", monolingual and multilingual) or an ordered pair of two ("en-de"); mteb's mean over
    subsets is the macro mean of `benchmark.summarise`. Its metrics are of the first 1,000 candidates: nDCG@10, recall@k
    and precision@k are those of hbdist, and map_at_1000 is not mAP over the full ranking.

    mteb keeps results by the names of task and model. A cut has a name of its own; a model that was trained again in
    the same folder has not, so turn the cache off (`cache=None`). It encodes anew for every subset: with the pool of all
    languages, all 13,014 sentences eleven times, which its CachedEmbeddingWrapper avoids.

    Args:
        task: from `load_xquad_r`, either variant, whole or cut.

    Raises:
        ConfigError: mteb is not installed, or the task is another.
    """
    if task.name.partition(":")[0] != NAME:
        raise ConfigError(f"{task.name} cannot be given to mteb; expected {NAME}, in either variant.")
    try:
        base, metadata = (
            import_module("mteb.abstasks.retrieval").AbsTaskRetrieval,
            import_module("mteb.abstasks.task_metadata").TaskMetadata,
        )
    except ImportError as error:
        raise ConfigError(f"mteb cannot be imported ({error}). Install it: pip install mteb") from None
    # A cross-lingual task needs two languages.
    settings = [setting for setting in SETTINGS if setting != "cross_lingual" or len(task.languages) > 1]
    return [_task_class(base, metadata(**describe(task, setting)), task, setting)() for setting in settings]


def describe(task: RetrievalTask, setting: Setting) -> dict[str, Any]:
    """The fields of mteb's TaskMetadata."""
    variant = "Paragraph" if task.name != NAME else ""
    cut = f"Cut{task.fingerprint[:8]}" if task.cut_to.languages or task.cut_to.questions else ""
    pools = subsets(task, setting).items()
    return {
        "name": f"XQuADR{variant}{setting.title().replace('_', '')}Retrieval{cut}",
        "description": DESCRIPTIONS[setting],
        "reference": "https://arxiv.org/abs/2004.05484",
        "dataset": {"path": NAME, "revision": task.fingerprint},
        "type": "Retrieval",
        "category": "t2t",
        "modalities": ["text"],
        "eval_splits": [SPLIT],
        "eval_langs": {name: [LANGUAGES[one] for one in sorted({asked, *pool})] for name, (asked, pool) in pools},
        "main_score": "ndcg_at_10",
        "date": ("2019-05-21", "2020-04-11"),
        "domains": ["Encyclopaedic", "Written"],
        "task_subtypes": ["Question answering"],
        "license": "cc-by-sa-4.0",
        "annotations_creators": "human-annotated",
        "dialect": [],
        "sample_creation": "human-translated",
        "bibtex_citation": _CITATION,
    }


def subsets(task: RetrievalTask, setting: Setting) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name of each subset → the language of its questions and those of its candidates."""
    if setting == "monolingual":
        return {one: (one, (one,)) for one in task.languages}
    if setting == "multilingual":
        return {one: (one, task.languages) for one in task.languages}
    return {f"{x}-{y}": (x, (y,)) for x in task.languages for y in task.languages if x != y}


def relevant_documents(task: RetrievalTask, asked: str, pool: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Id of each question in a language → ids of its relevant candidates in the languages of a pool → 1."""
    parts = [task.candidate_slices[language] for language in pool]
    rows = range(*task.query_slices[asked].indices(len(task.queries)))
    return {
        task.query_ids[row]: {
            task.candidate_ids[place]: 1
            for place in task.relevance[task.queries[row].id]
            if any(part.start <= place < part.stop for part in parts)
        }
        for row in rows
    }


def _task_class(base: Any, metadata: Any, task: RetrievalTask, setting: Setting) -> Any:
    """A subclass of mteb's AbsTaskRetrieval whose data are this task's."""

    def load_data(self: Any, *_: Any, **__: Any) -> None:
        if not self.data_loaded:
            self.dataset = datasets(task, setting)
            self.data_loaded = True

    return type(metadata.name, (base,), {"metadata": metadata, "load_data": load_data})


def datasets(task: RetrievalTask, setting: Setting) -> dict[str, Mapping[str, Any]]:
    """Subset → split → what mteb wants of it: corpus, queries, relevant_docs, top_ranked."""
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
                "queries": queries(asked),
                "relevant_docs": relevant_documents(task, asked, pool),
                "top_ranked": None,
            }
        }
        for name, (asked, pool) in subsets(task, setting).items()
    }
