"""Where oneDNN's matrix products are faster than BLAS's on this CPU: what fl/engines/stacked/products.py chooses by.

python3 -m benchmarks.products
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from fl.engines.stacked.products import LARGE, by_onednn

SHAPES = [(10, 200, 200), (10, 784, 200), (60, 784, 200), (120, 784, 200), (10, 3136, 512), (100, 1152, 256)]


def microseconds(work: Callable[[], object], repeat: int = 200) -> float:
    seconds = []
    for _ in range(repeat + 20):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds[20:]) * 1e6


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"one thread, medians of 200, microseconds; oneDNN is taken from {LARGE} weights a client on")
    print("rows     in   out  |  x W^T: BLAS  oneDNN  |  g W: BLAS  oneDNN  |  W += g^T x: BLAS  oneDNN")
    for B, i, o in SHAPES:
        x, W, g = torch.randn(B, i), torch.randn(o, i), torch.randn(B, o)
        figures = [
            microseconds(lambda x=x, W=W: x @ W.t()),
            microseconds(lambda x=x, W=W: by_onednn(x, W)),
            microseconds(lambda g=g, W=W: g @ W),
            microseconds(lambda g=g, W=W: by_onednn(g, W.t())),
            microseconds(lambda g=g, x=x, W=W: W.addmm_(g.t(), x, alpha=-1e-9)),
            microseconds(lambda g=g, x=x, W=W: W.add_(by_onednn((g * -1e-9).t(), x.t()))),
        ]
        print(
            "{:4d}  {:5d}  {:4d}  |  {:11.0f}  {:6.0f}  |  {:9.0f}  {:6.0f}  |  {:16.0f}  {:6.0f}".format(
                B, i, o, *figures
            )
        )


if __name__ == "__main__":
    main()
