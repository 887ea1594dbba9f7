"""Batches of one rank: its share of the global batch, identities, hard negatives and counts."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_schedule import plain_batch

from hbdist.config.config import Config
from hbdist.config.sections import ModelSection
from hbdist.data.batching.hard_negatives import draw_hard_negatives
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair
from hbdist.errors import DataError
from hbdist.loss.masks import NO_IDENTITY
from hbdist.models.encoder import Encoder
from hbdist.models.tokenizer import Tokenize
from hbdist.training.batch import RankBatch
from hbdist.training.loader import Batches, measure_token_rates, must_read

ITEM, PASSAGE, TEXT, QUERY = range(4)


@pytest.fixture(scope="module")
def manifest(tiny_shards: Path) -> Manifest:
    return Manifest.load(tiny_shards)


@pytest.fixture(scope="module")
def tokenize(tiny_model: Path) -> Tokenize:
    limits = {"max_query_tokens": 24, "max_document_tokens": 48}  # so that some texts are cut
    return Encoder.load(ModelSection(name=str(tiny_model), **limits)).tokenize


@pytest.fixture(scope="module")
def token_rates(manifest: Manifest, tokenize: Tokenize) -> dict[str, float]:
    return measure_token_rates(manifest, tokenize)


@pytest.fixture(scope="module")
def make(manifest: Manifest, tokenize: Tokenize, token_rates: dict[str, float]) -> Any:
    """Return a function that makes the `Batches` of one rank."""

    def of(rank: int = 0, world: int = 1, *, of_manifest: Manifest = manifest, **sections: Any) -> Batches:
        values: dict[str, Any] = {"steps": 3, "batch": {"size": 13}, "model": {"name": "tiny"}} | sections
        values["data"] = {"shards": "tiny"} | values.get("data", {})
        config = Config.check(values, source="test")
        return Batches(config, of_manifest, tokenize, token_rates=token_rates, rank=rank, world=world)

    return of


def pairs_of(batches: Batches, step: int) -> list[Pair]:
    """Return the pairs of the global batch, in its order, which is also that of a single rank."""
    whole = batches.schedule.batch(step)
    return batches.reader.read(whole.group, whole.row)


def tokens_of(batch: RankBatch) -> list[list[list[int]]]:
    """Return the real tokens of this rank's queries and of its documents, each in order."""
    texts = []
    for chunks in (batch.query_chunks, batch.document_chunks):
        found = {
            int(index): ids[mask.bool()].tolist()
            for chunk in chunks
            for index, ids, mask in zip(chunk.index_B, chunk.input_ids_BL, chunk.attention_mask_BL, strict=True)
        }
        assert sorted(found) == list(range(len(found)))
        texts.append([found[index] for index in range(len(found))])
    return texts


def rows_of(batch: RankBatch) -> list[tuple[Any, ...]]:
    """Return each pair of this rank as (identities, query, document)."""
    queries, documents = tokens_of(batch)
    identities = batch.identity_BI.tolist()
    return [
        (*identity, tuple(query), tuple(document))
        for identity, query, document in zip(identities, queries, documents[: len(queries)], strict=True)
    ]


def same(one: RankBatch, other: RankBatch) -> bool:
    """Return True if both batches are equal bit for bit."""
    tensors = ("identity_BI", "block_B", "negative_identity_NI", "negative_block_N", "negative_place_M")
    chunks = [(batch.query_chunks + batch.document_chunks) for batch in (one, other)]
    return (
        (one.step, one.counts, one.ids) == (other.step, other.counts, other.ids)
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        and len(chunks[0]) == len(chunks[1])
        and all(
            torch.equal(first, second)
            for pair in zip(*chunks, strict=True)
            for first, second in zip(vars(pair[0]).values(), vars(pair[1]).values(), strict=True)
        )
    )


@settings(max_examples=25)
@given(
    world=st.integers(1, 5),
    step=st.integers(0, 10**6),
    size=st.integers(5, 24),
    mono_share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_shares_of_the_ranks_make_up_the_global_batch(
    make: Any, world: int, step: int, size: int, mono_share: float, seed: int
) -> None:
    sections = {"seed": seed, "batch": {"size": size, "mono_share": mono_share}}
    parts = [make(rank, world, **sections)[step] for rank in range(world)]
    counts = [len(part.block_B) for part in parts]
    assert sum(counts) == size
    assert max(counts) - min(counts) <= 1
    together = sorted(row for part in parts for row in rows_of(part))
    assert together == sorted(rows_of(make(**sections)[step]))


def test_a_single_rank_has_the_pairs_of_the_schedule(make: Any, tokenize: Tokenize) -> None:
    batches = make()
    queries, documents = tokens_of(batches[7])
    pairs = pairs_of(batches, 7)
    assert queries == tokenize([pair.query for pair in pairs], "query")[0]
    assert documents == tokenize([pair.document for pair in pairs], "document")[0]


@pytest.mark.parametrize("world", [2, 3])
def test_tokens_are_balanced_between_ranks(world: int, make: Any) -> None:
    tokens = [make(rank, world, batch={"size": 60})[0].counts.tokens for rank in range(world)]
    assert max(tokens) / min(tokens) < 1.15


def test_the_same_step_gives_the_same_item(make: Any) -> None:
    sections = {"loss": {"hard_negatives": 2}, "run": {"log_batches": True}}
    batches = make(**sections)
    first = batches[5]
    assert same(batches[5], first)
    assert same(make(**sections)[5], first)
    assert not same(batches[6], first)


def test_a_worker_gives_the_same_batches(make: Any) -> None:
    sections = {"loss": {"hard_negatives": 2}, "run": {"log_batches": True}}
    alone = list(make(1, 2, **sections).from_step(1))
    ahead = list(make(1, 2, data={"workers": 1}, **sections).from_step(1))
    assert [batch.step for batch in alone] == [batch.step for batch in ahead] == [1, 2]
    assert all(same(one, other) for one, other in zip(alone, ahead, strict=True))


def test_a_resumed_run_gets_the_rest_of_its_batches(make: Any) -> None:
    whole, rest = list(make().from_step(0)), list(make().from_step(2))
    assert [batch.step for batch in whole] == [0, 1, 2]
    assert same(rest[0], whole[2])
    assert list(make().from_step(3)) == []


@pytest.mark.parametrize("chunk_tokens", [1, 100, 10**6])
def test_chunks_stay_within_their_budget_and_change_nothing_else(chunk_tokens: int, make: Any) -> None:
    batch = make(loss={"chunk_tokens": chunk_tokens})[0]
    for chunk in batch.query_chunks + batch.document_chunks:
        assert chunk.input_ids_BL.numel() <= chunk_tokens or len(chunk.index_B) == 1
    assert rows_of(batch) == rows_of(make()[0])


def test_identities_are_equal_where_items_passages_texts_or_queries_are(make: Any) -> None:
    batches = make(batch={"size": 300, "mono_share": 0.5, "mix": "blocks", "mono_block": 1})
    facts: list[tuple[Any, ...]] = [
        ((pair.dataset, pair.id), (pair.dataset, pair.document_id), pair.document, pair.query)
        for pair in pairs_of(batches, 0)
    ]
    pairs, identity_BI = pairs_of(batches, 0), batches[0].identity_BI
    assert (identity_BI != NO_IDENTITY).all()
    for column in (ITEM, PASSAGE, TEXT, QUERY):
        equal = np.array([[one[column] == other[column] for other in facts] for one in facts])
        assert np.array_equal((identity_BI[:, None, column] == identity_BI[None, :, column]).numpy(), equal)

    def some(condition: Any) -> bool:
        return any(condition(one, other) for one in pairs for other in pairs)

    # All of the above would also be true of a batch without such pairs.
    assert some(lambda one, other: one.id == other.id and one.document_lang != other.document_lang)
    assert some(lambda one, other: one.id != other.id and one.document_id == other.document_id)
    assert some(lambda one, other: one.query_lang != other.query_lang and one.document == other.document)
    assert some(lambda one, other: one.query == other.query and one.document != other.document)


MADE = {"data": {"datasets": ["made"]}, "batch": {"size": 24, "mono_share": 1.0}}


def hard_negatives(batches: Batches, step: int) -> dict[str, list[str]]:
    """Return id → texts of its hard negatives, decoded from the tokens; empty if there is none."""
    batch = batches[step]
    pairs, hard = pairs_of(batches, step), batches.config.loss.hard_negatives
    _, documents = tokens_of(batch)
    tokenizer, prefix = batches.tokenize.tokenizer, batches.tokenize.settings.document_prefix.strip()
    encoded = [
        tokenizer.decode(ids, skip_special_tokens=True).removeprefix(prefix).strip() for ids in documents[len(pairs) :]
    ]
    assert hard * len(pairs) == len(batch.negative_identity_NI) == len(batch.negative_block_N)
    assert batch.negative_place_M is not None
    texts = [""] * (hard * len(pairs))
    for place, text in zip(batch.negative_place_M.tolist(), encoded, strict=True):
        texts[place] = text
    assert batch.counts.negatives == len(encoded)
    assert all(encoded), "empty texts are not encoded"
    return {pair.id: texts[index * hard : (index + 1) * hard] for index, pair in enumerate(pairs)}


@pytest.mark.parametrize("hard", [1, 2, 4])
def test_hard_negatives_are_drawn_from_those_of_the_pair(hard: int, make: Any) -> None:
    batches = make(loss={"hard_negatives": hard}, **MADE)
    drawn = hard_negatives(batches, 0)
    for pair in pairs_of(batches, 0):
        texts = [text for text in drawn[pair.id] if text]
        assert len(texts) == len(set(texts)) == min(hard, len(pair.negatives))
        assert set(texts) <= set(pair.negatives)
        assert drawn[pair.id] == texts + [""] * (hard - len(texts))


def test_hard_negatives_are_drawn_by_key(make: Any) -> None:
    def drawn(seed: int) -> dict[str, list[str]]:
        # Large enough for every pair of a language.
        sections = MADE | {
            "batch": {"size": 60, "mono_share": 1.0},
            "data": {"datasets": ["made"], "languages": ["en"]},
        }
        return hard_negatives(make(seed=seed, loss={"hard_negatives": 1}, **sections), 0)

    assert drawn(1) == drawn(1)
    assert drawn(1).keys() == drawn(2).keys()
    assert drawn(1) != drawn(2)


def test_the_key_of_a_draw_is_seed_group_row_and_epoch(make: Any) -> None:
    batches = make(loss={"hard_negatives": 2}, **MADE)
    batch, drawn = batches.schedule.batch(0), hard_negatives(batches, 0)
    for pair, group, row, epoch in zip(pairs_of(batches, 0), batch.group, batch.row, batch.epoch, strict=True):
        key = f"{batches.config.seed}/negatives of {group}/{row}/{epoch}"
        assert drawn[pair.id] == draw_hard_negatives(pair, 2, key=key)


def test_hard_negatives_do_not_depend_on_the_ranks(make: Any) -> None:
    sections = {"loss": {"hard_negatives": 2}, **MADE}

    def known(batch: RankBatch) -> list[tuple[int, list[list[int]]]]:
        negatives = batch.negative_identity_NI.reshape(len(batch.block_B), 2, 4)[..., TEXT]
        return list(zip(batch.identity_BI[:, ITEM].tolist(), negatives.tolist(), strict=True))

    apart = [pair for rank in range(3) for pair in known(make(rank, 3, **sections)[4])]
    assert sorted(apart) == sorted(known(make(**sections)[4]))


def test_hard_negatives_have_a_text_identity_and_missing_ones_have_none(make: Any) -> None:
    batches = make(loss={"hard_negatives": 3}, **MADE)
    batch, drawn = batches[0], hard_negatives(batches, 0)
    texts = [text for texts in drawn.values() for text in texts]
    identity_NI = batch.negative_identity_NI
    assert (identity_NI[:, [ITEM, PASSAGE, QUERY]] == NO_IDENTITY).all()
    assert (identity_NI[:, TEXT] == NO_IDENTITY).tolist() == [text == "" for text in texts]
    number = {text: int(identity) for text, identity in zip(texts, identity_NI[:, TEXT], strict=True)}
    assert [number[text] for text in texts] == identity_NI[:, TEXT].tolist()
    assert len(set(number.values())) == len(number)
    assert torch.equal(batch.negative_block_N, batch.block_B.repeat_interleave(3))


def test_hard_negatives_are_in_the_block_of_their_pair(make: Any) -> None:
    blocks = MADE | {"batch": {"size": 24, "mono_share": 1.0, "mono_block": 6}}
    batch = make(loss={"hard_negatives": 3}, **blocks)[0]
    block_of_pair = batch.block_B.tolist()
    assert block_of_pair == sorted(block_of_pair)
    assert set(block_of_pair) == {0, 1, 2, 3}
    assert batch.negative_block_N.tolist() == [block for block in block_of_pair for _ in range(3)]


def test_a_hard_negative_has_the_identity_of_the_document_with_its_text(
    make: Any, tokenize: Tokenize, token_rates: dict[str, float], tmp_path: Path
) -> None:
    from hbdist.data.build.build import build

    row = '{{"query": "q{0}", "document": "text {0}", "negatives": ["text {1}"]}}\n'
    (tmp_path / "en.jsonl").write_text("".join(row.format(n, (n + 1) % 6) for n in range(6)), encoding="utf-8")
    recipe = tmp_path / "ring.toml"
    recipe.write_text('[[dataset]]\nname = "ring"\nreader = "jsonl"\nfiles = {en = "en.jsonl"}\n', encoding="utf-8")
    ring = build(recipe, tmp_path / "ring", workers=1)
    sections = {"batch": {"size": 6, "mono_share": 1.0}, "loss": {"hard_negatives": 1}}
    batch = make(of_manifest=ring, **sections)[0]
    assert sorted(batch.negative_identity_NI[:, TEXT].tolist()) == sorted(batch.identity_BI[:, TEXT].tolist())
    assert (batch.identity_BI[:, PASSAGE] == NO_IDENTITY).all()


@pytest.mark.parametrize("world", [1, 3])
def test_counts_equal_a_recount(world: int, make: Any, tokenize: Tokenize) -> None:
    sections = {"batch": {"size": 40, "mix": "blocks", "mono_share": 0.25}, "loss": {"hard_negatives": 1}}
    pairs = pairs_of(make(**sections), 2)
    truncated = 0
    for rank in range(world):
        batch = make(rank, world, **sections)[2]
        counts, chunks = batch.counts, batch.query_chunks + batch.document_chunks
        assert counts.pools == Counter(f"{pair.query_lang}-{pair.document_lang}" for pair in pairs)
        assert counts.mono_share == sum(pair.query_lang == pair.document_lang for pair in pairs) / 40 == 0.25
        assert counts.repeats == 0
        assert counts.tokens == sum(int(chunk.attention_mask_BL.sum()) for chunk in chunks)
        assert counts.padded_tokens == sum(chunk.attention_mask_BL.numel() for chunk in chunks)
        truncated += counts.truncated
    prefixed = [(f"query: {pair.query}", 24) for pair in pairs] + [(f"passage: {pair.document}", 48) for pair in pairs]
    assert truncated == sum(len(tokenize.tokenizer(text)["input_ids"]) > limit for text, limit in prefixed) > 0


def test_repeats_of_a_small_pool_are_counted(make: Any) -> None:
    batch = {"size": 128, "mono_share": 1.0, "small_pool": "repeat"}  # of 60 pairs
    counts = [make(rank, 2, data={"datasets": ["made"]}, batch=batch)[0].counts.repeats for rank in range(2)]
    assert counts == [68, 68]


@pytest.mark.parametrize("world", [1, 2, 5])
def test_ids_are_those_of_the_global_batch_and_only_on_rank_0(world: int, make: Any) -> None:
    sections: dict[str, Any] = {"run": {"log_batches": True}}
    logged = [make(rank, world, **sections)[3].ids for rank in range(world)]
    pairs = pairs_of(make(), 3)
    assert logged[0] == [f"{pair.dataset}/{pair.query_lang}-{pair.document_lang}/{pair.id}" for pair in pairs]
    assert logged[1:] == [None] * (world - 1)
    assert make()[3].ids is None


def test_token_rates_equal_a_plain_count(
    manifest: Manifest, tokenize: Tokenize, token_rates: dict[str, float], make: Any
) -> None:
    assert token_rates.keys() == {"en", "de", "th"}
    assert manifest.groups[0].name == "made/de-de"
    queries = [pair.query for pair in make().reader.read(np.zeros(32, dtype=np.int64), np.arange(32))]
    tokens = sum(len(tokenize.tokenizer(f"passage: {query}")["input_ids"]) for query in queries)
    assert token_rates["de"] == tokens / sum(map(len, queries))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_reported_with_the_rank_that_saw_it(
    workers: int, make: Any, manifest: Manifest, tmp_path: Path
) -> None:
    shutil.copytree(manifest.root, tmp_path / "damaged")
    damaged = Manifest.load(tmp_path / "damaged")
    for group in damaged.groups:
        path = damaged.root / group.shards[0].path
        path.write_bytes(path.read_bytes()[:-512])
    batches = make(1, 2, of_manifest=damaged, data={"workers": workers})
    with pytest.raises(DataError, match="is damaged") as caught:
        next(batches.from_step(0))
    assert str(caught.value).startswith(str(damaged.root))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_have_the_pairs_that_a_plain_plan_deals_to_them(
    world: int, make: Any, manifest: Manifest, token_rates: dict[str, float]
) -> None:
    """The same from plain lists: rows by the plain schedule, lengths of the texts themselves, one stable sort, a snake."""
    sections = {"seed": 3, "batch": {"size": 50, "mono_share": 0.5, "mix": "blocks", "mono_block": 5}}
    batches = [make(rank, world, **sections) for rank in range(world)]
    mixture = batches[0].schedule.mixture
    for step in (0, 7):
        rows = plain_batch(manifest.groups, mixture, 3, step, one_dataset=False)
        pairs = batches[0].reader.read(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]))
        tokens = [
            len(pair.query) * token_rates[pair.query_lang] + len(pair.document) * token_rates[pair.document_lang]
            for pair in pairs
        ]
        by_length = sorted(range(50), key=lambda index: (-tokens[index], index))
        snake = [*range(world), *reversed(range(world))]
        for rank in range(world):
            own = sorted(index for turn, index in enumerate(by_length) if snake[turn % (2 * world)] == rank)
            share = batches[rank].share(step)
            assert share.dealt.tolist() == own
            assert share.pools == Counter(f"{pair.query_lang}-{pair.document_lang}" for pair in pairs)
            assert share.repeats == 50 - len({row[:2] for row in rows})
            documents = tokens_of(batches[rank][step])[1]
            assert documents == batches[rank].tokenize([pairs[index].document for index in own], "document")[0]


def test_token_rates_are_not_measured_on_what_is_left_of_a_damaged_shard(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    damaged = next(path for path in sorted(shards.rglob("*.tar")) if "de-de" in str(path))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    manifest = Manifest.load(shards)

    class Counting:
        @staticmethod
        def count(texts: list[str]) -> int:
            return sum(map(len, texts))

    def rates(**data: object) -> dict[str, float]:
        values = {"steps": 1, "data": {"shards": str(shards), **data}, "model": {"name": "none"}, "batch": {"size": 8}}
        config = Config.check(values, source="test")
        return measure_token_rates(manifest, Counting(), must_read=must_read(config))  # type: ignore[arg-type]

    with pytest.raises(DataError, match="de-de"):
        rates()
    assert rates(on_error="skip").keys() == rates(languages=["en", "th"]).keys()
