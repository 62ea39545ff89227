"""What `share` says of fusions: an adapter that is a candidate and also acts is computed once."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from compose.dsl import Fuse, Stack
from tests import tiny


def test_an_adapter_that_is_a_candidate_and_acts_runs_once() -> None:
    model = tiny.model("bert", attn_implementation="eager")
    for seed, name in enumerate(("a", "b")):
        tiny.randomize(model.add_adapter(name, "seq_bn", bottleneck_size=8), seed)
    expression = Fuse("a", Stack("a", "b"))
    tiny.randomize(model.add_fusion(expression), 3)
    inputs = tiny.inputs()
    counted, states = {}, {}
    for without in ((), ("share",)):
        plan = model.plan(expression, without)
        with torch.no_grad():
            plan.states(**inputs)  # folds
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            states[without] = plan.states(**inputs).last_hidden_state
        counted[without] = counter.get_total_flops()
        assert counted[without] == plan.explain(rows=3, tokens=7).flops
    tokens, width, rank, layers = 3 * 7, 32, 8, 2
    assert counted["share",] - counted[()] == 2 * tokens * width * rank * layers
    torch.testing.assert_close(states[()], states["share",], atol=1e-12, rtol=1e-12)
