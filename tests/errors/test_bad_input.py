"""Every kind of bad input: the error says what, where and why, and the model is as it was."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, OPTConfig

import compose
from compose.dsl import Average, BatchSplit, Drop, Fuse, Parallel, Route, Split, Stack
from compose.errors import (
    BackboneError,
    CompileError,
    ComposeError,
    ConfigError,
    ExpressionError,
    InputError,
    RegistryError,
)
from compose.runtime.model import Model
from tests.errors.world import LABELS, PLAN, Mistake, batch, build, check, snapshot


@pytest.fixture(scope="module")
def model() -> Model:
    return build()


EXPRESSIONS: dict[str, Mistake] = {
    "unknown adapter": Mistake(
        lambda m, _: m.plan("nil"), CompileError, ("there is no adapter 'nil'",), ('"nil"',), "nli"
    ),
    "several unknown adapters": Mistake(
        lambda m, _: m.plan(Parallel("nli", Stack("qqq", "tonne"))),
        CompileError,
        ("there is no adapter 'qqq'", "there is no adapter 'tonne'", "legal: 'tone'"),
        ('"qqq"', '"tonne"'),
        "qqp",
        2,
    ),
    "unknown adapter to activate": Mistake(
        lambda m, _: m.activate("Stack('nli', 'x')"), CompileError, ("there is no adapter 'x'",), ('"x"',)
    ),
    "unknown adapter to use": Mistake(
        lambda m, _: m.using("x").__enter__(), CompileError, ("there is no adapter 'x'",), ('"x"',)
    ),
    "missing fusion": Mistake(
        lambda m, _: m.plan(Parallel("tone", Fuse("qqp", "nli"))),
        CompileError,
        ("there are no weights for the fusion 'qqp,nli'", 'try: model.add_fusion(Fuse("qqp", "nli"))'),
        ('Fuse("qqp", "nli")',),
        "nli,qqp",
    ),
    "fusion without weights for a child": Mistake(
        lambda m, _: m.plan(Fuse("nli", "tone", name="nli,qqp")),
        CompileError,
        ("the fusion 'nli,qqp' has no weights at layer 0, site 'attn.q' and 3 more", "one of its children acts there"),
        ('Fuse("nli", "tone", name="nli,qqp")',),
    ),
    "nameless fusion": Mistake(
        lambda m, _: m.plan(Fuse(None, None)),
        CompileError,
        ("this Fuse has no name, so it has no weights", "Fuse(..., name='...')"),
        ("Fuse(None, None)",),
    ),
    **{
        f"Parallel in a {name}": Mistake(
            lambda m, _, block=block: m.plan(block),
            CompileError,
            (f"a Parallel inside a {name}", "why: ", "try: "),
            ('Parallel("nli", "qqp")',),
        )
        for name, block in {
            "Fuse": Fuse(PLAN, "tone"),
            "Average": Average("tone", PLAN),
            "Split": Split(PLAN, "tone", sizes=[1, None]),
            "BatchSplit": BatchSplit(Stack("tone", PLAN), "tone", sizes=[1, None]),
            "Route": Route(a=PLAN, b="tone"),
        }.items()
    },
    "two Parallels in a Stack": Mistake(
        lambda m, _: m.plan(Stack(PLAN, Parallel("tone", None))),
        CompileError,
        ("a second Parallel in one Stack", "whether branches pair up or multiply"),
        ('Parallel("tone", None)',),
    ),
    "a Route in a Route": Mistake(
        lambda m, _: m.plan(Route(a=Route(b="nli"), c="qqp")),
        CompileError,
        ("a Route inside a Route", "try: one Route of all tasks"),
        ('Route(b="nli")',),
    ),
    "a Route to several heads": Mistake(
        lambda m, _: m.plan(Route(a=BatchSplit("nli", "qqp", sizes=[1, None]))),
        CompileError,
        ("the child 'a' of a Route has several outputs",),
        ('BatchSplit("nli", "qqp", sizes=[1, None])',),
    ),
    **{
        f"a site closed in two ways by {type(block).__name__}": Mistake(
            lambda m, _, block=block: m.plan(block),
            CompileError,
            (f"the children of this {type(block).__name__} close layer 0, site 'ffn' differently", "original_ln_after"),
            (block.text,),
        )
        for block in (Average("nli", "plus"), Fuse("nli", "plus", name="nli,qqp"))
    },
    **{
        f"Drop of {option}": Mistake(
            lambda m, _, option=option: m.plan(f"Parallel('nli', Drop('qqp', {option}))"),
            CompileError,
            (said, "the backbone has 2 layers"),
            (f'Drop("qqp", {option})',),
        )
        for option, said in {
            "first=3": "first=3 drops more layers than there are",
            "last=5": "last=5 drops more layers than there are",
            "layers=[0, 2, 7]": "no layer 2, 7",
            "first=(0, 3)": "first=3 drops more layers than there are",
        }.items()
    },
    "text that is no expression": Mistake(
        lambda m, _: m.plan("Stack('nli', )) + 1"), ExpressionError, ("the text is not an expression",), (")",)
    ),
    "code": Mistake(
        lambda m, _: m.plan("__import__('os').system('true')"),
        ExpressionError,
        ("only blocks are called",),
        ("__import__('os').system('true')",),
    ),
    "unknown block": Mistake(
        lambda m, _: m.plan("Paralel('nli', 'qqp')"), ExpressionError, ("no block is called",), ("Paralel",), "Parallel"
    ),
    "unknown option": Mistake(
        lambda m, _: m.plan("Drop('nli', frist=1)"), ExpressionError, ("takes no keyword 'frist'",), ("frist",), "first"
    ),
    "a text that is too long": Mistake(
        lambda m, _: m.plan("Stack(" * 10_000 + "'nli'" + ")" * 10_000),
        ExpressionError,
        ("the text has 70005 characters", "at most 65536"),
    ),
    "deep nesting": Mistake(
        lambda m, _: m.plan("Stack(" * 900 + "'nli'" + ")" * 900),
        ExpressionError,
        ("brackets are nested too deep", "at most 64 blocks may be nested"),
        ("(",),
    ),
    "an empty block": Mistake(
        lambda m, _: m.plan("Parallel('nli', Stack())"),
        ExpressionError,
        ("Stack is empty", "a block needs at least one child"),
        ("Stack()",),
    ),
    "sizes of another number": Mistake(
        lambda m, _: m.plan("BatchSplit('nli', 'qqp', sizes=[1])"),
        ExpressionError,
        ("1 sizes for 2 children", "each child has one size"),
        ("[1]",),
    ),
    "two sizes that take the rest": Mistake(
        lambda m, _: m.plan("Split('nli', 'qqp', sizes=[None, None])"),
        ExpressionError,
        ("more than one size",),
        ("[None, None]",),
    ),
    "weights of another number": Mistake(
        lambda m, _: m.plan("Average('nli', 'qqp', weights=[1, 2, 3])"),
        ExpressionError,
        ("3 weights for 2",),
        ("[1, 2, 3]",),
    ),
    "unknown pass": Mistake(
        lambda m, _: m.plan("nli", ("flod",)), ConfigError, ("there is no pass 'flod'",), (), "fold"
    ),
}


def calls(expression: Any, **options: Any) -> Any:
    """Calls the plan of an expression on two rows."""
    return lambda m, _: m.plan(expression)(**{**batch(), **options})


ROUTE = Route(nli="nli", qqp="qqp")

CALLS: dict[str, Mistake] = {
    "missing head": Mistake(
        calls(Parallel("nli", tome="qqp")),
        RegistryError,
        ("there is no head 'tome'", "model.add_head('tome', 'classification', labels=...)", "plan.states(...)"),
        nearest="score",
    ),
    "no name, so no head": Mistake(
        calls(Parallel("nli", None)), RegistryError, ("output 1 has no name, so it has no head", "Parallel(task=...)")
    ),
    "sizes that do not add up": Mistake(
        calls(BatchSplit("nli", "qqp", sizes=[1, 2])),
        InputError,
        ("the sizes of BatchSplit add up to 3, but there are 2 rows", "None as one of the sizes takes the rest"),
    ),
    "sizes below the number of rows": Mistake(
        calls(BatchSplit("nli", "qqp", sizes=[1, 0])), InputError, ("add up to 1, but there are 2 rows",)
    ),
    "spans that do not add up": Mistake(
        calls(Parallel(nli=Split("nli", "qqp", sizes=[1, 9]))),
        InputError,
        ("the sizes of Split add up to 10, but there are 6 tokens",),
    ),
    "label out of range": Mistake(
        calls("nli", labels=torch.tensor([0, 3])),
        InputError,
        ("task 'nli': label 3 at [1] is out of range", "ids go from 0 to 2; -100 is not counted", "'entailment'"),
    ),
    "negative label": Mistake(
        calls(PLAN, labels={"qqp": torch.tensor([-1, 0])}), InputError, ("task 'qqp': label -1 at [0] is out of range",)
    ),
    "label that there is not": Mistake(
        calls("nli", labels=["neutral", "contradicton"]),
        InputError,
        ("task 'nli': there is no label 'contradicton'",),
        nearest="contradiction",
    ),
    "tag out of range": Mistake(
        calls(Parallel(tags="nli"), labels={"tags": torch.tensor([[0, 1, 2, 0, 0, 0], [0] * 6])}),
        InputError,
        ("task 'tags': label 2 at [0, 2] is out of range", "ids go from 0 to 1"),
    ),
    "multi-label out of range": Mistake(
        calls(Parallel(many="nli"), labels=[[0, 1], [0, 2]]),
        InputError,
        ("task 'many': label 2 at [1, 1] is out of range", "0 to 1 is legal"),
    ),
    "number that is not finite": Mistake(
        calls(Parallel(score="nli"), labels=[0.5, float("inf")]),
        InputError,
        ("task 'score': label inf at [1", "finite numbers are legal"),
    ),
    "fractions for classes": Mistake(
        calls("nli", labels=torch.tensor([0.0, 1.0])), InputError, ("task 'nli': labels of type torch.float32",)
    ),
    "labels of another shape": Mistake(
        calls("nli", labels=torch.tensor([0, 1, 2])), InputError, ("task 'nli': labels of shape [3], but [2]",)
    ),
    "labels of a task that there is not": Mistake(
        calls(PLAN, labels={"nlj": torch.tensor([0, 1])}), InputError, ("there is no task 'nlj'",), nearest="nli"
    ),
    "plain labels for several tasks": Mistake(
        calls(PLAN, labels=torch.tensor([0, 1])),
        InputError,
        ("plain labels, but the plan has 2 tasks", "labels={'task': ..., ...}"),
    ),
    "more labels than rows": Mistake(
        calls(ROUTE, route=["nli", "qqp"], labels={"nli": torch.tensor([0, 1, 2])}),
        InputError,
        ("task 'nli': 3 labels, but 1 of the batch's 2 rows are its own",),
    ),
    "unknown tasks": Mistake(
        calls(PLAN, tasks=["qpq", "nli", "x"]),
        InputError,
        ("there is no task 'qpq'", "there is no task 'x'"),
        nearest="qqp",
        problems=2,
    ),
    "a position beyond the last": Mistake(calls(PLAN, tasks=[2]), InputError, ("there is no task '2'",)),
    "no task": Mistake(
        calls(PLAN, tasks=[]), InputError, ("no task is asked for", "leave `tasks` out for all of them")
    ),
    "a name of two tasks": Mistake(
        calls(Parallel("nli", Stack("qqp", "nli")), tasks=["nli"]),
        InputError,
        ("2 outputs are called 'nli'", "ask by position: [0, 1]"),
    ),
    "unknown task of loss_weights": Mistake(
        calls(PLAN, labels=LABELS, loss_weights={"qp": 0.5}), InputError, ("there is no task 'qp'",), nearest="qqp"
    ),
    "wrong route names": Mistake(calls(ROUTE, route=["nli", "qpq"]), InputError, ("route[1] is 'qpq'",), nearest="qqp"),
    "several wrong route names, and too few": Mistake(
        calls(ROUTE, route=["x"]), InputError, ("route has 1 names for 2 rows", "route[0] is 'x'"), problems=2
    ),
    "no route": Mistake(calls(ROUTE), InputError, ("this plan has a Route", "route=['nli', ...]")),
    "a route for nothing": Mistake(calls(PLAN, route=["nli", "nli"]), InputError, ("this plan has no Route",)),
    "an empty batch": Mistake(
        lambda m, _: m.plan(PLAN)(input_ids=torch.zeros(0, 6, dtype=torch.long)),
        InputError,
        ("the batch is empty", "(0, 6)"),
    ),
    "an empty batch to the active plan": Mistake(
        lambda m, _: m(input_ids=torch.zeros(0, 6, dtype=torch.long)), InputError, ("the batch is empty",)
    ),
    "a batch of no tokens": Mistake(
        lambda m, _: m.plan(None).states(input_ids=torch.zeros(2, 0, dtype=torch.long)),
        InputError,
        ("the batch has no tokens", "(2, 0)"),
    ),
    "no input": Mistake(calls(PLAN, input_ids=None), InputError, ("there is nothing to run on", "'input_ids'")),
    "lists for tensors": Mistake(
        calls(PLAN, input_ids=[[5, 6]]),
        InputError,
        ("input_ids is a list, but a tensor is needed", "return_tensors='pt'"),
    ),
    "more tokens than positions": Mistake(
        lambda m, _: m.plan("nli")(**batch(41)), InputError, ("41 tokens, but the backbone takes 40",)
    ),
    "a text that is too long": Mistake(
        lambda m, _: m.plan(PLAN).predict(["fine", "a" * 30, ("b " * 10, "c " * 20)]),
        InputError,
        (
            "input 1: 32 tokens, but the backbone takes 24",
            "input 2: 33 tokens, but the backbone takes 24",
            "truncate=True, or stride=n for windows that overlap by n tokens",
        ),
        problems=2,
    ),
    "inputs that are no texts": Mistake(
        lambda m, _: m.plan(PLAN).predict(["fine", 5, ("a", "b", "c")]),
        InputError,
        ("input 1: int where a text is needed", "input 2: a tuple of 3, but a pair of texts has 2"),
        problems=2,
    ),
    "a text for a list": Mistake(lambda m, _: m.plan(PLAN).predict("fine"), InputError, ("a list of inputs", "[text]")),
    "texts of an unknown task": Mistake(
        lambda m, _: m.plan(PLAN).predict(["fine"], tasks=["qpq"]), InputError, ("no task 'qpq'",), nearest="qqp"
    ),
    "cost of an unknown task": Mistake(
        lambda m, _: m.plan(PLAN).explain(tasks=["qpq"]), InputError, ("there is no task 'qpq'",), nearest="qqp"
    ),
    "unknown regime": Mistake(
        lambda m, _: m.train_only("nli", "adapter"), ConfigError, ("there is no regime 'adapter'",), nearest="adapters"
    ),
    "training an unknown adapter": Mistake(
        lambda m, _: m.train_only("Parallel('nli', 'x')"), CompileError, ("there is no adapter 'x'",), ('"x"',)
    ),
    "training a fusion that is not there": Mistake(
        lambda m, _: m.train_only("nli", "fusion"), ConfigError, ("the expression has no Fuse",)
    ),
    "training layers that are not there": Mistake(
        lambda m, _: m.train_only("nli", "last_layers", last=3), ConfigError, ("last=3 is out of range", "2 layers")
    ),
}


NAMES: dict[str, Mistake] = {
    "adapter name taken": Mistake(
        lambda m, _: m.add_adapter("nli", "lora"),
        RegistryError,
        ("the adapter 'nli' is there already", "model.delete_adapter('nli') first"),
    ),
    "head name taken": Mistake(
        lambda m, _: m.add_head("nli", labels=3),
        RegistryError,
        ("the head 'nli' is there already", "model.delete_head('nli') first"),
    ),
    "fusion name taken": Mistake(
        lambda m, _: m.add_fusion(Fuse("tone", name="nli,qqp")),
        RegistryError,
        ("the fusion 'nli,qqp' is there already", "model.delete_fusion('nli,qqp') first"),
    ),
    **{
        f"adapter name {name!r:.12}": Mistake(
            lambda m, _, name=name: m.add_adapter(name), RegistryError, ("is not a legal adapter name", "why: ")
        )
        for name in ("a b", "../x", "", "x" * 65, "naïve", "a\0b", "a,b", "a:b", "..", "x" * 10_000)
    },
    "adapter name that is no text": Mistake(
        lambda m, _: m.add_adapter(7), RegistryError, ("adapter name must be a string, not int 7",)
    ),
    "adapter called None": Mistake(
        lambda m, _: m.add_adapter("None"), RegistryError, ("adapter name 'None' is reserved",)
    ),
    "Parallel in a Fuse that is to get weights": Mistake(
        lambda m, _: m.add_fusion(Fuse(PLAN, "tone", name="f")),
        CompileError,
        ("a Parallel inside a Fuse",),
        ('Parallel("nli", "qqp")',),
    ),
    "layers that there are not in a Fuse that is to get weights": Mistake(
        lambda m, _: m.add_fusion(Fuse(Drop("nli", first=9), Drop("qqp", layers=[7]), name="f")),
        CompileError,
        ("first=9 drops more layers than there are", "no layer 7"),
        ('Drop("nli", first=9)', 'Drop("qqp", layers=[7])'),
        problems=2,
    ),
    "Fuse that acts nowhere": Mistake(
        lambda m, _: m.add_fusion(Fuse(Drop("nli", first=2), None, name="f")),
        CompileError,
        ("no child of this Fuse acts anywhere",),
        ('Fuse(Drop("nli", first=2), None, name="f")',),
    ),
    "head name that the output has": Mistake(
        lambda m, _: m.add_head("loss"), RegistryError, ("head name 'loss' is reserved", "reserved: None, labels, loss")
    ),
    "fusion name that is not legal": Mistake(
        lambda m, _: m.add_fusion("Fuse('nli', 'qqp', name='a b')"),
        ExpressionError,
        ("not a legal fusion name",),
        ("'a b'",),
    ),
    "task that is not legal": Mistake(
        lambda m, _: m.plan("Parallel({'a b': 'nli'})"), ExpressionError, ("not a legal task name",), ("'a b'",)
    ),
    "unknown method": Mistake(
        lambda m, _: m.add_adapter("x", "sec_bn"), ConfigError, ("no method or preset 'sec_bn'",), nearest="seq_bn"
    ),
    "unknown options": Mistake(
        lambda m, _: m.add_adapter("x", "seq_bn", reduction_faktor=4, dropout=2, non_linearity="rleu"),
        ConfigError,
        (
            "there is no option 'reduction_faktor' of 'bottleneck'",
            "non_linearity must be the name of an activation, not 'rleu'",
            "dropout must be a number from 0 to below 1, not 2",
            "legal: 'relu'",
        ),
        nearest="reduction_factor",
        problems=3,
    ),
    "layers that there are not": Mistake(
        lambda m, _: m.add_adapter("x", "lora", leave_out=[0, 5]),
        ConfigError,
        ("leave_out names layer 5", "has 2, 0 to 1"),
    ),
    "an adapter that acts nowhere": Mistake(
        lambda m, _: m.add_adapter("x", "lora", leave_out=[0, 1]), ConfigError, ("adapter 'x' would act nowhere",)
    ),
    "unknown kind of head": Mistake(
        lambda m, _: m.add_head("x", "clasification"), ConfigError, ("no kind of head",), nearest="classification"
    ),
    "unknown options of a head": Mistake(
        lambda m, _: m.add_head("x", lables=2, layers=0),
        ConfigError,
        ("no option is called 'lables'", "layers=0 is not legal: a whole number of at least 1 is needed"),
        nearest="labels",
        problems=2,
    ),
    "labels twice": Mistake(
        lambda m, _: m.add_head("x", labels=["a", "a"]), ConfigError, ("each name may occur once; twice: 'a'",)
    ),
    "unknown kind of fusion": Mistake(
        lambda m, _: m.add_fusion(Fuse("qqp", "tone"), "dinamic"), ConfigError, ("'dinamic'",), nearest="dynamic"
    ),
    "unknown option of a fusion": Mistake(
        lambda m, _: m.add_fusion(Fuse("qqp", "tone"), temprature=True),
        ConfigError,
        ("there is no option 'temprature' of 'adapter_fusion'",),
        nearest="temperature",
    ),
    "fusion of unknown adapters": Mistake(
        lambda m, _: m.add_fusion(Fuse("nil", "tonne", "qqp")),
        RegistryError,
        ("there is no adapter 'nil'", "there is no adapter 'tonne'", "legal: 'tone'"),
        nearest="nli",
        problems=2,
    ),
    "fusion of no Fuse": Mistake(
        lambda m, _: m.add_fusion("nli"), ExpressionError, ("'nli' is no Fuse with a name", "Fuse(..., name='...')")
    ),
    "fusion without a name": Mistake(
        lambda m, _: m.add_fusion(Fuse(None, Average("nli"))), ExpressionError, ("is no Fuse with a name",)
    ),
    **{
        f"deleting an unknown {what}": Mistake(
            lambda m, _, what=what: getattr(m, f"delete_{what}")("nil"), RegistryError, (f"there is no {what} 'nil'",)
        )
        for what in ("adapter", "fusion", "head")
    },
    "a backbone that is none": Mistake(
        lambda m, _: compose.attach(torch.nn.Linear(2, 2)), BackboneError, ("Linear is not a transformers model",)
    ),
    "an unknown architecture": Mistake(
        lambda m, _: compose.attach(opt()),
        BackboneError,
        ("the architecture 'opt' is not known", "compose.attach(model, table=...)", "'llama'"),
    ),
    "a backbone that is not there": Mistake(
        lambda m, folder: compose.load(folder / "nowhere"), BackboneError, ("cannot be loaded", "nowhere", "'minilm'")
    ),
}


def opt() -> Any:
    """A model of an architecture without a table."""
    return AutoModel.from_config(
        OPTConfig(
            vocab_size=9,
            hidden_size=8,
            ffn_dim=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            word_embed_proj_dim=8,
            max_position_embeddings=9,
        )
    )


@pytest.mark.parametrize(
    "mistake", [*EXPRESSIONS.values(), *CALLS.values(), *NAMES.values()], ids=[*EXPRESSIONS, *CALLS, *NAMES]
)
def test_mistakes(model: Model, mistake: Mistake, tmp_path: Path) -> None:
    plan = model.plan(PLAN)
    before = snapshot(model, plan)
    with pytest.raises(ComposeError) as caught:
        mistake.do(model, tmp_path)
    check(mistake, caught.value)
    assert snapshot(model, plan) == before
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
