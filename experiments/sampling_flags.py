"""Flags of how models are sampled, for the programs that do so.

A program makes them its own by `flags.adopt_module_key_flags(sampling_flags)`.
"""

from absl import flags

from data_pipeline.runtime.flag_rules import refuse
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.flow_sampler import FlowSettings
from gpst_jax.generation.guards import Guards
from gpst_jax.generation.ode_solvers import SOLVERS
from gpst_jax.generation.soundstorm_sampler import SoundStormSettings
from gpst_jax.models import decoding
from gpst_jax.samples.coig import CoIGConfig
from gpst_jax.samples.gpst_config import GenerationConfig
from gpst_jax.samples.perceptual import PerceptualSettings
from gpst_jax.synthesis.gpst import GPSTSettings
from gpst_jax.synthesis.synthesizer import SynthesisSettings

_GPST = GenerationConfig()
_COIG = CoIGConfig()
_FLOW = FlowSettings()
_SOUNDSTORM = SoundStormSettings()
PROMPT = flags.DEFINE_float(
    "prompt_seconds", _GPST.prompt_seconds, "Duration of speech prompts, in seconds.", 0.01
)
_SEMANTIC_TEMPERATURE = flags.DEFINE_float(
    "semantic_temperature",
    None,
    f"Sampling temperature of units; default: {_GPST.semantic.temperature} with GPST, "
    f"{_COIG.units.temperature} with the language model.",
    0,
)
_SEMANTIC_TOP_K = flags.DEFINE_integer(
    "semantic_top_k", 0, "Top-k sampling of units; 0: no limit, 1: greedy.", 0
)
_SEMANTIC_TOP_P = flags.DEFINE_float(
    "semantic_top_p", 1.0, "Nucleus sampling of units; 1: all.", 1e-6, 1
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _GPST.acoustic.temperature, "Sampling temperature of GPST's codes.", 0
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 0, "Top-k sampling of GPST's codes; 0: no limit, 1: greedy.", 0
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Nucleus sampling of GPST's codes; 1: all.", 1e-6, 1)
_GUARDS = flags.DEFINE_bool(
    "guards", True, "End speech of GPST that repeats itself, falls silent or collapses to one code."
)
BEST_OF = flags.DEFINE_integer(
    "best_of", 1, "Samples that GPST makes of each item, of which the most likely is kept.", 1
)
_SOLVER = flags.DEFINE_enum("solver", _FLOW.solver, list(SOLVERS), "ODE solver of flow matching.")
_FLOW_STEPS = flags.DEFINE_integer("flow_steps", _FLOW.steps, "Steps of the ODE solver.", 1)
_GUIDANCE = flags.DEFINE_float(
    "guidance", _FLOW.guidance, "Classifier-free guidance weight of flow matching; 0: none.", 0
)
_FLOW_TEMPERATURE = flags.DEFINE_float(
    "flow_temperature", _FLOW.temperature, "Scale of the noise that flow matching starts from.", 0
)
_SOUNDSTORM_STEPS = flags.DEFINE_integer(
    "soundstorm_steps", _SOUNDSTORM.steps, "Decoding iterations of SoundStorm's first level.", 1
)
_SOUNDSTORM_TEMPERATURE = flags.DEFINE_float(
    "soundstorm_temperature",
    _SOUNDSTORM.temperature,
    "Sampling temperature of SoundStorm's first iteration, annealed to 0; 0: greedy.",
    0,
)
WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    list(decoding.WEIGHTS),
    "What GPST and the language model are decoded with; default: the dtype of their configuration.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", _GPST.batch_size, "Items decoded at once.", 1)
# Family of models -> the flags that are for it; the others are for all.
_FAMILY_FLAGS = {
    "gpst": {"unconditional_seconds", "temperature", "top_k", "top_p", "guards", "best_of"},
    "flow": {"solver", "flow_steps", "guidance", "flow_temperature", "dialogue"},
    "soundstorm": {"soundstorm_steps", "soundstorm_temperature", "dialogue"},
}


def check_family(family: str, workdir: str) -> None:
    """Raises UserError for flags that are for models of other families."""
    for name in sorted(set().union(*_FAMILY_FLAGS.values())):
        families = [other for other, names in _FAMILY_FLAGS.items() if name in names]
        if name in flags.FLAGS and family not in families:
            refuse(
                (name,),
                f"is for models of family {' or '.join(map(repr, families))}, but "
                f"--workdir={workdir} is of family {family!r}",
            )


def units_of_gpst() -> SamplingConfig:
    """How GPST samples units."""
    return _units(_GPST.semantic)


def units_of_language_model() -> SamplingConfig:
    """How the language model samples units."""
    return _units(_COIG.units)


def codes_of_gpst() -> SamplingConfig:
    """How GPST samples codes."""
    return SamplingConfig(_TEMPERATURE.value, _TOP_K.value, _TOP_P.value)


def guards() -> Guards | None:
    """The guards of GPST, None where they are switched off."""
    return Guards() if _GUARDS.value else None


def perceptual(family: str) -> PerceptualSettings:
    """The settings of a family of perceptual stages."""
    if family == "soundstorm":
        return SoundStormSettings(_SOUNDSTORM_STEPS.value, _SOUNDSTORM_TEMPERATURE.value)
    return FlowSettings(_SOLVER.value, _FLOW_STEPS.value, _GUIDANCE.value, _FLOW_TEMPERATURE.value)


def synthesis(family: str) -> SynthesisSettings:
    """How `gpst_jax.synthesis` samples from a model of a family."""
    return SynthesisSettings(
        gpst=GPSTSettings(units_of_gpst(), codes_of_gpst(), guards(), BEST_OF.value),
        perceptual=None if family == "gpst" else perceptual(family),
        units=units_of_language_model(),
        prompt_seconds=PROMPT.value,
        weights=WEIGHTS.value,
        batch_size=BATCH_SIZE.value,
    )


def _units(default: SamplingConfig) -> SamplingConfig:
    temperature = _SEMANTIC_TEMPERATURE.value
    temperature = default.temperature if temperature is None else temperature
    return SamplingConfig(temperature, _SEMANTIC_TOP_K.value, _SEMANTIC_TOP_P.value)
