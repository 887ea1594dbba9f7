"""The story of `hbdist translate`: pairs in one language become the same pairs in others.

The source is cut into blocks of rows, and each block in each language is a part. Batches are cut within a part, so what
comes out does not depend on which rank does a part, or when. Ranks need not talk: each does the parts that are its own
and missing, and whoever finds all complete puts them together.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from hbdist.data.shards.manifest import check_language
from hbdist.distributed.rendezvous import place as place_of
from hbdist.errors import ConfigError
from hbdist.translation.families import Family, family_of
from hbdist.translation.generate import Decoding, Translation, Translator, check_limits, precision
from hbdist.translation.output import Folder, Part
from hbdist.translation.quality import fault, language_check
from hbdist.translation.source import Example, examples, survey
from hbdist.utils.workers import Progress, silent

UNFINISHED = "unfinished"
"""The reason where a piece's translation came to the most tokens it may have."""
PLACEHOLDER = "{to}"
"""In a model's name: the target language."""
FORMAT = 1
"""Of parts and rows; another one is another folder."""

Text = tuple[str, str]
"""A text and its language."""


def translate(
    source: Path,
    out: Path,
    *,
    model: str,
    targets: Sequence[str],
    language: str = "en",
    decoding: Decoding | None = None,
    part_rows: int = 256,
    codes: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Translate the pairs of `source` into each of `targets`, and write `out`/<language>.jsonl.gz with the same ids.

    Does this rank's share (RANK of WORLD_SIZE in the environment; unset: all), of which what is there already is not
    done again. On the same machine and software, with as many threads, the same bytes come out for any number of ranks
    and after any number of kills; on a GPU that is as true as its kernels are deterministic.

    Args:
        model: name on the hub, or a folder; `{to}` in it stands for the target language.
        language: of texts whose row names none.
        part_rows: rows of a part: at most so much is lost by a kill.
        codes: our code → what the model calls the language, where they differ and the model's own is not known here.
        progress: called as progress(parts done, parts of this rank, language).

    Returns:
        What translation.json says, or None where other ranks' parts are still missing.

    Raises:
        ConfigError: a language is not known, or asked for twice; the model does not translate; `out` holds something else;
            RANK and WORLD_SIZE do not fit.
        DataError: the source or the model is damaged.
    """
    decoding, place = decoding or Decoding(), place_of(os.environ)
    targets = _checked(targets, language)
    holds = survey(source, language=language)
    families = _families(model, targets, sources=sorted(holds.languages), codes=codes or {}, decoding=decoding)
    settings = {
        "format": FORMAT,
        "source": source.name,
        "source_sha256": holds.sha256,
        "languages": [language, *targets],
        "models": {target: {"model": one.name, "revision": one.revision} for target, one in families.items()},
        "codes": dict(codes or {}),
        "decoding": asdict(decoding) | {"precision": precision()},
        "part_rows": part_rows,
        "language_check": {target: language_check(target) for target in targets},
    }
    folder = Folder(out, settings)
    if folder.is_done():
        return folder.standing()
    folder.start()
    blocks = -(-holds.rows // part_rows)
    _do_own_parts(folder, source, families, blocks=blocks, place=place, decoding=decoding, progress=progress)
    if not all(folder.part(target, block).is_file() for target in targets for block in range(blocks)):
        return None if not folder.is_done() else folder.standing()
    about_source = {"rows": holds.rows, "left_out": dict(holds.left_out), "ignored_fields": dict(holds.ignored)}
    return folder.finish(blocks, _originals(source, language), about_source)


def _do_own_parts(
    folder: Folder,
    source: Path,
    families: Mapping[str, Family],
    *,
    blocks: int,
    place: tuple[int, int],
    decoding: Decoding,
    progress: Progress,
) -> None:
    rank, world = place
    language, part_rows = folder.settings["languages"][0], folder.settings["part_rows"]
    own = {
        target: [block for block in range(blocks) if (block + number) % world == rank]
        for number, target in enumerate(families)
    }
    total, done = sum(map(len, own.values())), 0
    translator: Translator | None = None
    for target, numbers in own.items():
        missing = {block for block in numbers if not folder.part(target, block).is_file()}
        done += len(numbers) - len(missing)
        for block, rows in _blocks(source, language, part_rows) if missing else ():
            if block not in missing:
                continue
            if translator is None or translator.family is not families[target]:
                translator = Translator.load(families[target], decoding)
            folder.write_part(target, block, translate_block(rows, translator, target=target, made=folder.settings))
            done += 1
            progress(done, total, target)


def translate_block(rows: Sequence[Example], translator: Translator, *, target: str, made: Mapping[str, Any]) -> Part:
    """These examples in the language `target`, without those that fail a gate.

    Queries, documents and hard negatives are translated each by itself. A text that is in the language stays as it is. A
    row whose query or document fails is left out; a hard negative that fails, alone.

    Args:
        made: the folder's settings, for the record in each row.
    """
    part = Part()
    translations = _translations(rows, translator, target=target, counts=part.counts)

    def wrong(what: str, text: Text) -> str | None:
        if text[1] == target:
            return None
        translation = translations[text]
        reason = fault(text[0], translation.text, target=target) if translation.finished else UNFINISHED
        if reason:
            part.left_out[f"{what}: {reason}"] += 1
        return reason

    def final(text: Text) -> str:
        return text[0] if text[1] == target else translations[text].text

    for example in rows:
        query, document, negatives = _texts(example)
        if wrong("query", query) or wrong("document", document):
            continue
        usable = [final(negative) for negative in negatives if not wrong("negative", negative)]
        values = _row(example, query=final(query), document=final(document), negatives=usable, language=target)
        record = made["models"][target] | {"query_from": query[1], "document_from": document[1]}
        part.rows.append(values | {"translation": record | made["decoding"]})
    return part


def _translations(
    rows: Sequence[Example], translator: Translator, *, target: str, counts: Counter[str]
) -> dict[Text, Translation]:
    """Of each text that is not in the language, once."""
    texts: dict[str, dict[str, None]] = {}
    for example in rows:
        query, document, negatives = _texts(example)
        for text, language in (query, document, *negatives):
            if language != target:
                texts.setdefault(language, {})[text] = None
    found: dict[Text, Translation] = {}
    for language, own in sorted(texts.items()):
        translated = translator.translate(list(own), source=language, target=target)
        found |= {(text, language): translation for text, translation in zip(own, translated, strict=True)}
    counts["texts"] += len(found)
    counts["pieces"] += sum(one.pieces for one in found.values())
    counts["sentences_broken"] += sum(one.broken for one in found.values())
    return found


def _texts(example: Example) -> tuple[Text, Text, list[Text]]:
    row = example.row
    negatives = [(text, example.document_lang) for text in row.negatives if text.strip()]
    return (row.query, example.query_lang), (row.document, example.document_lang), negatives


def _row(example: Example, *, query: str, document: str, negatives: Sequence[str], language: str) -> dict[str, Any]:
    values: dict[str, Any] = {"id": example.row.id, "query": query, "document": document}
    if example.row.document_id is not None:
        values["document_id"] = example.row.document_id
    if negatives:
        values["negatives"] = list(negatives)
    return values | {"query_lang": language, "document_lang": language}


def _originals(source: Path, language: str) -> Iterator[dict[str, Any]]:
    """The rows of the source that are wholly in its language, as they are."""
    for example in examples(source, language=language):
        if isinstance(example, Example) and {example.query_lang, example.document_lang} == {language}:
            query, document, negatives = _texts(example)
            usable = [text for text, _ in negatives]
            yield _row(example, query=query[0], document=document[0], negatives=usable, language=language)


def _blocks(source: Path, language: str, part_rows: int) -> Iterator[tuple[int, list[Example]]]:
    rows = (example for example in examples(source, language=language) if isinstance(example, Example))
    block = 0
    while chunk := list(islice(rows, part_rows)):
        yield block, chunk
        block += 1


def _checked(targets: Sequence[str], language: str) -> list[str]:
    """The target languages in their order."""
    for code in (language, *targets):
        try:
            check_language(code)
        except ValueError as error:
            raise ConfigError(f"{error}.") from None
    if language in targets:
        raise ConfigError(
            f"--to has {language}, which the source is in (--from); expected other languages. Leave it out."
        )
    if not targets or len(set(targets)) < len(targets):
        raise ConfigError(f"--to is {','.join(targets) or 'empty'}; expected languages, each once, such as de,sw,th.")
    return sorted(targets)


def _families(
    model: str, targets: Sequence[str], *, sources: Sequence[str], codes: Mapping[str, str], decoding: Decoding
) -> dict[str, Family]:
    """The family of each target's model, loaded once a model, after seeing that it knows all languages."""
    loaded: dict[str, Family] = {}
    families: dict[str, Family] = {}
    for target in targets:
        name = model.replace(PLACEHOLDER, target)
        if name not in loaded:
            loaded[name] = family_of(name, given=codes)
            check_limits(loaded[name], decoding)
        families[target] = loaded[name]
        for source in sources:
            if source != target:
                families[target].check(source=source, target=target)
    return families
