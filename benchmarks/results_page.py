"""Markdown of docs/results.md, from the rows that results_table.py has measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_words import (
    ALIGNMENT_TEXT,
    BASELINES,
    BIAS,
    BIAS_TEXT,
    ENGLISH_TEXT,
    LANGUAGE_TEXT,
    NAMES,
    ONE_ANSWER_TEXT,
    PAIR,
    RETRIEVAL,
    RETRIEVAL_TEXT,
    SETTINGS,
    SPACE,
    TIME_TEXT,
    XTREME,
)

Rows = Mapping[str, Mapping[str, Any]]


def page(model: str, rows: Rows, *, about: str = "") -> str:
    """Return the whole page; a row that was not measured is listed with the reason.

    Args:
        about: a sentence about the model, if its name does not say everything.
    """
    measured = {row: found for row, found in rows.items() if "reason" not in found}
    scores = {row: measured[row]["scores"] for row in RETRIEVAL if row in measured}
    parts = [
        introduction(Path(model).name, measured, about),
        *section("Retrieval", RETRIEVAL_TEXT, retrieval(scores)),
        *section("Language bias", BIAS_TEXT, bias(scores)),
        *section("Where answers of one language are found", ONE_ANSWER_TEXT, one_answer(scores.get("xquad-r"))),
        *section("XQuAD-R by language", LANGUAGE_TEXT, by_language(scores.get("xquad-r"))),
        *section("TyDi QA by language", "R@k is recall@k; one passage is relevant.", monolingual(scores.get("tydiqa"))),
        *section("Alignment", ALIGNMENT_TEXT, alignment(measured)),
        *section("Translations into English, by language", ENGLISH_TEXT, english(measured)),
        *section("Time and memory", TIME_TEXT, costs(measured)),
        *section("Notes", "", notes(scores, rows)),
    ]
    return "\n".join(parts)


def introduction(name: str, measured: Rows, about: str) -> str:
    machines = {describe(found["machine"]) for found in measured.values()}
    prefixes = {tuple(found["prefixes"]) for found in measured.values()}
    fingerprints = {found["key"][0][:16] for found in measured.values()}
    more = f" The model: {about.rstrip('.')}." if about else ""
    used = "; ".join(f"queries {query!r}, documents {document!r}" for query, document in sorted(prefixes))
    return "\n".join(
        [
            "# Results",
            "",
            f"`{name}`, untuned, on the available benchmarks. Nothing here was trained with hbdist."
            f"{more} The page is made by this command:",
            "",
            "```sh",
            "python benchmarks/results_table.py MODEL DATA",
            "```",
            "",
            "The docstring of the script lists the files that DATA may contain.",
            f"Model fingerprint (first digits; computed from files and settings): {', '.join(sorted(fingerprints)) or 'none'}."
            f" Prefixes: {used or 'none'}.",
            *(f"Measured {machine}." for machine in sorted(machines)),
            "",
            "In all tables, ↑ means that higher is better and ↓ that lower is better; a dash means that the task or measure"
            " has no such number.",
            "",
        ]
    )


def describe(machine: Mapping[str, Any]) -> str:
    versions = {name: machine["versions"].get(name) for name in ("hbdist", "torch", "transformers")}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine['date']} on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {named}"


def section(title: str, text: str, body: str) -> list[str]:
    """Return the section's Markdown; empty if it has no body."""
    return [f"## {title}\n", *([f"{text}\n"] if text else []), f"{body}\n"] if body else []


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *lines))


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def retrieval(scores: Rows) -> str:
    head = ["", "questions", "candidates", *(f"{one.replace('_', '-')} mAP" for one in SETTINGS)]
    head += ["mono R@1", "cross R@1", "multi R@10", "mono nDCG@10", "cross nDCG@10", "multi nDCG@10"]
    rest = [(setting, metric) for metric in ("recall", "ndcg@10") for setting in SETTINGS]

    def cell(one: Mapping[str, Any], setting: str, metric: str) -> str:
        metric = {"recall": "recall@10" if setting == "multilingual" else "recall@1"}.get(metric, metric)
        return number((one.get(setting) or {}).get(metric))

    lines = []
    for row, one in scores.items():
        counts = [f"{one['counts'][name]:,}" for name in ("queries", "candidates")]
        lines.append(
            [
                NAMES[row],
                *counts,
                *(cell(one, setting, "map") for setting in SETTINGS),
                *(cell(one, *of) for of in rest),
            ]
        )
        bounds = [one["confidence"].get(setting, {}).get("map") for setting in SETTINGS]
        lines.append(
            ["↳ 95 %", "", "", *("–".join(map(number, of)) if of else "–" for of in bounds), *[""] * len(rest)]
        )
        for name, title in BASELINES.items() if one.get("removal") else ():
            changed = one["removal"][name]
            cells = [cell(changed, setting, "map") for setting in SETTINGS]
            lines.append([f"↳ {title}", "", "", *cells, *(cell(changed, *of) for of in rest)])
    return table(head, lines)


def bias(scores: Rows) -> str:
    lines = []
    for row, one in scores.items():
        if not one.get("bias"):
            continue
        perfect, chance = (one["bias"][f"rank_distance_{name}"] for name in ("perfect", "random"))
        title = f"{NAMES[row]} ({perfect:,.1f} is perfect, {chance:,.0f} random)"
        sides = {title: one["bias"]} | {
            f"↳ {text}": one["removal"][name]["bias"] for name, text in BASELINES.items() if one.get("removal")
        }
        for text, values in sides.items():
            lines.append([text, *(number(values.get(name), digits) for name, (_, digits) in BIAS.items())])
    return table(["", *(title for title, _ in BIAS.values())], lines)


def one_answer(one: Mapping[str, Any] | None) -> str:
    if not one or not one.get("bias"):
        return ""
    found = one["bias"]["one_answer_map"]
    languages = sorted({pair.split("-")[0] for pair in found})
    return table(
        ["question ↓ answer →", *languages],
        [[x, *(number(found.get(f"{x}-{y}"), 2) for y in languages)] for x in languages],
    )


def by_language(one: Mapping[str, Any] | None) -> str:
    if not one:
        return ""
    lines = []
    for language, values in one["by_language"].items():
        pairs = {tuple(pair.split("-")): found["map"] for pair, found in one["by_pair"].items()}
        asked = [value for (x, y), value in pairs.items() if x == language != y]
        answered = [value for (x, y), value in pairs.items() if y == language != x]
        cells = [pairs.get((language, language)), *(float(np.mean(of)) if of else None for of in (asked, answered))]
        share = number(values.get("same_language_share@10"))
        distance = number(values.get("rank_distance"), 0)
        lines.append([language, *map(number, cells), number(values["map"]), distance, share])
    head = ["", "monolingual", "cross-lingual, asks", "cross-lingual, answers", "multilingual"]
    return table([*head, "rank distance ↓", "same-language share@10"], lines)


def monolingual(one: Mapping[str, Any] | None) -> str:
    pairs = one["by_pair"] if one else {}
    metrics = ("map", "recall@1", "recall@10", "ndcg@10")
    lines = [[pair.split("-")[0], *(number(values[name]) for name in metrics)] for pair, values in pairs.items()]
    return table(["", "mAP", "R@1", "R@10", "nDCG@10"], lines)


def alignment(measured: Rows) -> str:
    found: dict[str, dict[str, Any]] = {}
    items: dict[str, str] = {}
    for row in ("xquad-r", "mlqa-r"):
        if row in measured and (values := measured[row]["scores"].get("alignment")):
            found[f"{NAMES[row].split(',')[0]} questions"] = {**values, **values.get("consistency", {})}
    if "flores" in measured:
        found[f"FLORES-200, {measured['flores']['languages']} languages"] = measured["flores"]["alignment"]
    items |= {title: f"{values['items']:,}" for title, values in found.items()}
    if "tatoeba" in measured:
        languages = measured["tatoeba"]["by_language"]
        for which in (tuple(languages), tuple(name for name in XTREME if name in languages)):
            if which:
                title = f"Tatoeba, {len(which)} languages{' (XTREME’s)' * (len(which) < len(languages))}"
                sizes = [languages[one]["items"] for one in which]
                items[title] = f"{min(sizes):,} to {max(sizes):,}"
                found[title] = {name: float(np.mean([languages[one][name] for one in which])) for name in PAIR}
    lines = [[title, items[title], *(number(values.get(name)) for name in PAIR)] for title, values in found.items()]
    space = [(title, values) for title, values in found.items() if "uniformity" in values]
    more = [[title, *(number(values.get(name)) for name in SPACE)] for title, values in space]
    tables = table(["", "texts per language", *PAIR.values()], lines), table(["", *SPACE.values()], more)
    return "\n\n".join(one for one in tables if one)


def english(measured: Rows) -> str:
    lists = {}
    if "flores" in measured:
        pairs = {tuple(pair.split("-")): values for pair, values in measured["flores"]["alignment"]["by_pair"].items()}
        name = next((one for pair in pairs for one in pair if one in ("en", "eng", "eng_Latn")), None)
        lists["FLORES-200"] = {x if y == name else y: values for (x, y), values in pairs.items() if name in (x, y)}
    if "tatoeba" in measured:
        lists["Tatoeba"] = measured["tatoeba"]["by_language"]
    return "\n\n".join(f"**{title}**: {_listed(found)}" for title, found in lists.items() if found)


def _listed(found: Mapping[str, Mapping[str, float]]) -> str:
    order = sorted(found, key=lambda name: -found[name]["bitext_accuracy"])
    plain, margin = "bitext_accuracy", "bitext_accuracy_margin"
    return (
        ", ".join(f"{name} {number(found[name][plain], 2)} / {number(found[name][margin], 2)}" for name in order) + "."
    )


def costs(measured: Rows) -> str:
    lines = []
    for row, found in measured.items():
        scores = found.get("scores")
        texts = sum(scores["counts"].values()) if scores else found["texts"]
        parts = [number((scores or {}).get("seconds", {}).get(name), 0) for name in ("encode", "score")]
        cells = [f"{texts:,}", number(found["seconds"], 0), *parts, number(found["peak_bytes"] / 1e9, 1)]
        lines.append([NAMES[row], *cells])
    return table(["", "texts", "seconds", "encoding", "scoring", "memory, GB"], lines)


def notes(scores: Rows, rows: Rows) -> str:
    lines = [f"- {NAMES[row]}: {one['note']}." for row, one in scores.items() if one.get("note")]
    lines += [
        f"- {NAMES[row]}: {count:,} questions left out: {reason}."
        for row, one in scores.items()
        for reason, count in one.get("left_out", {}).items()
    ]
    if not any(one.get("cut") for one in scores.values()):
        lines.append("- No task was restricted.")
    lines += [f"- {NAMES[row]} is not here: {found['reason']}." for row, found in rows.items() if "reason" in found]
    lines.append(
        "- MIRACL and WikiHop are not on this page; `hbdist evaluate --task` measures them if you have their data"
        " ([evaluation.md](evaluation.md))."
    )
    return "\n".join(lines)
