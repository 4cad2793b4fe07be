"""Write the files that the pages open: `python sample_files.py` in an empty folder. Needs torch and safetensors."""

import argparse

import numpy as np
import torch
from safetensors.numpy import save_file

import fastload

model = {
    f"encoder.layers.{layer}.{name}": np.full(shape, layer, np.float32)
    for layer in (0, 2)  # layer 1 was pruned
    for name, shape in {"weight": (4, 4), "bias": (4,)}.items()
}
model["head.weight"] = np.arange(8, dtype=np.float16).reshape(2, 4)
save_file(model, "model.safetensors", metadata={"licence": "CC0-1.0"})
save_file({**model, "head.weight": model["head.weight"] + 1}, "finetuned.safetensors")
fastload.split("model.safetensors", "shards", max_shard_bytes=100)

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
torch.save(net, "whole.pt")
torch.save({"epoch": 3, "args": argparse.Namespace(lr=0.1, layers=[64, 64]), "model": net.state_dict()}, "training.pt")
