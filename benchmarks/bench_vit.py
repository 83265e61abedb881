"""SimpleViT with window attention: against global attention, and against window partition in each block.

    python benchmarks/bench_vit.py [--json FILE]

SimpleViT keeps its tokens in window order. "Cut and join" keeps them in raster order, so that each window block
partitions and unpartitions. "Textbook" does so too, and computes softmax(q k^T) v step by step, as students do. Forward
and backward, batch 64, 128 px: 8 x 8 tokens of width 192, windows of 4 x 4 in two of four blocks. "Attention without
linear layers" is a block's window partition, scores, softmax, weighted sum and unpartition.
"""

import argparse
from collections.abc import Callable

import measure
import torch
from torch import nn

from custom_blocks import window_partition
from libs import hardware
from student_code import Attention, SimpleViT, TransformerBlock

WIDTH, TOKENS, WINDOW = 192, 8, 4


class RasterOrder(SimpleViT):
    """Keeps its tokens in raster order, so that each window block partitions and unpartitions."""

    def _in_window_order(self, x: torch.Tensor) -> torch.Tensor:
        return x


class TextbookAttention(Attention):
    """Equations (2) and (3) of CS 771 Homework 2, step by step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        qkv = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, H, W, C))


class RepeatThrice(nn.Module):
    """Replaces `qkv`: its input three times, without a linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, 1, 1, 3)


def passes(run: Callable, inputs: torch.Tensor, args: argparse.Namespace, bf16: bool) -> Callable[[], None]:
    def both() -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=bf16):
            run(inputs).float().square().mean().backward()

    return both


def compare(args: argparse.Namespace, bf16: bool) -> dict:
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, 128, 128, device=args.device)
    nets = {"windows": SimpleViT(), "all global": SimpleViT(window_block_indexes=()), "cut and join": RasterOrder()}
    calls = {f"network, {name}": passes(net.to(args.device), images, args, bf16) for name, net in nets.items()}

    tokens = torch.randn(args.batch, TOKENS, TOKENS, WIDTH, device=args.device)
    in_order = window_partition(tokens, WINDOW)[0].view(args.batch, -1, WINDOW, WIDTH)
    for part, strip in (("block's attention", False), ("attention without linear layers", True)):
        for name, x in (("windows", in_order), ("cut and join", tokens), ("textbook", tokens)):
            block = TransformerBlock(WIDTH, 4, window_size=WINDOW)
            if name == "textbook":
                block.attn = TextbookAttention(WIDTH, 4)
            if strip:
                block.attn.qkv, block.attn.proj = RepeatThrice(), nn.Identity()
            block.to(args.device)
            if bf16 and strip:  # as the linear layer would output
                x = x.bfloat16()
            calls[f"{part}, {name}"] = passes(block.attend, x.clone().requires_grad_(True), args, bf16)

    times = measure.interleaved(calls, args.rounds, args.device)
    print(f"\n{'bf16' if bf16 else 'fp32'}: ms, median (range)")
    for name, seconds in times.items():
        print(f"  {name:48}{measure.spread(seconds)}")
    figures = {"time_ratio": measure.ratio(times, "network, windows", "network, all global"),
               "network_ratio": measure.ratio(times, "network, windows", "network, cut and join"), "seconds": times}
    print(f"  network: windows / all global {figures['time_ratio']:.2f}, / cut and join {figures['network_ratio']:.2f}")
    for key, part in (("attend", "block's attention"), ("attention", "attention without linear layers")):
        for other in ("cut and join", "textbook"):
            ratio = measure.ratio(times, f"{part}, windows", f"{part}, {other}")
            figures[f"{key}_ratio" if other == "cut and join" else f"{key}_textbook_ratio"] = ratio
            print(f"  {part}: windows / {other} {ratio:.2f}")
    return figures


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    args = parser.parse_args()
    hardware.keep_memory()
    found = {"fp32": compare(args, False), "bf16": compare(args, True)}
    measure.save(args, {**found["fp32"], "bf16": found["bf16"]})


if __name__ == "__main__":
    main()
