"""Questions in SQuAD's JSON, each answered by one sentence per language."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hbdist.data.formats.squad import Paragraph, Question, Span, first_answer, no_breaks, read_paragraphs
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query

SentenceBreaks = Callable[[Paragraph, str], Sequence[Span] | None]
"""A paragraph and its language → start and end of each of its sentences, in characters of its context."""
Relevance = dict[str, tuple[int, ...]]


def published_breaks(paragraph: Paragraph, _: str) -> list[Span] | None:
    """Return the sentence breaks that are published with a paragraph, if there are any."""
    # Not those of the `sentences` field: in the Turkish XQuAD-R the two differ in two sentences.
    return paragraph.get("sentence_breaks")


def read_sentences(
    paths: Mapping[str, Path],
    *,
    breaks: SentenceBreaks,
    counts: Mapping[str, tuple[int, int]],
    with_paragraph: bool = False,
    remedy: str,
) -> tuple[tuple[Query, ...], tuple[Candidate, ...], Relevance]:
    """Return queries, candidates, and question id → indices of the sentences that answer it, one per language.

    Args:
        paths: language → its JSON file, plain or gzipped.
        counts: language → number of questions and of sentences that its file must have.
        with_paragraph: whether a candidate is its sentence, a line break, and the whole paragraph.

    Raises:
        DataError: a file is damaged, is not SQuAD's JSON or has other counts, or an answer does not begin in exactly one
            sentence.
    """
    queries: list[Query] = []
    candidates: list[Candidate] = []
    relevance: Relevance = {}
    for language, path in paths.items():
        first_query, first_candidate = len(queries), len(candidates)
        for number, (position, paragraph) in enumerate(read_paragraphs(path, remedy=remedy, strict=True)):
            base, context, edges = len(candidates), paragraph["context"], breaks(paragraph, language)
            if edges is None:
                raise no_breaks(path, position, remedy)
            for i, (start, end) in enumerate(edges):
                text = f"{context[start:end]}\n{context}" if with_paragraph else context[start:end]
                candidates.append(Candidate(language, number, i, text))
            for entry in paragraph["qas"]:
                question = question_id(path, position, entry, remedy)
                queries.append(Query(question, language, entry["question"]))
                answer = base + _answer_sentence(path, question, entry, edges, remedy)
                relevance[question] = (*relevance.get(question, ()), answer)
        ids = {query.id for query in queries[first_query:]}
        sizes = len(queries) - first_query, len(candidates) - first_candidate
        if sizes != counts[language] or len(ids) != sizes[0]:
            raise DataError(
                f"{path} has {sizes[0]} questions, {len(ids)} different ones, and {sizes[1]} sentences; expected"
                f" {counts[language][0]} and {counts[language][1]}. {remedy}"
            )
    return tuple(queries), tuple(candidates), relevance


def question_id(path: Path, position: str, question: Question, remedy: str) -> str:
    """Return the id of a question.

    Raises:
        DataError: it has none.
    """
    if not (identifier := question.get("id")):
        raise DataError(f"{path}: a question about paragraph {position} has no id; expected one. {remedy}")
    return identifier


def _answer_sentence(path: Path, name: str, question: Question, edges: Sequence[Span], remedy: str) -> int:
    answer = first_answer(question, where=str(path), remedy=remedy)
    # The end of an answer is no help: in XQuAD-R, up to twenty per language run past their sentence.
    holders = [i for i, (start, end) in enumerate(edges) if start <= answer < end]
    if len(holders) != 1:
        raise DataError(
            f"{path}: the answer of question {name} starts in {len(holders)} sentences; expected one. {remedy}"
        )
    return holders[0]
