"""Gradients on W ranks compared with that of the whole batch in one process: hbdist and other libraries, each as it is used.

Every recipe runs in DistributedDataParallel, which averages over the ranks, on W gloo processes in float32. The
reference is the gradient of the global batch's mean loss, computed by one process in float64 from all scores at once.
"""

import json
from typing import Any

from measure import RunError, arguments, launch, say, write

PAIRS = 32
"""Number of pairs per rank."""
WORLDS = (1, 2, 4)
HARD_NEGATIVES = 2
EXACT = 1e-5
"""Relative error up to which a float32 gradient counts as correct."""


def measure(*, quick: bool) -> dict[str, Any]:
    worlds, pairs = ((1, 2), 16) if quick else (WORLDS, PAIRS)
    rows: dict[str, dict[str, Any]] = {}
    for world in worlds:
        say(f"gradients of {world} rank{'s' * (world > 1)}")
        try:
            found = launch(gradients, world=world, timeout=240, pairs=pairs)[0]
        except RunError as error:
            found = [{**case, "failed": str(error)} for case in cases()]
        for row in found:
            known = {key: row[key] for key in ("peer", "setting", "symmetric", "hard_negatives")}
            rows.setdefault(json.dumps(known), {**known, "by_world": {}})["by_world"][str(world)] = {
                key: row[key] for key in row if key not in known
            }
    return {"settings": {"pairs_a_rank": pairs, "worlds": worlds, "exact": EXACT}, "rows": list(rows.values())}


def cases() -> list[dict[str, Any]]:
    """Return every recipe with each of its losses."""
    from recipes import RECIPES

    return [
        {
            "number": number,
            "peer": recipe.peer,
            "setting": recipe.setting,
            "symmetric": symmetric,
            "hard_negatives": hard,
        }
        for number, recipe in enumerate(RECIPES)
        for symmetric in recipe.symmetric
        for hard in ((0, HARD_NEGATIVES) if recipe.hard_negatives else (0,))
    ]


def gradients(pairs: int) -> list[dict[str, Any]]:
    """Return, on each rank, every case's gradient compared with the reference."""
    import torch
    from measure import join
    from peers import PeerError
    from recipes import RECIPES, Batch, Encoder

    rank, world = join()
    found = []
    for case in cases():
        words = _words(pairs * world, case["hard_negatives"])
        own = slice(rank * pairs, (rank + 1) * pairs)
        encoder = Encoder()
        row = {key: case[key] for key in case if key != "number"}
        try:
            RECIPES[case["number"]].backward(encoder, Batch(*(part[own] for part in words)), case["symmetric"])
            found.append({**row, **_compare(encoder, _reference(Batch(*words), case["symmetric"]))})
        except PeerError as error:
            found.append({**row, "skipped": str(error)})
        except Exception as error:  # whatever another library raises is its result
            found.append({**row, "failed": f"{type(error).__name__}: {error}"[:300]})
        torch.distributed.barrier()
    return found


def _words(pairs: int, hard: int) -> tuple[Any, Any, Any]:
    import torch
    from recipes import WORDS

    generator = torch.Generator().manual_seed(1)
    shapes = ((pairs,), (pairs,), (pairs, hard))
    return tuple(torch.randint(0, WORDS, shape, generator=generator) for shape in shapes)


def _reference(batch: Any, symmetric: bool) -> Any:
    """Return the gradient of the global batch's mean loss, in float64, from all scores at once."""
    import torch
    from recipes import TEMPERATURE, Encoder
    from torch.nn.functional import cross_entropy

    encoder = Encoder().double()
    query_BD, document_BD = encoder(batch.query_B), encoder(batch.document_B)
    candidate_CD = torch.cat([document_BD, encoder(batch.negative_BK.flatten())])
    own_B = torch.arange(len(query_BD))
    loss = cross_entropy(query_BD @ candidate_CD.T / TEMPERATURE, own_B)
    if symmetric:
        loss = (loss + cross_entropy(document_BD @ query_BD.T / TEMPERATURE, own_B)) / 2
    loss.backward()
    return encoder


def _compare(encoder: Any, reference: Any) -> dict[str, float]:
    import torch

    found, right = (
        torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])
        for model in (encoder, reference)
    )
    return {
        "norm_ratio": float(found.norm() / right.norm()),
        "cosine": float(found @ right / (found.norm() * right.norm())),
        "error": float((found - right).norm() / right.norm()),
    }


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one line per recipe, over all its losses, with ‖g‖ ÷ ‖reference‖ by number of ranks."""
    worlds = [str(world) for world in result["settings"]["worlds"]]
    lines = [
        "| | losses | "
        + " | ".join(f"{world} rank{'s' * (world != '1')}" for world in worlds)
        + " | cosine | error | |",
        "|---" * (len(worlds) + 5) + "|",
    ]
    recipes = dict.fromkeys((row["peer"], row["setting"]) for row in result["rows"])
    for peer, setting in recipes:
        rows = [row for row in result["rows"] if (row["peer"], row["setting"]) == (peer, setting)]
        cells = []
        for world in worlds:
            ratios = [row["by_world"][world].get("norm_ratio") for row in rows]
            cells.append(
                "–" if None in ratios else " to ".join(dict.fromkeys(f"{r:.4f}" for r in (min(ratios), max(ratios))))
            )
        found = [one for row in rows for one in row["by_world"].values()]
        measured = all("error" in one for one in found)
        cells.append(f"{min(one['cosine'] for one in found):.6f}" if measured else "–")
        cells.append(f"{max(one['error'] for one in found):.0e}" if measured else "–")
        who = f"**{peer}**" if peer == "hbdist" else peer
        said = ", ".join(dict.fromkeys(verdict(row["by_world"]) for row in rows))
        lines.append(f"| {who} {setting} | {'; '.join(map(_loss_name, rows))} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def _loss_name(row: dict[str, Any]) -> str:
    return ("q⇄d" if row["symmetric"] else "q→d") + (f" +{row['hard_negatives']}" if row["hard_negatives"] else "")


def verdict(by_world: dict[str, dict[str, Any]]) -> str:
    """Summarize the numbers in a few words."""
    for found in by_world.values():
        for key in ("skipped", "failed"):
            if key in found:
                return f"{key}: {found[key]}"
    if all(found["error"] < EXACT for found in by_world.values()):
        return "exact"
    world, last = max((int(number), found) for number, found in by_world.items())
    if last["cosine"] < 1 - 1e-6:
        return "another direction"
    if abs(last["norm_ratio"] * world - 1) < 1e-3:
        return "1/W of it"
    return "W times it" if abs(last["norm_ratio"] / world - 1) < 1e-3 else "another length"


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "gradients", result)
    print(table(result))
