"""The privacy accountant: epsilon by Renyi differential privacy, and the runs for which no epsilon can be stated.

Mironov 2017, "Renyi Differential Privacy", arXiv 1702.07476. The formulas are those of the package dp-accounting.
Which sets of clients are neighbours depends on --sampling, because each bound is proven for one definition only:

poisson: one client is added or removed. The sum changes by at most C, and the noise multiplier is z. Mironov, Talwar
and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", arXiv 1908.10530.
uniform: the data of one client are replaced, and K stays the same. The sum changes by at most 2 C, so the same noise
has the multiplier z / 2. Wang, Balle and Kasiviswanathan 2019, "Subsampled Renyi Differential Privacy and Analytical
Moments Accountant", arXiv 1808.00087, theorem 27.

Imports no torch, and dp-accounting only when it is needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from fl.config import DEFAULTS, Config
from fl.errors import FlagError
from fl.flags.privacy import has_noise, is_noisy
from fl.names import entry_of, is_own

NEIGHBOURS = {"poisson": "one client more or less", "uniform": "one client's data replaced by any other"}
FINEST = 1.0005  # the noise multiplier for --target_epsilon is found to within this factor
LARGEST = 1e4  # the largest noise multiplier that is tried


def epsilon(config: Config, rounds: int) -> float:
    """epsilon at --delta of the models of `rounds` rounds together; the top of the file says whom it protects."""
    return spent(
        config.sampling, clients_called(config), config.num_clients, config.noise_multiplier, rounds, config.delta
    )


def local_epsilon(config: Config) -> float:
    """epsilon at --delta of one update with --local_noise: how well it hides which update a client sends."""
    return spent("uniform", 1, 1, config.local_noise, 1, config.delta)


def clients_called(config: Config) -> int:
    """The number of clients that a round selects, --over_select included; with --sampling poisson, the expected one."""
    wanted = config.over_select * config.num_select_clients
    return min(math.ceil(wanted - 1e-9), config.num_clients)  # 1.1 times 100 is a little more than 110 in floats


def spent(sampling: str, m: int, K: int, z: float, rounds: int, delta: float) -> float:
    from dp_accounting.rdp import compute_epsilon

    if rounds == 0:
        return 0.0
    if z == 0:
        return math.inf
    orders, rdp = of_a_round(sampling, m, K, z)
    return float(compute_epsilon(orders, rounds * rdp, delta)[0])


@lru_cache(maxsize=64)
def of_a_round(sampling: str, m: int, K: int, z: float) -> tuple[Any, Any]:
    """The orders of the Renyi divergence, and the divergence of one round for each of them."""
    import dp_accounting as dp
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of orders near 1 that it leaves out
    if sampling == "poisson":
        accountant = RdpAccountant(neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
        accountant.compose(dp.PoissonSampledDpEvent(m / K, dp.GaussianDpEvent(z)))
    else:
        accountant = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
        accountant.compose(dp.SampledWithoutReplacementDpEvent(K, m, dp.GaussianDpEvent(z / 2)))
    return accountant.orders, accountant.rdp


def with_noise(config: Config) -> Config:
    """The flags with the least noise multiplier that keeps --target_epsilon to the last round, if there is a target."""
    if config.target_epsilon is None or not config.num_clients:
        return config
    T = max(config.global_epoch, 1)

    def is_enough(z: float) -> bool:
        return epsilon(replace(config, noise_multiplier=z), T) <= config.target_epsilon  # type: ignore[operator]

    enough = 1.0
    while not is_enough(enough):
        enough *= 2
        if enough > LARGEST:
            raise FlagError(f"--target_epsilon {config.target_epsilon:g}: no noise is enough; raise it or --delta")
    little = enough / 2
    while little > 1e-3 and is_enough(little):
        little, enough = little / 2, little
    while enough > FINEST * little:
        middle = math.sqrt(enough * little)
        little, enough = (little, middle) if is_enough(middle) else (middle, enough)
    config = replace(config, noise_multiplier=rounded_up(enough))
    check_private(config)
    return config


def rounded_up(z: float) -> float:
    """To five digits."""
    unit = 10.0 ** (math.floor(math.log10(z)) - 4)
    return float(f"{math.ceil(z / unit) * unit:.5g}")


def count_noise(config: Config) -> float:
    """sigma_b = m / 20, the standard deviation of the noise on the number of clients that were not clipped.

    Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping",
    arXiv 1905.03871, section 3.1.
    """
    return config.num_select_clients / 20


def noise_on_updates(config: Config) -> float:
    """z_Delta, the noise multiplier for the sum of updates. It is z without --clip_quantile, and larger with it.

    It is larger because the noisy count of clients that were not clipped spends privacy as well. Theorem 1 of Andrew et
    al. 2021: both together spend as much as z alone if z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2).
    """
    z = config.noise_multiplier
    if config.clip_quantile is None or not z:
        return z
    return float((z**-2 - (2 * count_noise(config)) ** -2) ** -0.5)


def check_private(config: Config) -> None:
    """Raise FlagError for noise for which no epsilon can be stated, or which would not hide the clients."""
    if not has_noise(config):
        return
    z, target = config.noise_multiplier, config.target_epsilon
    said = next(
        f"--{name} {value:g}"
        for name, value in (("target_epsilon", target), ("noise_multiplier", z), ("local_noise", config.local_noise))
        if value
    )
    if find_spec("dp_accounting") is None:
        raise FlagError(f"{said}: needs a package that is not here: sh requirements.sh dp")
    # Any rule may be applied to what clients have made private themselves.
    for name in ("algorithm", "aggregate") if is_noisy(config) else ("algorithm",):
        value = getattr(config, name)
        reason = "may use more than the noisy mean" if is_own(name, value) else entry_of(name, value).leaks
        if reason:
            raise FlagError(f"{said}: cannot be combined with --{name} {value}, which {reason}")
    if config.local_noise and config.clip_quantile is not None:
        raise FlagError(
            f"--clip_quantile {config.clip_quantile:g}: needs clients that say whether they were clipped, which "
            "--local_noise does not hide; give one of the two"
        )
    if is_noisy(config):
        _check_noise_on_the_sum(config, said)


def _check_noise_on_the_sum(config: Config, said: str) -> None:
    """Raise FlagError for what epsilon does not allow for. said: the flag that asks for noise, with its value."""
    z, target = config.noise_multiplier, config.target_epsilon
    if config.compress != DEFAULTS["compress"]:
        raise FlagError(
            f"--compress {config.compress}: may make an update longer than --clip_norm, for which the noise was "
            f"measured; leave it out with {said}"
        )
    if not (config.charging == config.unmetered == config.idle == "1,1"):
        raise FlagError(
            f"{said}: --charging, --unmetered and --idle draw clients from those who can be called, for which no "
            "epsilon is known; leave them out"
        )
    if config.min_reports > 1:
        raise FlagError(
            f"--min_reports {config.min_reports}: a round that is abandoned tells without noise that somebody was "
            f"missing; leave the flag out with {said}"
        )
    if config.clip_quantile is not None and config.num_clients and z >= 2 * count_noise(config):
        raise FlagError(
            f"--clip_quantile {config.clip_quantile:g}: needs more than {10 * z:g} clients a round with a noise "
            f"multiplier of {z:g}, and --num_select_clients is {config.num_select_clients}"
        )
    if z and config.num_clients:
        epsilon(config, 1)  # now, because the package takes a second or two, which no round should seem to take
    if target is not None and z and epsilon(config, config.global_epoch) > target * (1 + 1e-9):
        raise FlagError(
            f"--global_epoch {config.global_epoch}: with the run's noise multiplier of {z:g} the rounds would take "
            f"epsilon to {epsilon(config, config.global_epoch):.4g}, above --target_epsilon {target:g}"
        )


def check_buffers(config: Config, buffers: Collection[str]) -> None:
    """Raise FlagError for a model with buffers, such as running statistics: they are neither clipped nor noised."""
    if has_noise(config) and buffers:
        raise FlagError(
            f"--model {config.model}: has buffers ({', '.join(sorted(buffers)[:2])}), which would be sent without "
            "noise; choose a model without, such as gn_cnn"
        )


def described(config: Config) -> list[str]:
    """Lines for a plan: what will have been spent when the run is over."""
    if config.clip_norm is None:
        return []
    follows = "" if config.clip_quantile is None else f" at first, then the {config.clip_quantile:g} quantile"
    lines = [f"clipping      each w_k - w to norm {config.clip_norm:g}{follows}"]
    if is_noisy(config):
        lines.append(
            f"noise         z = {config.noise_multiplier:g} on the sum of the updates\n"
            f"privacy       epsilon {epsilon(config, config.global_epoch):.4g} at delta {config.delta:g} after "
            f"{config.global_epoch} rounds, --sampling {config.sampling}: for {NEIGHBOURS[config.sampling]}"
        )
    if config.local_noise:
        lines.append(
            f"local noise   {config.local_noise:g} C by each client: epsilon {local_epsilon(config):.4g} at delta "
            f"{config.delta:g} for each update that it sends"
        )
    return lines
