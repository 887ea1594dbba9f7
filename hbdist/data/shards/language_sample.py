"""A row of one language as bytes: what the parallel layout stores, for all pairs that have their query or document there."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from hbdist.data.shards.sample import Pair, as_json


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
