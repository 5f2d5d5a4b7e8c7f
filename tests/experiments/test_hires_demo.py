"""Hi-Res at demo size is the demo with local-drop as published, on 16 codebooks."""

import dataclasses

from data_pipeline.tokens import TokenLayout
from experiments.configs import gpst_demo, gpst_demo_hires
from gpst_jax.objectives.gpst import GPSTObjective


def test_half_of_the_frames_and_nothing_else_is_left_out():
    demo, hires = gpst_demo.get_config(), gpst_demo_hires.get_config()
    assert hires.model.local_drop == 0.5
    assert hires.train.steps == 500
    assert (hires.model.semantic_weight, hires.model.codebook_weights) == (1.0, "uniform")
    assert (
        dataclasses.replace(
            hires,
            name=demo.name,
            model=dataclasses.replace(
                hires.model,
                local_drop=demo.model.local_drop,
                semantic_weight=demo.model.semantic_weight,
                codebook_weights=demo.model.codebook_weights,
            ),
            train=dataclasses.replace(hires.train, steps=demo.train.steps),
        )
        == demo
    )
    layout = TokenLayout(40, 16, 256, unit_rate=50, frame_rate=50)
    budget = hires.data.frame_budget
    kept = GPSTObjective(hires, layout).kept_frames
    assert kept == budget // 2 + GPSTObjective.MAX_SEGMENTS < budget
    assert GPSTObjective(demo, layout).kept_frames == budget
