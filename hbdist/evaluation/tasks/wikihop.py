"""WikiHop as retrieval, for a shift of domain: questions from facts of Wikidata, answered by reading two passages.

**Derived**: WikiHop (QAngaroo, TACL 2018, arXiv 1710.06481) gives the answer, not the passage that contains it. So:

- Questions: the relation and subject of each sample of the development set, put into words by TEMPLATES or, for a
  relation without a template, by GENERAL. English only.
- Candidates: the distinct supporting passages of all samples.
- Labels, two nested sets: `answer`, the sample's own passages that contain the answer (distant supervision; a sample
  without such a passage is left out and counted); `any`, all passages of the sample.
- Passages of other samples that contain both subject and answer may be right, but nobody judged them: they are not
  ranked for that question.

An embedding of the question cannot know the entity between the two hops, so scores are low. They are comparable within
hbdist only, never with the accuracies in WikiHop's papers. Its subjects and relations also occur in training sets made
from Wikidata, such as EntityQuestions.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

from typing_extensions import TypedDict

from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.files import TABLES, find_file
from hbdist.evaluation.tasks.task import Query, RetrievalTask
from hbdist.utils.json_toml import read_json
from hbdist.utils.stored import as_published

NAME = "wikihop"
DEFAULT_FOLDER = Path("data/wikihop")
SAMPLES = 5129
"""Number of samples in WikiHop's development set."""
Labels = Literal["answer", "any"]
GENERAL = "What is the {relation} of {subject}?"
TEMPLATES: dict[str, str] = TABLES["wikihop"]["templates"]
"""Relation → question with a `{subject}` placeholder."""
NO_ANSWER = "no passage of the sample contains the answer"
_REMEDY = (
    "Fetch qangaroo_v1.1.zip (CC BY-SA 3.0) from qangaroo.cs.ucl.ac.uk, which links to a store that only a browser can"
    " open, and put its wikihop/dev.json into the folder."
)


class _Entry(TypedDict):
    id: str
    query: str
    answer: str
    supports: list[str]


class _Sample(NamedTuple):
    id: str
    relation: str
    subject: str
    answer: str
    passages: tuple[int, ...]
    """Indices of its passages among the distinct passages of all samples."""


def load_wikihop(folder: Path = DEFAULT_FOLDER, *, labels: Labels = "answer") -> RetrievalTask:
    """Return the derived task from WikiHop's dev.json, plain or gzipped: the unmasked development set of QAngaroo 1.1.

    Raises:
        DataError: the file is missing or damaged, or is not WikiHop's development set.
    """
    samples, texts = _read_samples(find_file(folder, "dev.json", "wikihop/dev.json", remedy=_REMEDY))
    normalized = [_normalize(text) for text in texts]
    relevance: dict[str, tuple[int, ...]] = {}
    for sample in samples:
        answering = tuple(index for index in sample.passages if _contains(normalized[index], sample.answer))
        if answering:
            match labels:
                case "answer":
                    relevance[sample.id] = answering
                case "any":
                    relevance[sample.id] = sample.passages
                case _:
                    assert_never(labels)
    answerable = [sample for sample in samples if sample.id in relevance]
    ignored = _unjudged_passages(answerable, normalized)
    general = sum(sample.relation not in TEMPLATES for sample in answerable)
    left_out = len(samples) - len(answerable)
    return RetrievalTask(
        f"{NAME}:{labels} (derived)",
        ("en",),
        tuple(Query(sample.id, "en", question(sample.relation, sample.subject)) for sample in answerable),
        tuple(Candidate("en", index, 0, text) for index, text in enumerate(texts)),
        relevance,
        metrics=("map", "recall@10", "recall@100", "ndcg@10", "mrr"),
        settings=("monolingual",),
        ignored=ignored,
        note=(
            "derived from WikiHop by distant supervision, comparable within hbdist only;"
            f" {general:,} of {len(answerable):,} questions by the general template; passages not ranked, as unjudged:"
            f" {sum(map(len, ignored.values())) / max(1, len(answerable)):.1f} of {len(texts):,} a question"
        ),
        left_out={NO_ANSWER: left_out} if left_out else {},
    )


def question(relation: str, subject: str) -> str:
    """Return the question that asks for a relation of a subject."""
    # Replaced one by one, not by format(): subjects may contain braces.
    template = TEMPLATES.get(relation, GENERAL)
    return template.replace("{relation}", relation.replace("_", " ")).replace("{subject}", subject)


def _read_samples(path: Path) -> tuple[list[_Sample], list[str]]:
    """Return the samples and the distinct passages of all of them."""
    values = read_json(path, remedy=_REMEDY)
    samples: list[_Sample] = []
    index_of_text: dict[str, int] = {}
    for entry in as_published(list[_Entry], values, where=str(path), what="WikiHop's JSON", remedy=_REMEDY):
        relation, _, subject = entry["query"].partition(" ")
        if relation == entry["query"]:
            raise DataError(
                f"{path}: the query {relation!r} has no subject; expected a relation and a subject. {_REMEDY}"
            )
        passages = dict.fromkeys(index_of_text.setdefault(text, len(index_of_text)) for text in entry["supports"])
        samples.append(_Sample(entry["id"], relation, subject, _normalize(entry["answer"]), tuple(passages)))
    different = len({sample.id for sample in samples})
    if (len(samples), different) != (SAMPLES, SAMPLES):
        raise DataError(
            f"{path} has {len(samples):,} samples, {different:,} different ones; WikiHop's development set has"
            f" {SAMPLES:,}. {_REMEDY}"
        )
    if sum(sample.answer.startswith("___mask") for sample in samples) > SAMPLES // 2:
        raise DataError(f"{path} is the masked variant; expected dev.json. {_REMEDY}")
    return samples, list(index_of_text)


def _unjudged_passages(samples: Iterable[_Sample], normalized: list[str]) -> dict[str, tuple[int, ...]]:
    """Return question id → passages of other samples that contain its subject and its answer."""
    passages_of_word: dict[str, set[int]] = {}
    for index, text in enumerate(normalized):
        for word in set(text.split()):
            passages_of_word.setdefault(word, set()).add(index)
    unjudged = {}
    for sample in samples:
        subject = _normalize(sample.subject)
        words = {*subject.split(), *sample.answer.split()}
        sets = sorted((passages_of_word.get(word, set()) for word in words), key=len)
        with_all_words = set.intersection(*sets) if sets else set()
        passages = tuple(
            index
            for index in sorted(with_all_words - set(sample.passages))
            if _contains(normalized[index], subject) and _contains(normalized[index], sample.answer)
        )
        if passages:
            unjudged[sample.id] = passages
    return unjudged


def _contains(text: str, words: str) -> bool:
    return bool(words) and f" {words} " in f" {text} "


def _normalize(text: str) -> str:
    """Return the words of a text with single spaces between them: NFKC, case-folded, without punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
