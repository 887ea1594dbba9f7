"""Translation of pairs into other languages: the work of `hbdist translate`.

The source is cut into blocks of rows; a block in one language is a part. Batches never cross the borders of a part, so
its bytes do not depend on the rank that translates it, or on the time. Ranks do not communicate: each translates those
of its own parts that are missing, and any rank that finds all parts complete merges them.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from hbdist.data.shards.groups import check_language
from hbdist.distributed.rendezvous import read_rank_and_world
from hbdist.errors import ConfigError
from hbdist.models.pretrained import quiet
from hbdist.translation.families import Family, load_family
from hbdist.translation.generate import Decoding, Translation, Translator, check_limits, choose_precision
from hbdist.translation.output import Folder, Part
from hbdist.translation.quality import find_fault, language_check
from hbdist.translation.source import Example, read_examples, survey
from hbdist.utils.workers import Progress, silent

UNFINISHED = "unfinished"
"""Reason to leave a text out: the translation of a piece reached the most tokens that it may have."""
PLACEHOLDER = "{to}"
"""Part of a model's name that stands for the target language."""
FORMAT = 1
"""Version of the format of parts and rows; another version needs another folder."""
Text = tuple[str, str]
"""A text and its language."""


@quiet()
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

    This process does its share, as rank RANK of WORLD_SIZE in the environment (unset: everything), and skips the parts
    that exist. On the same machine and software, with the same number of threads, the bytes are the same for any number
    of ranks and after any number of kills; on a GPU, as far as its kernels are deterministic.

    Args:
        model: name on the hub, or a folder; `{to}` in it is replaced by the target language.
        language: of texts whose row does not name one.
        part_rows: rows per part, which is the most work that a kill loses.
        codes: hbdist code → the model's code, for languages that the model names in an unknown way.
        progress: called as progress(parts done, parts of this rank, language).

    Returns:
        The content of translation.json, or None while parts of other ranks are missing.

    Raises:
        ConfigError: a language is not supported or given twice; the model does not translate; `out` has other files or
            other translations; RANK and WORLD_SIZE contradict each other.
        DataError: the source or the model is damaged.
    """
    decoding, rank_and_world = decoding or Decoding(), read_rank_and_world(os.environ)
    targets = _check_languages(targets, language)
    surveyed = survey(source, language=language)
    families = _load_families(model, targets, sources=sorted(surveyed.languages), codes=codes or {}, decoding=decoding)
    settings = {
        "format": FORMAT,
        "source": source.name,
        "source_sha256": surveyed.sha256,
        "languages": [language, *targets],
        "models": {target: {"model": one.name, "revision": one.revision} for target, one in families.items()},
        "codes": dict(codes or {}),
        "decoding": asdict(decoding) | {"precision": choose_precision()},
        "part_rows": part_rows,
        "language_check": {target: language_check(target) for target in targets},
    }
    folder = Folder(out, settings)
    if report := folder.read_finished():
        return report
    folder.start()
    blocks = -(-surveyed.rows // part_rows)
    _translate_own_parts(folder, source, families, blocks, rank_and_world, decoding, progress)
    if not all(folder.part(target, block).is_file() for target in targets for block in range(blocks)):
        return folder.read_finished()
    record = {"rows": surveyed.rows, "left_out": dict(surveyed.left_out), "ignored_fields": dict(surveyed.ignored)}
    return folder.finish(blocks, _originals(source, language), record)


def _translate_own_parts(
    folder: Folder,
    source: Path,
    families: Mapping[str, Family],
    blocks: int,
    rank_and_world: tuple[int, int],
    decoding: Decoding,
    progress: Progress,
) -> None:
    rank, world = rank_and_world
    language, part_rows = folder.settings["languages"][0], folder.settings["part_rows"]
    own = [(target, block) for i, target in enumerate(families) for block in range((rank - i) % world, blocks, world)]
    missing = {part for part in own if not folder.part(*part).is_file()}
    done = len(own) - len(missing)
    translator: Translator | None = None
    for target in sorted({target for target, _ in missing}):
        for block, rows in _blocks(source, language, part_rows):
            if (target, block) not in missing:
                continue
            if translator is None or translator.family is not families[target]:
                translator = Translator.load(families[target], decoding)
            folder.write_part(target, block, translate_block(rows, translator, target=target, settings=folder.settings))
            done += 1
            progress(done, len(own), target)


def translate_block(
    rows: Sequence[Example], translator: Translator, *, target: str, settings: Mapping[str, Any]
) -> Part:
    """Return the translation of the examples into `target`, without those that fail a gate.

    Queries, documents and hard negatives are translated separately. A text that already is in the language stays as it is.
    If the query or the document fails, the row is left out; if a hard negative fails, only that negative. Each row records
    the folder's `settings`.
    """
    part = Part()
    translations = _translations(rows, translator, target=target, counts=part.counts)

    def usable(kind: str, text: Text) -> str | None:
        original, language = text
        if language == target:
            return original
        translation = translations[text]
        fault = find_fault(original, translation.text, target=target) if translation.finished else UNFINISHED
        if fault:
            part.left_out[f"{kind}: {fault}"] += 1
        return None if fault else translation.text

    for example in rows:
        texts = _texts(example)
        if (query := usable("query", texts[0])) is None or (document := usable("document", texts[1])) is None:
            continue
        negatives = [text for negative in texts[2] if (text := usable("negative", negative)) is not None]
        values = _row(example, query=query, document=document, negatives=negatives, language=target)
        record = settings["models"][target] | {"query_from": example.query_lang, "document_from": example.document_lang}
        part.rows.append(values | {"translation": record | settings["decoding"]})
    return part


def _translations(
    rows: Sequence[Example], translator: Translator, *, target: str, counts: Counter[str]
) -> dict[Text, Translation]:
    """Return the translation of each text that is not in the target language; equal texts are translated once."""
    texts: dict[str, dict[str, None]] = {}
    for example in rows:
        query, document, negatives = _texts(example)
        for text, language in (query, document, *negatives):
            if language != target:
                texts.setdefault(language, {})[text] = None
    translations: dict[Text, Translation] = {}
    for language, own in sorted(texts.items()):
        translated = translator.translate(list(own), source=language, target=target)
        translations |= {(text, language): translation for text, translation in zip(own, translated, strict=True)}
    counts["texts"] += len(translations)
    counts["pieces"] += sum(one.pieces for one in translations.values())
    counts["sentences_broken"] += sum(one.broken for one in translations.values())
    return translations


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
    """Yield the rows of the source that are entirely in its main language, unchanged."""
    for example in read_examples(source, language=language):
        if {example.query_lang, example.document_lang} == {language}:
            (query, _), (document, _), negatives = _texts(example)
            originals = [text for text, _ in negatives]
            yield _row(example, query=query, document=document, negatives=originals, language=language)


def _blocks(source: Path, language: str, part_rows: int) -> Iterator[tuple[int, list[Example]]]:
    examples = read_examples(source, language=language)
    return enumerate(iter(lambda: list(islice(examples, part_rows)), []))


def _check_languages(targets: Sequence[str], language: str) -> list[str]:
    """Return the target languages, sorted."""
    for code in (language, *targets):
        try:
            check_language(code)
        except ValueError as error:
            raise ConfigError(f"{error}.") from None
    if language in targets:
        raise ConfigError(
            f"--to contains {language}, the language of the source (--from); expected other languages. Leave it out."
        )
    if not targets or len(set(targets)) < len(targets):
        raise ConfigError(f"--to is {','.join(targets) or 'empty'}; expected languages, each once, such as de,sw,th.")
    return sorted(targets)


def _load_families(
    model: str, targets: Sequence[str], *, sources: Sequence[str], codes: Mapping[str, str], decoding: Decoding
) -> dict[str, Family]:
    """Return the family of each target's model, each model loaded once, after checking that it supports all languages."""
    loaded: dict[str, Family] = {}
    families: dict[str, Family] = {}
    for target in targets:
        name = model.replace(PLACEHOLDER, target)
        if name not in loaded:
            loaded[name] = load_family(name, codes=codes)
            check_limits(loaded[name], decoding)
        families[target] = loaded[name]
        for source in sources:
            if source != target:
                families[target].check(source=source, target=target)
    return families
