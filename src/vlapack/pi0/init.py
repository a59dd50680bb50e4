"""Values to start training from scratch with. Loading a checkpoint does not come here."""

from __future__ import annotations

import torch
from torch import nn

from vlapack.pi0.flow import Pi0
from vlapack.pi0.gemma import RMSNorm

RESIDUAL_OUTPUTS = ("o_proj", "out_proj", "down_proj", "fc2")


@torch.no_grad()
def init_weights(model: Pi0, generator: torch.Generator) -> None:
    """Draw every weight of `model` from `generator` alone.

    Linears are normal with deviation 1/√inputs, those that write into a residual stream further divided by √(2·depth)
    so that the stream's variance does not grow with depth (GPT-2's rule). Norms start as the identity. Adaptive norms
    start unconditioned with open gates (weights 0, gate bias 1), so that every layer works from the first step:
    adaLN-Zero's closed gates suit an expert that joins a trained model, and here nothing is trained yet. The action
    head starts small, so that the first loss is that of v = 0.
    """
    depth = {"vision_tower": model.config.vision.depth, "": model.config.llm.depth}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            scale = module.weight[0].numel() ** -0.5
            if name.endswith(RESIDUAL_OUTPUTS):
                scale /= (2 * depth["vision_tower" if "vision_tower" in name else ""]) ** 0.5
            module.weight.normal_(0.0, scale, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, RMSNorm):
            if module.dense is None:
                module.weight.zero_()
            else:
                module.dense.weight.zero_()
                module.dense.bias.chunk(3)[2].fill_(1.0)
    model.action_out_proj.weight.mul_(0.1)
