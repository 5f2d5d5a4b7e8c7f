"""Accelerator specifications: the one table behind MFU and the roofline.

Rates are peaks from the vendors' data sheets; link rates of TPUs are the one-way figures of "How to
Scale Your Model" (jax-ml.github.io/scaling-book, tables of chapters 2 and 3).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX shows it.

    Attributes:
        name: as in names of topologies, or the product's name.
        kind: prefix of `jax.Device.device_kind`.
        flops: dense bfloat16 FLOP/s with float32 accumulation.
        hbm_bytes: memory available to a program, by the TPU compiler's own limit.
        hbm_bytes_per_s: memory bandwidth.
        link_bytes_per_s: one ICI link in one direction; a torus dimension has two per chip.
        dcn_bytes_per_s: data-centre network, one chip's share of its host's egress.
        devices: as which one chip shows; all rates are of one device.
    """

    name: str
    kind: str
    flops: float
    hbm_bytes: float = 0.0
    hbm_bytes_per_s: float = 0.0
    link_bytes_per_s: float = 0.0
    dcn_bytes_per_s: float = 0.0
    devices: int = 1


_GIB = 2.0**30

# The first matching prefix wins, so longer kinds come before shorter ones.
CHIPS: tuple[Chip, ...] = (
    Chip("v4", "TPU v4", 275e12, 30.75 * _GIB, 1.2e12, 4.5e10, 6.25e9),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * _GIB, 8.1e11, 4.5e10, 3.125e9),
    Chip("v5e", "TPU v5e", 197e12, 15.75 * _GIB, 8.1e11, 4.5e10, 3.125e9),
    Chip("v5p", "TPU v5", 459e12, 95.74 * _GIB, 2.8e12, 9e10, 6.25e9),
    Chip("v6e", "TPU v6", 918e12, 31.25 * _GIB, 1.6e12, 9e10, 12.5e9),
    Chip("tpu7x", "TPU7x", 2307e12 / 2, devices=2),
    Chip("A100", "NVIDIA A100", 312e12),
    Chip("H100 PCIe", "NVIDIA H100 PCIe", 756e12),
    Chip("H100 NVL", "NVIDIA H100 NVL", 835e12),
    Chip("H100", "NVIDIA H100", 989e12),
    Chip("H200", "NVIDIA H200", 989e12),
    Chip("B200", "NVIDIA B200", 2250e12),
    Chip("L4", "NVIDIA L4", 121e12),
)


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None where the table has none, as for CPUs."""
    return next((chip for chip in CHIPS if device_kind.startswith(chip.kind)), None)


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of one device; None where it is not known."""
    chip = find_chip(device_kind)
    return None if chip is None else chip.flops
