"""Models by their names on the Hugging Face hub: one look settles whether a model exists and whether the hub can be reached.

Without it, every file of a mistyped folder is asked for again and again: six minutes on a machine without a network.
"""

import difflib
import re
from functools import cache
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from hbdist.errors import DataError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
"""Form of a name on the hub: MODEL or OWNER/MODEL."""
LOOK_S = 10.0
"""Seconds that the hub may take to answer."""
CONFIG_FILES = ("config.json", "modules.json", "tokenizer_config.json")
"""Files that a model in the cache of transformers has at least one of."""


@cache
def look_up(name: str) -> bool:
    """Return whether a model must be read from this machine's cache alone, because the hub has no answer.

    Raises:
        DataError: there is no such model, or the hub cannot be reached and the model is not in the cache.
    """
    if not NAME.fullmatch(name):
        raise cannot_load(name, f"there is no such folder.{_nearest_folder(name)}")
    in_cache = any(isinstance(try_to_load_from_cache(name, file), str) for file in CONFIG_FILES)
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_FILES[0]), timeout=LOOK_S)
    except GatedRepoError:
        return False  # loading the model says where access is granted
    except RepositoryNotFoundError:
        if in_cache:
            return True
        fault = "there is no such folder here, and no such public model on the Hugging Face hub."
    except HfHubHTTPError:
        return False  # the hub has answered: the file does not exist, or it is busy
    except Exception as error:  # those of httpx or of requests: that depends on the version of huggingface_hub
        if in_cache:
            return True
        reason = type(error).__name__
        fault = f"there is no such folder here, it is not in this machine's cache, and the hub cannot be reached ({reason})."
    else:
        return False
    raise cannot_load(name, f"{fault}{_nearest_folder(name)}")


def cannot_load(name: str, fault: str) -> DataError:
    """Return the error for a model that cannot be loaded, with what a model is; `fault` is a sentence."""
    return DataError(
        f"model.name = {name!r} cannot be loaded: {fault} Give the name of a model on the Hugging Face hub, or the path of"
        " a folder that holds config.json, weights and a tokenizer."
    )


def _nearest_folder(name: str) -> str:
    """Return a sentence that names the folder beside this path whose name is most like it, if there is one."""
    path = Path(name)
    if not path.parent.is_dir() or path.parent == path:
        return ""
    folders = [one.name for one in path.parent.iterdir() if one.is_dir() and not one.name.startswith(".")]
    close = difflib.get_close_matches(path.name, folders, n=1)
    return f" Did you mean {path.parent / close[0]}?" if close else ""
