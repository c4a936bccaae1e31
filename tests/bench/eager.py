"""The same language model and training in straightforward eager PyTorch, as a worker with PyTorch's default threads.

The architecture, names and layouts of the checkpointed parameters are those of workloads.language_model; weights are
transposed, because nn.Linear keeps (fan_out, fan_in). Seen: fused AdamW or norms by hand change its time by at most 4%.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.bench.measure import Timer
from tests.bench.worker import serve

_ROPE_BASE = 10_000.0
_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    width: int
    depth: int
    heads: int
    context: int
    vocab: int
    batch: int


@dataclass(frozen=True)
class Training:
    """AdamW with linear warmup (in steps) and cosine decay to zero at the horizon (in steps)."""

    learning_rate: float
    weight_decay: float
    b1: float
    b2: float
    eps: float
    warmup: float
    horizon: float

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * min(1.0, (step + 1) / self.warmup)
        progress = min(1.0, (step - self.warmup) / max(1.0, self.horizon - self.warmup))
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


class Block(nn.Module):
    """Pre-norm attention with rotary positions, then a GELU MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(shape.width, eps=_NORM_EPS)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attention_out = nn.Linear(shape.width, shape.width, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.width, eps=_NORM_EPS)
        self.mlp_in = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.mlp_out = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(B, T, W) -> (B, T, W)."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))

    def attention(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        qkv = self.query_key_value(x).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = functional.scaled_dot_product_attention(
            rotate(query, cos, sin), rotate(key, cos, sin), value, is_causal=True
        )
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, time, width))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (B, H, T, K)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Model(nn.Module):
    """Decoder-only Transformer with an untied readout."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.final_norm = nn.RMSNorm(shape.width, eps=_NORM_EPS)
        self.readout = nn.Linear(shape.width, shape.vocab, bias=False)
        head_size = shape.width // shape.heads
        frequency = _ROPE_BASE ** (-torch.arange(0, head_size, 2) / head_size)
        angle = torch.arange(shape.context)[:, None] * frequency[None, :]
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.readout(self.final_norm(x))

    def load(self, params: dict[str, np.ndarray]) -> None:
        """Parameters under the harness' names ("layer_0.mlp_in")."""
        for name, target in self.named_parameters():
            parts = name.removesuffix(".weight").replace("blocks.", "layer_")
            value = torch.from_numpy(params[parts])
            linear = value.ndim == 2 and parts != "embedding"
            with torch.no_grad():
                target.copy_(value.T if linear else value)


class Run:
    """One training run from the given parameters on the given tokens."""

    def __init__(self, shape: Shape, training: Training, params: dict[str, np.ndarray], tokens: np.ndarray) -> None:
        self.shape, self.training, self.params = shape, training, params
        self.tokens = torch.from_numpy(tokens.astype(np.uint8 if shape.vocab <= 256 else np.int32))
        self.model = Model(shape)

    def restart(self) -> None:
        self.model.load(self.params)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        gains = [p for p in self.model.parameters() if p.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": self.training.weight_decay},
            {"params": gains, "weight_decay": 0.0},
        ]
        betas = (self.training.b1, self.training.b2)
        self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=self.training.eps)
        self.step = 0

    def train_step(self, batch: torch.Tensor) -> float:
        """batch: (B, T + 1) tokens. Returns the loss before the update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate(self.step)
        logits = self.model(batch[:, :-1])
        loss = functional.cross_entropy(logits.reshape(-1, self.shape.vocab), batch[:, 1:].reshape(-1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def sample(self) -> torch.Tensor:
        starts = torch.randint(0, len(self.tokens) - self.shape.context, (self.shape.batch,))
        return self.tokens[starts[:, None] + torch.arange(self.shape.context + 1)].long()

    def __call__(self, steps: int) -> float:
        """Seconds for `steps` steps."""
        self.restart()
        started = time.perf_counter()
        for _ in range(steps):
            self.train_step(self.sample())
        return time.perf_counter() - started


def matmul_rate(size: int, seconds: float) -> float:
    """FLOP/s of float32 torch.mm on all of PyTorch's threads."""
    x, w = torch.randn(size, size), torch.randn(size, size) / size**0.5

    def run(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            torch.mm(x, w)
        return time.perf_counter() - started

    return 2.0 * size**3 / Timer(run, seconds, 10_000)()


def load_run(path: Path, shape: dict[str, Any], training: dict[str, Any]) -> Run:
    with np.load(path, allow_pickle=False) as archive:
        params = {name.removeprefix("params."): archive[name] for name in archive.files if name.startswith("params.")}
        return Run(Shape(**shape), Training(**training), params, archive["tokens"])


def main() -> None:
    runs: dict[str, Run] = {}
    timers: dict[str, Timer] = {}

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """load: a run under a name. losses: train it on given batches. seconds: per step. matmul: FLOP/s."""
        match question:
            case {"load": name, "path": path, "shape": shape, "training": training, "seconds": seconds}:
                runs[name] = load_run(Path(path), shape, training)
                timers[name] = Timer(runs[name], seconds, int(training["horizon"]))
                return {"threads": torch.get_num_threads(), "torch": torch.__version__}
            case {"losses": name, "batches": batches}:
                runs[name].restart()
                return {"losses": [runs[name].train_step(torch.tensor(batch)) for batch in batches]}
            case {"time": name}:
                return {"seconds": timers[name]()}
            case {"matmul": size, "seconds": seconds}:
                return {"rate": matmul_rate(size, seconds)}
        raise ValueError(f"unknown question {question}")

    serve(answer)


if __name__ == "__main__":
    main()
