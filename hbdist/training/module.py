"""The module that is trained: the encoder in its precision, and the temperature where it is learned.

Both are outputs of one forward pass, so that whoever wraps it (DDP, DeepSpeed) sees the use of every parameter.
"""

import math

import torch
from torch import Tensor, nn

from hbdist.config.config import Config


class TrainingModule(nn.Module):
    """Token ids → text vectors and τ.

    B texts of one forward pass · L tokens, padded · D dimensions
    """

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.bf16 = config.engine.precision == "bf16"
        # One dimension, not none: DeepSpeed cannot broadcast a number without any.
        log_temperature = torch.tensor([math.log(config.loss.temperature)])
        self.log_temperature = nn.Parameter(log_temperature) if config.loss.learn_temperature else None
        self.temperature = config.loss.temperature

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> tuple[Tensor, Tensor | float]:
        """Unit vectors [B, D], in bfloat16 where that is the precision, and τ: a tensor of one number if it is learned."""
        with torch.autocast(input_ids_BL.device.type, torch.bfloat16, enabled=self.bf16):
            vector_BD = self.encoder(input_ids_BL, attention_mask_BL)
        tau = self.temperature if self.log_temperature is None else self.log_temperature.exp().squeeze(0)
        return vector_BD.to(torch.bfloat16) if self.bf16 else vector_BD, tau
