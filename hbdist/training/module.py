"""Trained module: the encoder in its precision, and the temperature if it is learned.

Both are outputs of one forward pass, so that the wrapper (DDP, DeepSpeed) sees the use of every parameter.
"""

import math

import torch
from torch import Tensor, nn

from hbdist.config.config import Config


class TrainingModule(nn.Module):
    """Module from token ids to text vectors and τ.

    B texts of one forward pass · L tokens, padded · D dimensions
    """

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.bf16 = config.engine.bf16
        # A vector, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        log_temperature = torch.tensor([math.log(config.loss.temperature)])
        self.log_temperature = nn.Parameter(log_temperature) if config.loss.learn_temperature else None
        self.temperature = config.loss.temperature

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return unit vectors [B, D], in bfloat16 if that is the precision, and τ, a scalar tensor if it is learned."""
        with torch.autocast(input_ids_BL.device.type, torch.bfloat16, enabled=self.bf16):
            vector_BD = self.encoder(input_ids_BL, attention_mask_BL)
        tau = self.temperature if self.log_temperature is None else self.log_temperature.exp().squeeze(0)
        return vector_BD.to(torch.bfloat16) if self.bf16 else vector_BD, tau
