"""Fake encoders and a small made-up task, for tests of evaluation."""

import hashlib

import numpy as np

from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask


class HashEncoder:
    """Encoder that hashes a text into small whole numbers: products of its vectors are exact, and often tie."""

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
    """Encoder whose real numbers change a little with the batch a text is in, as padding changes those of a model."""

    def encode(self, texts, kind, *, languages=None, progress=None):
        vector_ND = super().encode(texts, kind, progress=progress)
        if len(texts):
            vector_ND = vector_ND + vector_ND.mean(axis=0) / 1e3
        return vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-6)


def made_task(*, questions: int = 40, candidates: int = 150, seed: int = 0, settings: tuple[str, ...] = ()):
    """Return questions in three languages, each with an answer in some of them; every tenth candidate repeats another."""
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
            int(candidates * language + number)
            for language in range(3)
            if language == question % 3 or generator.random() < 0.7
            for number in generator.permutation(candidates)[: generator.integers(1, 3)]
        )
        for question in range(questions)
    }
    queries = tuple(
        Query(name, language, f"{language} asks {name}")
        for number, language in enumerate(languages)
        for name, answers in relevance.items()
        if any(index // candidates == number for index in answers)
    )
    extra = {"settings": settings} if settings else {}
    return RetrievalTask("made", languages, queries, pool, relevance, **extra)
