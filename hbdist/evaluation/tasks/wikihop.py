"""WikiHop as retrieval, for a shift of domain: questions made from facts of Wikidata, answered by reading two passages.

**Derived**: WikiHop (QAngaroo, TACL 2018, arXiv 1710.06481) says what the answer is, not which passage holds it. So:

- Questions: the development set's pairs of a relation and a subject, each in the words of TEMPLATES or, for a relation
  that is not there, GENERAL. English only.
- Candidates: the distinct supporting passages of all samples.
- Labels, two nested sets: `answer`, the passages of the sample itself that contain the answer (distant supervision; a
  sample none of whose passages does is left out and counted); `any`, all passages of the sample.
- Passages of other samples that contain both subject and answer may well be right but nobody judged them: they are not
  ranked for that question.

A vector of the question cannot know the entity between the two hops, so scores are low. They can be compared within
hbdist only, and never with the accuracies that WikiHop's papers give. Subjects and relations also come up in training
sets made from Wikidata, such as EntityQuestions.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hbdist.data.formats.json_files import read_json
from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "wikihop"
DEFAULT_FOLDER = Path("data/wikihop")
SAMPLES = 5129
"""Of WikiHop's development set."""
Labels = Literal["answer", "any"]

GENERAL = "What is the {relation} of {subject}?"
TEMPLATES = {
    "author": "Who is the author of {subject}?",
    "cast_member": "Who acts in {subject}?",
    "composer": "Who composed {subject}?",
    "country": "In which country is {subject}?",
    "country_of_citizenship": "Of which country is {subject} a citizen?",
    "creator": "Who created {subject}?",
    "date_of_birth": "When was {subject} born?",
    "date_of_death": "When did {subject} die?",
    "developer": "Who developed {subject}?",
    "director": "Who directed {subject}?",
    "educated_at": "Where was {subject} educated?",
    "employer": "For whom did {subject} work?",
    "followed_by": "What follows {subject}?",
    "follows": "What does {subject} follow?",
    "has_part": "What is a part of {subject}?",
    "inception": "When was {subject} founded?",
    "instance_of": "What kind of thing is {subject}?",
    "located_in_the_administrative_territorial_entity": "In which administrative area is {subject}?",
    "located_next_to_body_of_water": "Next to which body of water is {subject}?",
    "located_on_terrain_feature": "On which terrain feature is {subject}?",
    "manufacturer": "Who makes {subject}?",
    "member_of": "Of what is {subject} a member?",
    "member_of_political_party": "Of which political party is {subject} a member?",
    "member_of_sports_team": "For which sports team does {subject} play?",
    "named_after": "After what is {subject} named?",
    "owned_by": "Who owns {subject}?",
    "parent_taxon": "To which taxon does {subject} belong?",
    "part_of": "Of what is {subject} a part?",
    "participant_of": "In what did {subject} take part?",
    "performer": "Who performs {subject}?",
    "place_of_birth": "Where was {subject} born?",
    "place_of_death": "Where did {subject} die?",
    "publisher": "Who published {subject}?",
    "screenwriter": "Who wrote the screenplay of {subject}?",
    "series": "To which series does {subject} belong?",
    "sport": "Which sport is {subject} about?",
    "subclass_of": "Of what is {subject} a kind?",
}
"""Relation → the question; `{subject}` stands for the subject, as WikiHop writes it."""

NO_ANSWER = "no passage of the sample contains the answer"
_SOURCE = (
    "Fetch qangaroo_v1.1.zip (CC BY-SA 3.0) from qangaroo.cs.ucl.ac.uk, which links to a store that only a browser can"
    " use, and put its wikihop/dev.json into the folder."
)


class _Sample(NamedTuple):
    id: str
    relation: str
    subject: str
    answer: str
    passages: tuple[int, ...]


def load_wikihop(folder: Path = DEFAULT_FOLDER, *, labels: Labels = "answer") -> RetrievalTask:
    """The derived task from a folder with WikiHop's dev.json: the unmasked development set of QAngaroo 1.1.

    Args:
        folder: where dev.json is, plain or gzipped.
        labels: which passages are relevant.

    Raises:
        DataError: the file is missing or damaged, or is not WikiHop's development set.
    """
    path = plain_or_gzipped(folder / "dev.json", folder / "wikihop" / "dev.json")
    if path is None:
        raise DataError(f"{folder} holds no dev.json. {_SOURCE}")
    texts: dict[str, int] = {}
    samples = _samples(path, texts)
    words = [_words(text) for text in texts]
    relevance: dict[str, tuple[int, ...]] = {}
    for sample in samples:
        answering = tuple(place for place in sample.passages if _contains(words[place], sample.answer))
        if answering:
            relevance[sample.id] = answering if labels == "answer" else sample.passages
    asked = [sample for sample in samples if sample.id in relevance]
    ignored = _unjudged(asked, words)
    general = sum(sample.relation not in TEMPLATES for sample in asked)
    left_out = len(samples) - len(asked)
    return RetrievalTask(
        f"{NAME}:{labels} (derived)",
        ("en",),
        tuple(Query(sample.id, "en", question(sample.relation, sample.subject)) for sample in asked),
        tuple(Candidate("en", place, 0, text) for text, place in texts.items()),
        relevance,
        metrics=("map", "recall@10", "recall@100", "ndcg@10", "mrr"),
        settings=("monolingual",),
        ignored=ignored,
        note=(
            "derived from WikiHop by distant supervision, comparable within hbdist only;"
            f" {general:,} of {len(asked):,} questions by the general template; passages not ranked, as unjudged:"
            f" {sum(map(len, ignored.values())) / max(1, len(asked)):.1f} of {len(texts):,} a question"
        ),
        left_out={NO_ANSWER: left_out} if left_out else {},
    )


def question(relation: str, subject: str) -> str:
    """A relation and a subject in words."""
    template = TEMPLATES.get(relation, GENERAL)
    # Not by format(): subjects may hold braces.
    return template.replace("{relation}", relation.replace("_", " ")).replace("{subject}", subject)


def _samples(path: Path, texts: dict[str, int]) -> list[_Sample]:
    """The samples; `texts` becomes the distinct passages and their places."""
    document: Any = read_json(path, remedy=_SOURCE)
    samples = []
    try:
        for entry in document:
            relation, _, subject = entry["query"].partition(" ")
            if relation == entry["query"]:
                raise DataError(
                    f"{path}: the query {relation!r} has no subject; expected a relation and one. {_SOURCE}"
                )
            places = dict.fromkeys(texts.setdefault(text, len(texts)) for text in entry["supports"])
            samples.append(_Sample(entry["id"], relation, subject, _words(entry["answer"]), tuple(places)))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not WikiHop's JSON: {error!r}. {_SOURCE}") from None
    different = len({sample.id for sample in samples})
    if (len(samples), different) != (SAMPLES, SAMPLES):
        raise DataError(
            f"{path} has {len(samples):,} samples, {different:,} different ones; WikiHop's development set has"
            f" {SAMPLES:,}. {_SOURCE}"
        )
    masked = sum(sample.answer.startswith("___mask") for sample in samples)
    if masked > SAMPLES // 2:
        raise DataError(f"{path} is the masked variant; expected dev.json. {_SOURCE}")
    return samples


def _unjudged(samples: Iterable[_Sample], words: list[str]) -> dict[str, tuple[int, ...]]:
    """Question id → passages of other samples that contain its subject and its answer."""
    holders: dict[str, set[int]] = {}
    for place, text in enumerate(words):
        for word in set(text.split()):
            holders.setdefault(word, set()).add(place)
    found = {}
    for sample in samples:
        subject = _words(sample.subject)
        both = _holding(f"{subject} {sample.answer}", holders) - set(sample.passages)
        places = (
            place for place in both if _contains(words[place], subject) and _contains(words[place], sample.answer)
        )
        if kept := tuple(sorted(places)):
            found[sample.id] = kept
    return found


def _holding(text: str, holders: Mapping[str, set[int]]) -> set[int]:
    """The passages that have all words of the text."""
    sets = sorted((holders.get(word, set()) for word in set(text.split())), key=len)
    return set.intersection(*sets) if sets else set()


def _contains(text: str, words: str) -> bool:
    return bool(words) and f" {words} " in f" {text} "


def _words(text: str) -> str:
    """The text as words with single blanks between them: NFKC, without case and punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
