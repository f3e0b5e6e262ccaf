"""How much clients differ from each other, in a few numbers: for environment.json and for the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def heterogeneity(counts: Tensor) -> dict[str, Any]:
    """A partition at a glance; counts (K, classes) are how many examples of each label each client has.

    sizes, labels: least, median and most of n_k and of the labels that a client has at all. total_variation: the mean
    over clients, each counted once, of the total-variation distance of a client's shares of labels from those of all
    examples, 1/2 sum |p_k - p|. It is 0 if all have the same shares, and 1 - 1 / C if each has one of C equally
    frequent labels. Chance alone makes it larger than 0 where clients are small.
    """
    shares, whole = counts / counts.sum(1, keepdim=True), counts.sum(0) / counts.sum()
    distances = (shares - whole).abs().sum(1) / 2
    return {
        "clients": len(counts),
        "sizes": spread(counts.sum(1)),
        "labels": spread((counts > 0).sum(1)),
        "total_variation": round(float(distances.double().mean()), 4),
    }


def spread(values: Tensor) -> list[int]:
    """The least, the median and the most; of an even number of values the lower median."""
    return [int(values.min()), int(values.median()), int(values.max())]


def in_words(summary: dict[str, Any]) -> str:
    """ "8 clients, n_k 5,012 to 9,876, 7 to 10 labels, total variation 0.31"."""
    (least, _, most), (few, _, many) = summary["sizes"], summary["labels"]
    sizes = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    labels = f"{few}" if few == many else f"{few} to {many}"
    K = summary["clients"]
    parts = [
        f"{K:,} client{'s' * (K > 1)}",
        f"n_k {sizes}",
        f"{labels} label{'s' * (many > 1)}",
        f"total variation {summary['total_variation']:.2f}",
    ]
    return ", ".join(parts)
