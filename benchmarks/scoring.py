"""XQuAD-R scored from the same vectors: hbdist, sentence-transformers' InformationRetrievalEvaluator and mteb.

    python benchmarks/scoring.py [--quick] [--out FOLDER]

132 settings: 11 monolingual, 110 cross-lingual, 11 in the pool of all languages. The other libraries score each of
them separately, which is their only way, from precomputed vectors; their evaluators and data sets are made in advance.
hbdist ranks all 13,014 candidates, sentence-transformers the first 100, mteb the first 1,000, its default, or the first 100.
Vectors are synthetic, of 384 dimensions: translations are near each other, and so are texts of the same language.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from measure import RunError, arguments, interleave, launch, peak_bytes, quartiles, ratio, say, write
from peers import PeerError, information_retrieval_evaluator, mteb, version_of

DIMENSIONS = 384
OURS, EVERYTHING = "hbdist", "hbdist, all of scores.json"
ST, MTEB, MTEB_100 = "sentence-transformers", "mteb", "mteb, first 100"
TURNS = {OURS: 5, ST: 5, EVERYTHING: 1, MTEB_100: 1, MTEB: 1}
"""Number of turns of each contender; those with one take minutes."""
CHECKED = ("ndcg@10", "recall@10", "map@100")
DEPTH = 100
Scores = dict[str, dict[str, float]]
"""Setting ("en-de", or "en" in the pool of all) → metric → mean."""


def make_task(languages: int) -> Any:
    """Return XQuAD-R in its first languages. Texts are replaced by their indices, because nothing reads them."""
    from hbdist.evaluation.tasks.xquad_r import load_xquad_r

    whole = load_xquad_r()
    task = whole.cut(languages=whole.languages[:languages])
    queries = tuple(query._replace(text=str(place)) for place, query in enumerate(task.queries))
    candidates = tuple(one._replace(text=str(place)) for place, one in enumerate(task.candidates))
    return replace(task, queries=queries, candidates=candidates)


def make_vectors(task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of queries and candidates: a sum of the question's meaning, its language, and noise."""
    random = np.random.default_rng(0)
    number = {question: n for n, question in enumerate(task.relevance)}
    meaning_ND = random.standard_normal((len(number), DIMENSIONS))
    language_LD = random.standard_normal((len(task.languages), DIMENSIONS))
    of_candidate = {place: number[question] for question, places in task.relevance.items() for place in places}
    asked = [number[query.id] for query in task.queries]
    answered = [of_candidate.get(place, -1) for place in range(len(task.candidates))]
    made = []
    for texts, meant in ((task.queries, asked), (task.candidates, answered)):
        language = [task.languages.index(text.language) for text in texts]
        vector_ND = language_LD[language] + 2 * random.standard_normal((len(texts), DIMENSIONS))
        vector_ND += np.where(np.array(meant)[:, None] >= 0, meaning_ND[meant], 0)
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        made.append(vector_ND.astype(np.float32))
    return made[0], made[1]


def contender(name: str, task: Any, vectors: tuple[np.ndarray, np.ndarray]) -> Callable[[], Scores]:
    """Return the function that scores all settings with one contender, whose preparation is done now.

    Raises:
        peers.PeerError: the library cannot be loaded.
    """
    if name == ST:
        return _sentence_transformers(task, *vectors)
    if name in (MTEB, MTEB_100):
        return _mteb(task, *vectors, depth=None if name == MTEB else DEPTH)
    return _hbdist(task, *vectors) if name == OURS else _everything(task, *vectors)


def _hbdist(task: Any, query_QD: np.ndarray, candidate_CD: np.ndarray) -> Callable[[], Scores]:
    from hbdist.evaluation.metrics.summary import summarise
    from hbdist.evaluation.scores import METRICS
    from hbdist.evaluation.search.in_memory import rank_in_memory

    task = replace(task, metrics=(*METRICS, f"map@{DEPTH}"))

    def run() -> Scores:
        scores = summarise(rank_in_memory(query_QD, candidate_CD, task), task)
        return {**scores["by_pair"], **scores["by_language"]}

    return run


class Vectors:
    """Replacement of a model: looks the vectors up by the indices that are their texts."""

    def __init__(self, query_QD: np.ndarray, candidate_CD: np.ndarray) -> None:
        self.query_QD, self.candidate_CD = query_QD, candidate_CD

    def encode(self, texts: list[str], kind: str, **_: Any) -> np.ndarray:
        return (self.query_QD if kind == "query" else self.candidate_CD)[[int(text) for text in texts]]


def _everything(task: Any, query_QD: np.ndarray, candidate_CD: np.ndarray) -> Callable[[], Scores]:
    from hbdist.evaluation.evaluate import evaluate

    def run() -> Scores:
        scores = evaluate(Vectors(query_QD, candidate_CD), task, model="made up").scores
        return {**scores["by_pair"], **scores["by_language"]}

    return run


def _settings(task: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Return the name, the language of the questions and the languages of the candidates."""
    for x in task.languages:
        yield x, x, task.languages
        for y in task.languages:
            yield f"{x}-{y}", x, (y,)


def _sentence_transformers(task: Any, query_QD: np.ndarray, candidate_CD: np.ndarray) -> Callable[[], Scores]:
    import torch

    from hbdist.evaluation.tasks.mteb_tasks import relevant_documents

    make, dot_score = information_retrieval_evaluator()

    class Model:
        """Interface of a model for the evaluator."""

        def __init__(self, vector_QD: np.ndarray) -> None:
            self.vector_QD = torch.from_numpy(vector_QD)

        def encode_query(self, *_: Any, **__: Any) -> Any:
            return self.vector_QD

    cases = []
    for name, asked, pool in _settings(task):
        rows, places = task.query_slices[asked], _places(task, pool)
        evaluator = make(
            {one: query.text for one, query in zip(task.query_ids[rows], task.queries[rows], strict=True)},
            {task.candidate_ids[place]: task.candidates[place].text for place in places},
            {query: set(found) for query, found in relevant_documents(task, asked, pool).items()},
            accuracy_at_k=[1],
            precision_recall_at_k=[1, 10],
            map_at_k=[DEPTH],
            score_functions={"dot": dot_score},
            write_csv=False,
        )
        cases.append((name, evaluator, Model(query_QD[rows]), torch.from_numpy(candidate_CD[places])))

    def run() -> Scores:
        found = {name: one.compute_all_metrics(model, corpus_embeddings=corpus) for name, one, model, corpus in cases}
        metrics = [metric.split("@") for metric in CHECKED]
        return {
            name: {f"{kind}@{k}": float(scores["dot"][f"{kind}@k"][int(k)]) for kind, k in metrics}
            for name, scores in found.items()
        }

    return run


def _mteb(task: Any, query_QD: np.ndarray, candidate_CD: np.ndarray, *, depth: int | None) -> Callable[[], Scores]:
    from hbdist.evaluation.scores import SETTINGS
    from hbdist.evaluation.tasks.mteb_tasks import SPLIT, subsets, xquad_r_tasks

    mteb()
    made = dict(zip(SETTINGS, xquad_r_tasks(task), strict=True))
    for one in made.values():
        if depth:
            one.k_values, one._top_k = (1, 10, depth), depth
        one.load_data()

    class Model:
        """Interface of an encoder for mteb. Its texts are not read."""

        mteb_model_meta = None

        def __init__(self, setting: Any) -> None:
            self.subsets = subsets(task, setting)

        def encode(self, inputs: Any, *, hf_subset: str, prompt_type: Any, **_: Any) -> np.ndarray:
            asked, pool = self.subsets[hf_subset]
            return query_QD[task.query_slices[asked]] if prompt_type == "query" else candidate_CD[_places(task, pool)]

        def similarity(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return one @ other.T

        similarity_pairwise = similarity

    def run() -> Scores:
        found: Scores = {}
        for setting, one in made.items():
            scores = one.evaluate(Model(setting), SPLIT, encode_kwargs={"show_progress_bar": False})
            for name, values in scores.items():
                pair = name if setting != "monolingual" else f"{name}-{name}"
                found[pair] = {metric: values[metric.replace("@", "_at_")] for metric in CHECKED}
        return found

    return run


def _places(task: Any, pool: tuple[str, ...]) -> np.ndarray:
    """Return the indices of the candidates of these languages."""
    return np.concatenate([np.r_[task.candidate_slices[language]] for language in pool])


def measure(*, quick: bool) -> dict[str, Any]:
    languages = 2 if quick else 11
    result: dict[str, Any] = {
        "settings": {"languages": languages, "dimensions": DIMENSIONS},
        "versions": {"mteb": version_of("mteb"), "pytrec-eval-terrier": version_of("pytrec-eval-terrier")},
        "memory": {},
    }
    for name in TURNS:
        say(f"memory, {name}")
        result["memory"][name] = _or_reason(one_run, name=name, languages=languages)
    able = [name for name, found in result["memory"].items() if "reason" not in found]
    turns = {name: 2 if quick else TURNS[name] for name in able}
    say("times")
    result["seconds"] = launch(times, timeout=3000, turns=turns, languages=languages)[0]
    return result


def _or_reason(function: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    try:
        return dict(launch(function, timeout=1500, **settings)[0])
    except RunError as error:
        return {"reason": str(error)}


def one_run(name: str, languages: int) -> dict[str, Any]:
    """Return the peak memory above imports, task and vectors, and the difference of its scores from hbdist's."""
    small, task = make_task(2), make_task(languages)
    vectors = make_vectors(task)
    try:
        warm_up = contender(name, small, make_vectors(small))
    except PeerError as error:
        return {"reason": str(error)}
    warm_up()
    before = peak_bytes()
    found = contender(name, task, vectors)()
    peak = peak_bytes()
    expected = contender(OURS, task, vectors)()
    checked = [metric for metric in CHECKED if all(metric in values for values in found.values())]
    off = max(abs(values[metric] - expected[pair][metric]) for pair, values in found.items() for metric in checked)
    return {"bytes": peak - before, "bytes_in_all": peak, "settings": len(found), "off": float(off)}


def times(turns: dict[str, int], languages: int) -> dict[str, list[float]]:
    """Return the seconds of the contenders, A B A B …; those with fewer turns skip the later ones."""
    small, task = make_task(2), make_task(languages)
    small_vectors, vectors = make_vectors(small), make_vectors(task)
    for name in turns:
        warm_up = contender(name, small, small_vectors)
        warm_up()
    cases = {name: contender(name, task, vectors) for name in turns}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(max(turns.values())):
        now = {name: case for name, case in cases.items() if turn < turns[name]}
        for name, taken in interleave(now, repetitions=1, warmups=0).items():
            seconds[name] += taken
    return seconds


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per contender."""
    lines = ["| | seconds | × hbdist's time | peak above the inputs, MB | largest difference |", "|---" * 5 + "|"]
    seconds = result["seconds"]
    for name, found in result["memory"].items():
        if "reason" in found:
            lines.append(f"| {name} | not run: {found['reason']} | | | |")
            continue
        taken = quartiles(seconds[name])
        once = "*" if taken["n"] == 1 else ""
        slower = ratio(seconds[name], seconds[OURS][: len(seconds[name])])
        spread = once or f" ({slower['low']:.1f}–{slower['high']:.1f})"
        cells = f"{taken['median']:.1f}{once} | {slower['median']:.1f}{spread} | {found['bytes'] / 1e6:,.0f}"
        lines.append(f"| {name} | {cells} | {'' if name == OURS else format(found['off'], '.0e')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = arguments(__doc__ or "")
    result = measure(quick=given.quick)
    write(given.out, "scoring", result)
    print(table(result))
