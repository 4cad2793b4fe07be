"""The class of the whole module: this folder is on the path of the processes of torch, and of no other."""

import torch


class Block(torch.nn.Module):
    """Four tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Linear(4, 4)
        self.mlp = torch.nn.Linear(4, 4)


class WholeModel(torch.nn.Module):
    """Four tensors a layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Block() for _ in range(layers))
