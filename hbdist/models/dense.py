"""The dense layers that follow the pooling of some models, such as LaBSE, read from their sentence-transformers folders.

B texts · D and E dimensions, before and after a layer
"""

import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hbdist.errors import ConfigError, DataError
from hbdist.models.pretrained import find_file, read_model_json, read_modules

ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "Identity": nn.Identity}
_UNREADABLE = (
    *(OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError),
)
"""Errors of libraries that read a layer whose files are damaged."""
EMBEDDING = "sentence_embedding"
"""Name of a text's embedding in sentence-transformers."""


class Dense(nn.Module):
    """Dense layer of sentence-transformers: activation(W x + b), from D to E `dimensions`, with a key of ACTIVATIONS."""

    def __init__(self, dimensions: tuple[int, int], *, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(*dimensions, bias=bias)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return the embeddings after the layer: [B, E]."""
        return cast(Tensor, self.activation(self.linear(embedding_BD)))

    @property
    def config(self) -> dict[str, Any]:
        """The layer's config.json, as sentence-transformers writes it."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{type(self.activation).__module__}.{type(self.activation).__name__}",
        }

    @classmethod
    def load(cls, name: str, path: str) -> "Dense":
        """Load the layer in the folder `path` of the model `name`.

        Raises:
            ConfigError: the layer has a setting that is not supported.
            DataError: its files are missing or damaged.
        """
        config = read_model_json(name, f"{path}/config.json")
        if config is None:
            raise _damaged(name, path, "it has no config.json")
        if not isinstance(config, dict):
            raise _damaged(name, path, "its config.json does not contain an object")
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).split(".")[-1]
        for key, value, supported in (
            ("activation_function", activation, tuple(ACTIVATIONS)),
            ("module_input_name", config.get("module_input_name", EMBEDDING), (EMBEDDING,)),
            ("module_output_name", config.get("module_output_name") or EMBEDDING, (EMBEDDING,)),
            ("use_residual", config.get("use_residual", False), (False,)),
        ):
            if value not in supported:
                raise ConfigError(
                    f"{name} has a dense layer ({path}) with {key} = {value!r}, which is not supported. Expected"
                    f" {' or '.join(map(str, supported))}: use another model."
                )
        try:
            layer = cls(
                (config["in_features"], config["out_features"]), bias=config.get("bias", True), activation=activation
            )
            layer.load_state_dict(_read_weights(name, path))
        except _UNREADABLE as error:
            raise _damaged(name, path, " ".join(str(error).split()).rstrip(".")) from None
        return layer


class Head(nn.Sequential):
    """Dense layers that follow the pooling. Most models have none, and their head changes nothing."""

    @property
    def layers(self) -> list[Dense]:
        """The layers, with their type."""
        return [layer for layer in self if isinstance(layer, Dense)]

    @classmethod
    def load(cls, name: str, width: int) -> "Head":
        """Load the dense layers of a model by its name on the hub or its folder; the pooled embeddings have `width` D.

        Raises:
            ConfigError: the model has a module that is not supported.
            DataError: the files of a layer are missing or damaged, or its input width is not what precedes it.
        """
        head = cls()
        for path in (path for kind, path in read_modules(name) if kind == "Dense"):
            layer = Dense.load(name, path)
            if layer.linear.in_features != width:
                raise _damaged(name, path, f"it takes {layer.linear.in_features} dimensions but receives {width}")
            head.append(layer)
            width = layer.linear.out_features
        return head


def _read_weights(name: str, path: str) -> Mapping[str, Tensor]:
    read_pickle = partial(torch.load, map_location="cpu", weights_only=True)
    for file, read in (("model.safetensors", load_file), ("pytorch_model.bin", read_pickle)):
        if weights := find_file(name, f"{path}/{file}"):
            return dict(read(weights))
    raise OSError("it has neither model.safetensors nor pytorch_model.bin")


def _damaged(name: str, path: str, fault: str) -> DataError:
    return DataError(f"{name}: its dense layer {path} cannot be loaded: {fault}. Copy or download the model again.")
