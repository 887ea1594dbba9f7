"""Stand-ins for models and tasks, for tests of what comes around them."""

import hashlib

import numpy as np

from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask


class HashEncoder:
    """Vectors of small whole numbers from the hash of a text: their products are exact, and often tie."""

    dimensions = 32

    def __init__(self, _settings: object = None) -> None:
        self.encoded: list[str] = []

    def encode(self, texts, kind, *, languages=None, progress=None):
        self.encoded += texts
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
        if progress:
            progress(len(texts), len(texts))
        return (np.frombuffer(digests, dtype=np.uint8).reshape(len(texts), -1 if texts else 32) % 7 - 3.0).astype(
            np.float32
        )


class BatchEncoder(HashEncoder):
    """Real numbers that change a little with the batch a text is in, as padding changes those of a model."""

    def encode(self, texts, kind, *, languages=None, progress=None):
        vector_ND = super().encode(texts, kind, progress=progress)
        if len(texts):
            vector_ND = vector_ND + vector_ND.mean(axis=0) / 1e3
        return vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-6)


def made_task(*, questions: int = 40, candidates: int = 150, seed: int = 0, settings: tuple[str, ...] = ()):
    """Questions in three languages, each with an answer in some of them; every tenth candidate is another's twin."""
    generator = np.random.default_rng(seed)
    languages = ("de", "en", "th")
    texts = [f"{'long ' * int(generator.integers(0, 9))}text {n - (n % 10 == 9)}" for n in range(candidates)]
    pool = tuple(
        Candidate(language, number, 0, f"{language} {texts[number]}")
        for language in languages
        for number in range(candidates)
    )
    relevance = {
        f"q{question}": tuple(
            int(candidates * language + place)
            for language in range(3)
            if language == question % 3 or generator.random() < 0.7
            for place in generator.permutation(candidates)[: generator.integers(1, 3)]
        )
        for question in range(questions)
    }
    queries = tuple(
        Query(name, language, f"{language} asks {name}")
        for number, language in enumerate(languages)
        for name, places in relevance.items()
        if any(place // candidates == number for place in places)
    )
    extra = {"settings": settings} if settings else {}
    return RetrievalTask("made", languages, queries, pool, relevance, **extra)
