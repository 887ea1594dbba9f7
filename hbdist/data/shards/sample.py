"""One pair as bytes: the JSON member of a tar, and its entry in the index beside it.

The one place that knows what a pair's sample looks like; building, reading and checking all come here.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

INDEX = np.dtype([("offset", "<i8"), ("size", "<i4"), ("query_chars", "<i4"), ("document_chars", "<i4")])
"""A row of an index: where its JSON begins in the tar and how long it is (bytes), and its texts' lengths
(characters)."""

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its document (the positive)."""

    dataset: str
    id: str
    """The same for all translations of a pair."""
    query: str
    document: str
    query_lang: str
    document_lang: str
    negatives: tuple[str, ...] = ()
    """Hard negatives, in the document's language."""
    document_id: str | None = None
    """The same for all pairs with this document, in any language of a parallel dataset."""


def encode(pair: Pair) -> bytes:
    """The sample as JSON: always the same bytes for the same pair."""
    values: dict[str, Any] = {
        "id": pair.id,
        "query": pair.query,
        "document": pair.document,
        "query_lang": pair.query_lang,
        "document_lang": pair.document_lang,
    }
    if pair.negatives:
        values["negatives"] = pair.negatives
    if pair.document_id is not None:
        values["document_id"] = pair.document_id
    return as_json(values).encode()


def decode(payload: bytes, *, dataset: str) -> Pair:
    """The pair of a sample.

    Raises:
        ValueError: this is not the JSON of a sample; the message says what it lacks.
    """
    values = json.loads(payload.decode("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {type(values).__name__} instead of an object")
    negatives, document_id = values.get("negatives", []), values.get("document_id")
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise ValueError("negatives that are not a list of texts")
    if not isinstance(document_id, str | None):
        raise ValueError("a document_id that is not a text")
    return Pair(
        dataset=dataset,
        id=_text(values, "id"),
        query=_text(values, "query"),
        document=_text(values, "document"),
        query_lang=_text(values, "query_lang"),
        document_lang=_text(values, "document_lang"),
        negatives=tuple(negatives),
        document_id=document_id,
    )


def _text(values: dict[str, Any], key: str) -> str:
    if not isinstance(value := values.get(key), str):
        raise ValueError(f"no {key}")
    return value


@dataclass(frozen=True, slots=True)
class LanguageSample:
    """A query and its document in one language."""

    id: str
    query: str
    document: str
    lang: str
    negatives: tuple[str, ...] = ()
    document_id: str | None = None


_SAMPLE = TypeAdapter(LanguageSample)


def encode_one(sample: LanguageSample) -> bytes:
    """The sample as JSON: always the same bytes for the same one."""
    values = {"id": sample.id, "query": sample.query, "document": sample.document, "lang": sample.lang}
    if sample.negatives:
        values["negatives"] = sample.negatives  # type: ignore[assignment]
    if sample.document_id is not None:
        values["document_id"] = sample.document_id
    return as_json(values).encode()


def decode_one(payload: bytes, *, language: str) -> LanguageSample:
    """The sample that this JSON is.

    Raises:
        ValueError: it is none of this language; the message says what it lacks.
    """
    try:
        sample = _SAMPLE.validate_json(payload, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'no sample'}: {first['msg']}") from None
    if sample.lang != language:
        raise ValueError(f"a text of {sample.lang}")
    return sample


def pair_of(query: LanguageSample, document: LanguageSample, *, dataset: str) -> Pair:
    """The query of one row with the document of another: its translation, or itself."""
    return Pair(
        dataset=dataset,
        id=query.id,
        query=query.query,
        document=document.document,
        query_lang=query.lang,
        document_lang=document.lang,
        negatives=document.negatives,
        document_id=document.document_id,
    )
