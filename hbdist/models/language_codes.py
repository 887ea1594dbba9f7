"""Language codes of hbdist, FLORES-200 and M2M100."""

from pathlib import Path

from hbdist.utils.json_toml import read_toml

_TABLES = read_toml(Path(__file__).with_suffix(".toml"))
FLORES: dict[str, str] = _TABLES["flores"]
"""hbdist code → code of FLORES-200 and NLLB-200."""
M2M100: dict[str, str] = _TABLES["m2m100"]
"""hbdist code → M2M100 code, where they differ."""


def flores_code(language: str) -> str:
    """Return the FLORES-200 code of an hbdist language code, or the code itself if FLORES-200 has none."""
    return FLORES.get(language, language)
