"""Trains the last five blocks of `cats-and-dogs-large` and its last layer: see `large_model.py`.

    python benchmarks/large_model_tune.py WORK MINUTES SEED

It only needs PyTorch, NumPy and one core. Layers have the names of the published weights. The learning
rates fall to 0 along a cosine over the given minutes. The running average of the weights is written.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH = 32
VIEWS = ("plain", "changed", "changed-again")
BLOCKS = {  # number: kernel, stride, channels in and out
    11: (5, 2, 112, 192),
    12: (5, 1, 192, 192),
    13: (5, 1, 192, 192),
    14: (5, 1, 192, 192),
    15: (3, 1, 192, 320),
}
RATE, HEAD_RATE, WEIGHT_DECAY, SMOOTHING, AVERAGE = 3e-4, 2e-3, 0.02, 0.02, 0.99
HEAD_STEPS, WARMUP_STEPS = 25, 100  # of the last layer alone; until the others' rate is full


class Convolution(nn.Conv2d):
    """Padded as TensorFlow pads: what is odd goes to the right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, stride = self.kernel_size[0], self.stride[0]
        missing = max((-(-x.shape[2] // stride) - 1) * stride + side - x.shape[2], 0)
        before, after = missing // 2, missing - missing // 2
        if before != after:
            x, before = functional.pad(x, (before, after, before, after)), 0
        return functional.conv2d(x, self.weight, None, self.stride, before, 1, self.groups)


class Block(nn.Module):
    """Expand, look, project, and add what came in where the shapes agree."""

    def __init__(self, side: int, stride: int, into: int, out: int) -> None:
        super().__init__()
        wide = 6 * into
        self.adds = stride == 1 and into == out
        self._expand_conv = Convolution(into, wide, 1, bias=False)
        self._depthwise_conv = Convolution(wide, wide, side, stride, groups=wide, bias=False)
        self._project_conv = Convolution(wide, out, 1, bias=False)
        self._bn0, self._bn1, self._bn2 = _norm(wide), _norm(wide), _norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x)))
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.adds else y


class Tail(nn.Module):
    """From the input of block 11, float32 (n, 112, 14, 14), to the logit of a dog (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks = nn.ModuleDict({str(n): Block(*shape) for n, shape in BLOCKS.items()})
        self._conv_head = Convolution(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self.scores = nn.Linear(1280, 1)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self._blocks.values():
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return self.scores(functional.dropout(x, 0.2, self.training))[:, 0]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _as_input(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float32)).permute(0, 3, 1, 2)


def _alter(pixels: np.ndarray, random: np.random.Generator) -> None:
    """Half of the batch mirrored, and a square of a third of it blanked, in place."""
    for picture in pixels:
        if random.random() < 0.5:
            picture[:] = picture[:, ::-1].copy()
        if random.random() < 0.3:
            top, left = random.integers(0, 10, 2)
            picture[top : top + 5, left : left + 5] = 0


def _validate(model: Tail, work: Path) -> None:
    """Say how many of the validation part are right."""
    model.eval()
    features = np.load(work / "validation-plain.npy", mmap_mode="r")
    with torch.no_grad():
        batches = [model(_as_input(features[n : n + 64])) for n in range(0, len(features), 64)]
    logits = torch.cat(batches).numpy()
    right = (logits > 0) == (np.load(work / "validation-dogs.npy") > 0.5)
    print(f"validation: {np.mean(right):.2%} right", flush=True)


def main(work_folder: str, minutes: str, seed: str) -> None:
    """Train, then write the average weights to `tuned-SEED.npz`."""
    work, seconds = Path(work_folder), 60 * float(minutes)
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    random = np.random.default_rng(int(seed))
    model = Tail()
    published = {name: torch.from_numpy(w) for name, w in np.load(work / "weights.npz").items()}
    found = model.load_state_dict(published, strict=False)
    assert all(name.startswith("scores") or "num_b" in name for name in found.missing_keys)
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    views = [np.load(work / f"train-{view}.npy", mmap_mode="r") for view in VIEWS]
    dogs = np.load(work / "train-dogs.npy")
    head = list(model.scores.parameters())
    body = [each for name, each in model.named_parameters() if not name.startswith("scores")]
    optimizer = torch.optim.AdamW([{"params": body}, {"params": head}], weight_decay=WEIGHT_DECAY)
    started, step, right, order = time.monotonic(), 0, [], np.empty(0, int)
    while (passed := (time.monotonic() - started) / seconds) < 1:
        if len(order) < BATCH:
            order = random.permutation(len(dogs))
        chosen, order = np.sort(order[:BATCH]), order[BATCH:]
        pixels = views[random.integers(len(views))][chosen].astype(np.float32)
        _alter(pixels, random)
        fall = 0.5 * (1 + math.cos(math.pi * passed))
        warm = min(1.0, max(0, step - HEAD_STEPS) / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = RATE * fall * warm
        optimizer.param_groups[1]["lr"] = HEAD_RATE * fall
        for parameter in body:
            parameter.requires_grad = step >= HEAD_STEPS
        model.train()
        logits, wanted = model(_as_input(pixels)), torch.from_numpy(dogs[chosen])
        soft = wanted * (1 - 2 * SMOOTHING) + SMOOTHING
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, soft).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
            for mean, now in pairs:
                mean.copy_(mean * decay + now * (1 - decay) if mean.is_floating_point() else now)
        right.append(((logits > 0) == (wanted > 0.5)).float().mean().item())
        if step % 100 == 0:
            share = np.mean(right[-100:])
            print(f"{passed:4.0%}  step {step:,}: {share:.1%} right", flush=True)
    _validate(average, work)
    weights = {name: w.numpy() for name, w in average.state_dict().items()}
    np.savez(work / f"tuned-{seed}.npz", **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
