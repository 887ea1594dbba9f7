"""The code of the libraries that hbdist is compared with; modules of packages with heavy dependencies are loaded one by one.

None of their code is copied here. A library that is not installed is listed in the results with the reason.
"""

import importlib
import importlib.metadata
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parent / ".cache" / "peers"
"""Folder in which `peers.txt` is installed; it is last on the path, so that it hides none of the project's packages."""
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))


class PeerError(Exception):
    """Failure to load another library; the message names it and gives the reason."""


def version_of(distribution: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def open_clip_loss() -> Any:
    """Return OpenCLIP's ClipLoss."""
    return _alone("open-clip-torch", "open_clip.loss", {}).ClipLoss


def sentence_transformers_losses() -> Any:
    """Return the module of sentence-transformers' losses for bi-encoders."""
    return _load("sentence-transformers", "sentence_transformers.sentence_transformer.losses")


def information_retrieval_evaluator() -> tuple[Any, Any]:
    """Return sentence-transformers' InformationRetrievalEvaluator, and dot_score, its fastest score for unit vectors."""
    module = _load("sentence-transformers", "sentence_transformers.sentence_transformer.evaluation")
    return module.InformationRetrievalEvaluator, dot_score()


def sentence_transformer(folder: Path) -> Any:
    """Load a model's folder, which may be packed, in sentence-transformers."""
    from hbdist.models.quantized import unpack

    return _load("sentence-transformers", "sentence_transformers").SentenceTransformer(
        str(unpack(folder)), device="cpu", local_files_only=True
    )


def mteb() -> Any:
    """Return mteb, whose retrieval tasks search and are scored by pytrec_eval."""
    return _load("mteb", "mteb")


def dot_score() -> Any:
    """Return sentence-transformers' dot product without normalization, its fastest score for unit vectors."""
    return _load("sentence-transformers", "sentence_transformers.util").dot_score


def grad_cache() -> tuple[Any, Any]:
    """Return GradCache and its DistributedContrastiveLoss."""
    loss = _load("gradcache", "gradcache.loss").DistributedContrastiveLoss
    # The release imports itself under a name that it does not install.
    sys.modules.setdefault("grad_cache", sys.modules["gradcache"])
    sys.modules.setdefault("grad_cache.context_managers", _load("gradcache", "gradcache.context_managers"))
    return _load("gradcache", "gradcache.grad_cache").GradCache, loss


def flag_embedding_model() -> Any:
    """Return FlagEmbedding's bi-encoder, whose forward pass in training computes its loss."""
    base = _alone("flagembedding", "FlagEmbedding.abc.finetune.embedder.AbsModeling", {})
    package = "FlagEmbedding.abc.finetune.embedder"
    name = "FlagEmbedding.finetune.embedder.encoder_only.base.modeling"
    return _alone(
        "flagembedding", name, {package: {"AbsEmbedderModel": base.AbsEmbedderModel}}
    ).BiEncoderOnlyEmbedderModel


def pylate_loss() -> Any:
    """Return PyLate's Contrastive."""
    scores = _alone("pylate", "pylate.scores.colbert", {"pylate.utils": {}})
    ranks = _alone("pylate", "pylate.utils.distributed", {})
    beside = {
        "pylate.models": {"ColBERT": _NoSkippedTokens},
        "pylate.scores": {"ColBERTScores": scores.ColBERTScores},
        "pylate.utils": {
            name: getattr(ranks, name)
            for name in ("all_gather", "all_gather_with_gradients", "get_rank", "get_world_size")
        },
    }
    return _alone("pylate", "pylate.losses.contrastive", beside).Contrastive


def inf_cl_loss() -> Any:
    """Return Inf-CL's kernel for one GPU, which computes the loss of each row."""
    return _load("inf-cl", "inf_cl").cal_flash_loss


class _NoSkippedTokens:
    """The only part of ColBERT that the loss uses: the mask of tokens that are not skipped, here all."""

    @staticmethod
    def skiplist_mask(input_ids: Any, skiplist: list[int]) -> Any:
        return input_ids == input_ids


def _load(distribution: str, module: str) -> Any:
    _require(distribution)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise PeerError(f"{distribution}: {type(error).__name__}: {error}") from error


def _alone(distribution: str, module: str, beside: dict[str, dict[str, Any]]) -> Any:
    """Import one module of a package, without the __init__.py of any package above it.

    Args:
        beside: other packages that it imports, with the names that it takes from their __init__.py.
    """
    _require(distribution)
    parts = module.split(".")
    spec = PathFinder.find_spec(parts[0])
    if spec is None or spec.origin is None:
        raise PeerError(f"{distribution} is installed and has no package {parts[0]}")
    above = [".".join(parts[:end]) for end in range(1, len(parts))]
    for name in (*above, *beside):
        if name not in sys.modules:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(Path(spec.origin).parent.joinpath(*name.split(".")[1:]))]
        vars(sys.modules[name]).update(beside.get(name, {}))
    return _load(distribution, module)


def _require(distribution: str) -> None:
    if version_of(distribution) is None:
        raise PeerError(f"{distribution} is not installed; benchmarks/peers.txt says how")


LOADERS = {
    "sentence-transformers": sentence_transformers_losses,
    "open-clip-torch": open_clip_loss,
    "gradcache": grad_cache,
    "flagembedding": flag_embedding_model,
    "pylate": pylate_loss,
    "inf-cl": inf_cl_loss,
    "mteb": mteb,
}
"""Name of a distribution → function that loads the library."""

if __name__ == "__main__":
    for name, load in LOADERS.items():
        try:
            load()
            print(f"{name} {version_of(name)}")
        except PeerError as error:
            print(f"{name} cannot be used: {error}")
