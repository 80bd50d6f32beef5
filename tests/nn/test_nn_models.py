"""The three networks in their variants."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from tvm_insta import nn
from tvm_insta.errors import ModelError

PAIRS = [(model, variant) for model in nn.MODELS for variant in nn.VARIANTS]

# What the front end has to know; a new entry here is a new operator there.
OPERATORS = {
    f"aten.{name}"
    for name in (
        "abs.default",
        "add.Tensor",
        "avg_pool2d.default",
        "batch_norm.default",
        "cat.default",
        "conv2d.default",
        "detach.default",
        "ge.Scalar",
        "ge.Tensor",
        "linear.default",
        "max_pool2d.default",
        "mean.dim",
        "mul.Tensor",
        "prelu.default",
        "relu.default",
        "sub.Tensor",
        "tanh.default",
        "unsqueeze.default",
        "view.default",
        "where.Scalar",
    )
}


def _images(count: int, generator: torch.Generator) -> torch.Tensor:
    # The 224x224 networks run at 32x32 too, fifty times faster.
    return torch.randn(count, 3, 32, 32, generator=generator)


def _options(model: str, variant: str, **more: object) -> nn.ModelOptions:
    return nn.ModelOptions(model, variant, num_classes=10, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "variant"), PAIRS)
def test_exports_as_plain_operators_with_a_dynamic_batch(
    model: str, variant: str, generator: torch.Generator
) -> None:
    network = nn.create(model, variant, num_classes=10)
    assert not network.training
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (_images(2, generator),), dynamic_shapes=({0: batch},))
    used = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert used <= OPERATORS
    x = _images(3, generator)
    logits = network(x)
    assert logits.shape == (3, 10)
    assert torch.equal(exported.module()(x), logits)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("model", nn.MODELS)
def test_before_training_every_variant_is_the_baseline(
    model: str, reuse: bool, generator: torch.Generator
) -> None:
    x = _images(2, generator)
    logits = {
        variant: nn.build(_options(model, variant, reuse_statistics=reuse), seed=3)
        for variant in nn.VARIANTS
    }
    weights = {
        name: value
        for name, value in logits["baseline"].state_dict().items()
        if "num_batches" not in name
    }
    results = []
    for network in logits.values():
        network.load_state_dict(weights, strict=False)
        results.append(network.eval()(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_training_init_keeps_the_gates_shut() -> None:
    network = nn.build(_options("resnet20", "insta_plus"))
    assert network.training
    state = network.state_dict()
    for name, value in state.items():
        last = name.rpartition(".")[2]
        if last in ("a", "b", "g0", "g1", "z") or ".fc2." in name:
            assert not value.any(), name
        if last == "slope":
            assert bool((value == 0.25).all()), name
        if ".fc1.weight" in name:
            assert bool(value.any()), name


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    x = _images(4, generator)
    for model, variant in PAIRS:
        network = nn.build(_options(model, variant), init="seeded").train()
        F.cross_entropy(network(x), torch.arange(4)).backward()
        dead: list[str] = []
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{model} {variant} {name}"
            assert bool(parameter.grad.isfinite().all()), f"{model} {variant} {name}"
            # Straight-through slopes vanish beyond 1 from the threshold, but not for a whole layer.
            # A hidden unit of INSTA-Th+ may be dead, and ResNet-20 has layers with only one.
            may_be_dead = ".fc1." in name or ".fc2.weight" in name
            if may_be_dead and not parameter.grad.any():
                dead.append(name)
            else:
                assert bool(parameter.grad.any()), f"{model} {variant} {name}"
        assert len({name.rpartition(".fc")[0] for name in dead}) <= 3, dead


@pytest.mark.parametrize("model", nn.MODELS)
def test_seeded_activations_keep_their_scale(model: str, generator: torch.Generator) -> None:
    for seed in range(3):
        network = nn.create(model, "insta_plus", seed=seed)
        spread, ones = [], []

        def watch(
            _module: torch.nn.Module,
            inputs: tuple[torch.Tensor, ...],
            bits: torch.Tensor,
            spread: list[float] = spread,
            ones: list[float] = ones,
        ) -> None:
            spread.append(float(inputs[0].std()))
            ones.append(float((bits == 1).float().mean()))

        for module in network.modules():
            if isinstance(module, nn.RSign):
                module.register_forward_hook(watch)
        with torch.no_grad():
            logits = network(_images(4, generator))
        # Bounds with room: what counts is that nothing grows, dies or saturates over the depth.
        assert 0.2 < min(spread) and max(spread) < 3.0, f"seed {seed}: {spread}"
        # The first threshold of ResNet-18 sees maxima of nine: nearly all of them are positive.
        assert 0.1 < min(ones) and max(ones[1:]) < 0.9, f"seed {seed}: {ones}"
        assert 0.05 < float((logits - network.fc.bias).std()) < 5.0


def test_seeded_terms_take_part(generator: torch.Generator) -> None:
    network = nn.create("resnet20", "insta_plus")
    x = _images(2, generator)
    before = network(x)
    for kind in (".a", ".g1", ".fc2.weight"):
        changed = nn.create("resnet20", "insta_plus")
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                if name.endswith(kind):
                    assert bool(parameter.any())
                    parameter.zero_()
        assert not torch.equal(changed(x), before), kind
    gammas = torch.cat([m.weight for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert bool((gammas < 0).any()) and bool((gammas.abs() >= 0.5).all())


def test_a_seed_decides_and_the_global_state_stays() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = nn.create("resnet20", seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = nn.create("resnet20", seed=5), nn.create("resnet20", seed=6)
    for name, value in again.state_dict().items():
        assert torch.equal(value, first[name]), name
    assert not torch.equal(other.state_dict()["fc.weight"], first["fc.weight"])


def test_reused_statistic_is_that_of_the_preceding_prelu(generator: torch.Generator) -> None:
    network = nn.create("mobilenet_v1", "insta", num_classes=10, reuse_statistics=True)
    plain = nn.create("mobilenet_v1", "insta", num_classes=10)
    plain.load_state_dict(network.state_dict())
    x = _images(1, generator)
    calls: list[tuple[str, torch.Tensor, torch.Tensor | None]] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.RSign | nn.RPReLU):
            module.register_forward_pre_hook(
                lambda _m, inputs, name=name: calls.append((name, inputs[0], inputs[1]))
            )
    logits = network(x)
    assert not torch.equal(logits, plain(x))
    kinds = [name.partition(".")[2] for name, _, _ in calls]
    assert kinds == ["threshold1", "prelu1", "threshold2", "prelu2"] * 13
    assert calls[0][2] is None  # nothing precedes the first threshold
    for (name, given, statistic), (_, _, next_statistic) in itertools.pairwise(calls):
        if "prelu" in name:
            assert torch.equal(nn.measure(given), statistic), name
            assert torch.equal(statistic, next_statistic), name


def test_reuse_skips_a_plain_prelu(generator: torch.Generator) -> None:
    network = nn.create("resnet20", select=("*.threshold", "stage1.0.prelu"), reuse_statistics=True)
    given: dict[str, bool] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.InstaThreshold):
            module.register_forward_pre_hook(
                lambda _m, inputs, name=name: given.update({name: inputs[1] is not None})
            )
    network(_images(1, generator))
    assert [name for name, reused in given.items() if reused] == ["stage1.1.threshold"]
    assert len(given) == 18


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (None, 36),
        ((), 0),
        (("stage2",), 12),
        (("stage2.1",), 2),
        (("stage2.1.prelu", "stage3.0.threshold"), 2),
        (("*.threshold",), 18),
        ("stage[23].0", 4),
    ],
)
def test_selection(select: tuple[str, ...] | None, expected: int) -> None:
    network = nn.create("resnet20", "insta_plus", select=select)
    aware = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.InstaThreshold | nn.InstaPReLU)
    ]
    assert len(aware) == expected
    if select:
        assert all(network.options.selects(name) for name in aware)
    plain = [m for m in network.modules() if type(m) in (nn.RSign, nn.RPReLU)]
    assert len(aware) + len(plain) == 36


def test_selecting_nothing_gives_the_baseline(generator: torch.Generator) -> None:
    x = _images(1, generator)
    network, baseline = nn.create("resnet20", select=()), nn.create("resnet20", "baseline")
    assert torch.equal(network(x), baseline(x))


@pytest.mark.parametrize("statistic", nn.STATISTICS)
def test_statistic_reaches_every_module(statistic: str) -> None:
    network = nn.create("resnet20", "insta_plus", statistic=statistic)
    found = [
        m.statistic for m in network.modules() if isinstance(m, nn.InstaThreshold | nn.InstaPReLU)
    ]
    assert found == [statistic] * 36


def test_network_agrees_with_double_precision(generator: torch.Generator) -> None:
    network = nn.create("resnet20", "insta")
    x = _images(8, generator)
    with torch.no_grad():
        single, double = network(x), network.double()(x.double())
    # Bits that lie on their thresholds may flip, so this is a coarse check of one and the same
    # function, not of rounding.
    assert torch.equal(single.argmax(dim=1), double.argmax(dim=1))
    assert float((single - double).abs().max()) < 0.05 * float(double.abs().max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet19",), "did you mean 'resnet18'.*'mobilenet_v1'"),
        (("resnet18", "insta+"), "did you mean 'insta'.*'baseline'"),
        (("",), "unknown model ''.*allowed: 'resnet18'"),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        nn.create(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": ["stage4"]}, "layer selection for resnet20 'stage4'; did you mean 'stage"),
        ({"select": [3]}, "tuple of layer names"),
        ({"statistic": "skew"}, "allowed: 'mean'"),
        ({"num_classes": 0}, "at least 1"),
        ({"num_classes": 2.5}, "must be an integer"),
        ({"reuse_statistics": 1}, "must be a bool"),
    ],
)
def test_bad_options(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        nn.create("resnet20", **arguments)  # type: ignore[arg-type]


def test_unknown_init() -> None:
    with pytest.raises(ModelError, match="allowed: 'training', 'seeded'"):
        nn.build(_options("resnet20", "insta"), init="random")


def test_input_shapes() -> None:
    assert [nn.input_shape(model) for model in nn.MODELS] == [
        (3, 224, 224),
        (3, 224, 224),
        (3, 32, 32),
    ]
    with pytest.raises(ModelError, match="unknown model"):
        nn.input_shape("vgg")
