"""Draw docs/ls.svg: what `fastload ls --collapse` prints in a terminal, of a file with the tensors of an 8B Llama.

python docs/picture.py

The file is sparse, so that its 15 GiB take no room. Needs rich, and a system with pseudo-terminals.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = "fastload ls --collapse model.safetensors"
WIDTH = 102
HIDDEN, INNER, HEADS, WORDS, LAYERS = 4096, 14336, 1024, 128256, 32
LAYER = {
    "input_layernorm": (HIDDEN,),
    "mlp.down_proj": (HIDDEN, INNER),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "post_attention_layernorm": (HIDDEN,),
    "self_attn.k_proj": (HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HEADS, HIDDEN),
}


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder, "model.safetensors"))
        printed = run(folder)
    console = Console(file=io.StringIO(), record=True, width=WIDTH)
    console.print(Text(f"$ {COMMAND}"))
    console.print(Text.from_ansi(printed))
    svg = console.export_svg(title="", unique_id="ls")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts of the network: the viewer's own will do
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    Path(__file__).with_name("ls.svg").write_text(f"{svg}\n", encoding="utf-8")


def write_model(path: Path) -> None:
    """Write a safetensors file whose data is a hole."""
    shapes = {"model.embed_tokens.weight": (WORDS, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (WORDS, HIDDEN)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def run(folder: str) -> str:
    """What the command prints in a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", *COMMAND.split()]
    process = subprocess.Popen(command, cwd=folder, stdout=theirs, env=environment)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    if process.wait():
        raise SystemExit(f"{COMMAND} failed")
    return b"".join(parts).decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
