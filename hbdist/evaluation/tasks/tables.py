"""Tables of the tasks: counts per language, language codes, templates. `tables.toml` has their legends."""

import tomllib
from pathlib import Path
from typing import Any

TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
