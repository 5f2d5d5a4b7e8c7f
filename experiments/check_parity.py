"""Compares our models with golden tensors of the official code.

    python -m experiments.check_parity --golden=FILE.npz [--tolerance=1e-5] [--json_out=FILE]

Prints the largest absolute difference of every stored tensor. Exit code 0 if all are within the
tolerance, 3 if one is not, 2 if the file cannot be used.
"""

import math

from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.parity import flow, gpst, soundstorm
from gpst_jax.parity.golden import TOLERANCE, Golden

_GOLDEN = flags.DEFINE_string("golden", None, "npz file of golden tensors.", required=True)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", TOLERANCE, "Largest absolute difference that passes.", lower_bound=0.0
)

# Kinds of golden files: how a file is recognised, and what compares it.
_KINDS = {
    "gpst": (gpst.recognises, gpst.check),
    "flow": (flow.recognises, flow.check),
    "soundstorm": (soundstorm.recognises, soundstorm.check),
}


def compare(path: str) -> tuple[str, dict[str, float]]:
    """The kind of a golden file, and the largest difference of each of its tensors.

    Raises:
        UserError: the file cannot be read, or is of no known kind.
    """
    golden = Golden(path)
    for kind, (recognises, check) in _KINDS.items():
        if recognises(golden):
            return kind, check(golden)
    raise UserError(
        f"{path}: not a golden file of a known kind ({', '.join(_KINDS)}): its weights have other "
        "names"
    )


def main(argv: list[str]) -> int:
    """Compares, prints, and returns PARTIAL when a difference exceeds the tolerance."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; give the file as --golden")
    kind, differences = compare(_GOLDEN.value)
    tolerance = _TOLERANCE.value
    table = Table("tensor", "largest difference", "", title=f"{_GOLDEN.value} ({kind})")
    for name, difference in differences.items():
        verdict = "ok" if difference <= tolerance else "ABOVE TOLERANCE"
        table.add_row(name, f"{difference:.2e}", verdict)
    Console().print(table)
    largest = max(differences.values())
    passed = largest <= tolerance
    verdict = "ok" if passed else "FAILED"
    print(f"largest difference {largest:.2e}, tolerance {tolerance:.0e}: {verdict}")
    if cli.JSON_OUT.value:
        report = {
            "golden": _GOLDEN.value,
            "kind": kind,
            "tolerance": tolerance,
            "passed": passed,
            # JSON has no infinity or NaN: null stands for NaN and for integers that differ.
            "differences": {
                name: value if math.isfinite(value) else None for name, value in differences.items()
            },
        }
        write_json(cli.JSON_OUT.value, report)
    return exit_codes.OK if passed else exit_codes.PARTIAL


if __name__ == "__main__":
    cli.run(main)
