"""HBM traffic by cause: the scopes in the metadata of instructions."""

import pytest

from gpst_jax.compilation import hlo, hlo_cost, traffic
from gpst_jax.compilation.traffic import Cause

TEXT = """
HloModule step

ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %a = f32[100]{0} add(%x, %x), metadata={op_name="jit(step)/jvp(acoustic_loss)/local/mlp/add"}
  %b = f32[100]{0} add(%a, %a), metadata={op_name="jit(step)/transpose(jvp(global))/attention/dot"}
  %c = f32[100]{0} add(%b, %b), metadata={op_name="jit(step)/transpose(jvp(global))/mul"}
  %moved = f32[100]{0:S(1)} copy(%c)
  ROOT %d = f32[100]{0} add(%moved, %moved), metadata={op_name="jit(step)/sub"}
}
"""


def test_causes_follow_the_scopes_and_add_up():
    module = hlo.parse(TEXT)
    found = traffic.by_cause(module)
    array = 100 * 4
    assert found == {
        Cause("local transformer", False, "mlp"): 3 * array,
        Cause("global transformer", True, "attention"): 3 * array,
        Cause("global transformer", True, "other"): 3 * array,
        Cause("global transformer", True, "moves"): array,  # without metadata: as most around it
        Cause("rest", False, "other"): array,
    }
    assert sum(found.values()) == pytest.approx(hlo_cost.memory_bytes(module))
