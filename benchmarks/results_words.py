"""Names of the rows and columns of docs/results.md, and the texts above its tables."""

from measure import CORES

NAMES = {
    "xquad-r": "XQuAD-R, sentence",
    "xquad-r:paragraph": "XQuAD-R, sentence with paragraph",
    "mlqa-r": "MLQA-R",
    "tydiqa": "TyDi QA GoldP",
    "flores": "FLORES-200",
    "tatoeba": "Tatoeba",
}
RETRIEVAL = ("xquad-r", "xquad-r:paragraph", "mlqa-r", "tydiqa")
SETTINGS = ("monolingual", "cross_lingual", "multilingual")
BASELINES = {"demean": "language means removed", "lir": "LIR"}
XTREME = (
    *("afr", "ara", "ben", "bul", "cmn", "deu", "ell", "est", "eus", "fin", "fra", "heb", "hin", "hun", "ind", "ita"),
    *("jav", "jpn", "kat", "kaz", "kor", "mal", "mar", "nld", "pes", "por", "rus", "spa", "swh", "tam", "tel", "tgl"),
    *("tha", "tur", "urd", "vie"),
)
"""Languages of Tatoeba that XTREME (arXiv 2003.11080) reports, 36 in total."""
PAIR = {
    "parallel_cosine": "cosine of translations",
    "random_cosine": "cosine of other pairs",
    "cosine_effect": "difference, in deviations ↑",
    "bitext_accuracy": "bitext accuracy ↑",
    "bitext_accuracy_margin": "bitext accuracy by margin ↑",
    "cka": "CKA ↑",
    "alignment": "alignment ↓",
}
SPACE = {
    "uniformity": "uniformity ↓",
    "centroid_gap": "centroid gap ↓",
    "language_probe": "language probe ↓",
    "language_probe_chance": "chance of the probe",
    "lists@10": "lists@10 ↑",
    "neighbours@10": "neighbours@10 ↑",
}
BIAS = {
    "rank_distance": ("rank distance ↓", 1),
    "rank_distance_median": ("its median ↓", 1),
    "rank_distance_share": ("as a share of the pool ↓", 4),
    "same_language_share@10": ("same-language share@10", 3),
    "same_language_pool_share": ("that share of the pool", 3),
    "map_range": ("mAP, range ↓", 3),
    "map_deviation": ("mAP, deviation ↓", 3),
    "peer_irrelevant@100": ("PEER@100, irrelevant", 3),
    "peer_relevant@100": ("PEER@100, relevant", 3),
}

RETRIEVAL_TEXT = (
    "Monolingual: questions and candidates are in one language. Cross-lingual (cross): questions are in one language"
    " and candidates in another. Multilingual (multi): the candidates of all languages are in one pool. All scores are"
    " macro means over languages or ordered pairs. mAP is over the full ranking; R@k is recall@k, and in the pool of"
    " all languages it also counts an answer's translations. [evaluation.md](evaluation.md) describes the tasks and"
    " their protocols.\n\n"
    "↳ 95 %: the middle 95 % of 10,000 draws of whole paragraphs ([confidence](measures.md#confidence)). ↳ language"
    " means removed, ↳ LIR: the same embeddings with the language removed, without training; these need to know the"
    " language of every text ([baselines](measures.md#baselines-without-training))."
)
BIAS_TEXT = (
    "In the pool of all languages, for tasks that have one. Rank distance: positions between a question's best and"
    " worst answer. Same-language share@10: share of the first ten that is in the question's language, beside the same"
    " share of the whole pool. mAP: range (best minus worst) and standard deviation over the languages of questions."
    " All of these improve when nothing is found: read them beside mAP. [Language bias](measures.md#language-bias)"
    " defines them and says when one of them is not defined."
)
ONE_ANSWER_TEXT = (
    "XQuAD-R, sentence: mAP in the pool of all languages if, of all answers, only those in one language (column) stay"
    " in it, by language of the question (row)."
)
LANGUAGE_TEXT = (
    "mAP. Cross-lingual: means over the pairs in which the questions are in the language (asks), and in which the"
    " answers are (answers). Multilingual, rank distance and same-language share: for questions in the language, in the"
    " pool of all languages."
)
ALIGNMENT_TEXT = (
    "Means over the unordered pairs of languages: for questions (XQuAD-R, MLQA-R), for sentences in many languages"
    " (FLORES-200), and for pairs with English only (Tatoeba). Bitext accuracy: share of texts whose translation is"
    " nearer than all other texts, in both directions; equal sentences count as misses. Sentences on both sides have"
    " the prefix of queries.\n\n"
    "In the second table, uniformity is that of one language's texts; centroid gap and language probe measure how far"
    " apart the languages are; lists@10 and neighbours@10 measure whether a question finds the same candidates, and has"
    " the same neighbours, in two languages. [Alignment](measures.md#alignment) defines all of them and gives their"
    " values for aligned and unrelated texts."
)
ENGLISH_TEXT = (
    "Bitext accuracy with English, plain / by margin, highest first. Language codes are those of FLORES-200 (language"
    " and script) and Tatoeba (ISO 639-3)."
)
TIME_TEXT = (
    f"On {CORES} threads. Seconds from loading the model to the last measure, and how many of them were spent on encoding and"
    " scoring; the peak memory of the process, including PyTorch."
)
