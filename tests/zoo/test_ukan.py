import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from xaiseg.errors import UsageError
from xaiseg.zoo.ukan import COEFFICIENTS, GRID, UKAN, KANLinear, TokenBlock, spline_basis

SMALL = (16, 24, 32)
KNOTS = -1 + 2 / GRID * np.arange(-3, GRID + 4)


def scipy_basis(x: np.ndarray) -> np.ndarray:
    """(N, 8): one spline for every five knots in line, 0 outside them."""
    columns = []
    for k in range(COEFFICIENTS):
        spline = BSpline.basis_element(KNOTS[k : k + 5], extrapolate=False)
        columns.append(np.nan_to_num(spline(x)))
    return np.stack(columns, axis=1)


def phi(layer: KANLinear, i: int, j: int, x: np.ndarray) -> np.ndarray:
    """The edge function from its definition."""
    base, scale = layer.base[j, i].item(), layer.scale[j, i].item()
    coefficients = layer.spline[j, i].detach().double().numpy()
    return base * x / (1 + np.exp(-x)) + scale * scipy_basis(x) @ coefficients


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network(**options) -> UKAN:
    torch.manual_seed(0)
    return UKAN(1, 1, widths=SMALL, **options).eval()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_bases_are_those_of_scipy(dtype, error):
    x = np.linspace(-2.6, 2.6, 1001)
    ours = spline_basis(torch.from_numpy(x).to(dtype)).double().numpy()
    np.testing.assert_allclose(ours, scipy_basis(x), atol=error)


def test_bases_sum_to_one_on_the_grid_and_vanish_far_outside():
    x = torch.linspace(-1, 1, 501)
    torch.testing.assert_close(spline_basis(x).sum(dim=-1), torch.ones(501))
    assert (spline_basis(torch.tensor([-3.0, -2.2, 2.2, 3.0])) == 0).all()


def test_bases_hold_every_cubic_polynomial():
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    cubic = 1 - 2 * x + 3 * x**2 - 4 * x**3
    coefficients = torch.linalg.lstsq(spline_basis(x), cubic[:, None]).solution
    torch.testing.assert_close(spline_basis(x) @ coefficients, cubic[:, None])


def test_a_kan_layer_sums_its_edge_functions():
    torch.manual_seed(0)
    layer = KANLinear(3, 4)
    nn.init.normal_(layer.spline)
    x = torch.randn(5, 3)
    ours = layer(x).detach().numpy()
    for j in range(4):
        expected = sum(phi(layer, i, j, x[:, i].double().numpy()) for i in range(3))
        np.testing.assert_allclose(ours[:, j], expected, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    layer = KANLinear(2, 3).double()
    assert torch.autograd.gradcheck(layer, torch.randn(4, 2, dtype=torch.float64, requires_grad=True))


def test_bfloat16_does_not_coarsen_where_a_value_lies_between_knots():
    torch.manual_seed(0)
    layer = KANLinear(64, 64)
    nn.init.normal_(layer.spline)
    x = torch.randn(100, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(x)
    exact = layer(x)
    assert ((rounded.float() - exact).norm() / exact.norm()).item() < 0.01


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [
        ((128, 160, 256), 6_356_689),
        ((256, 320, 512), 25_359_265),
        ((32, 40, 64), 403_621),
        ((16, 24, 32), 118_971),
    ],
)
def test_sizes_of_the_published_network(widths, parameters):
    with torch.device("meta"):
        assert count(UKAN(3, 1, widths=widths)) == parameters


def test_the_ablation_really_replaces_the_kan_layers():
    with torch.device("meta"):
        kan, plain = (TokenBlock(160, no_kan=no_kan) for no_kan in (False, True))
        norms = count(kan.norm) + count(kan.close)
        assert count(kan) - norms == 773_760
        assert count(plain) - norms == 83_040
        assert count(UKAN(3, 1, widths=(128, 160, 256), no_kan=True)) == 2_764_561
    assert network(no_kan=True).kan_layers() == ()
    assert network(no_kan=True).intrinsic(torch.rand(1, 1, 32, 32)) == {}
    with pytest.raises(UsageError, match="no KAN layers"):
        network(no_kan=True).edge_function(0, 0, 0, torch.zeros(1))


def test_edge_functions_are_read_in_the_order_of_computation():
    kan = network()
    assert [layer.base.shape[0] for layer in kan.kan_layers()] == [24] * 3 + [32] * 3 + [24] * 3 + [16] * 3
    order = []
    for number, layer in enumerate(kan.kan_layers()):
        layer.register_forward_hook(lambda *_, number=number: order.append(number))
    kan(torch.rand(1, 1, 32, 32))
    assert order == list(range(12))
    points = torch.linspace(-3, 3, 50)
    ours = kan.edge_function(4, 3, 7, points).numpy()
    np.testing.assert_allclose(ours, phi(kan.kan_layers()[4], 3, 7, points.double().numpy()), atol=1e-6)


@pytest.mark.parametrize(("layer", "i", "j"), [(12, 0, 0), (-1, 0, 0), (0, 24, 0), (0, 0, 24)])
def test_an_edge_that_is_not_there_is_named(layer, i, j):
    with pytest.raises(UsageError, match="no such edge function"):
        network().edge_function(layer, i, j, torch.zeros(1))


def test_intrinsic_scores_are_ratios_of_the_two_parts():
    kan, images = network(), torch.rand(2, 1, 64, 96)
    seen = []
    for layer in kan.kan_layers():
        layer.register_forward_hook(lambda _module, given, answer: seen.append((given[0], answer)))
    shown = kan.intrinsic(images)
    assert list(shown) == [*(f"nonlinearity_{number}" for number in range(1, 13)), "token_nonlinearity"]
    maps = []
    for number, (layer, (tokens, answer)) in enumerate(zip(kan.kan_layers(), seen, strict=True), start=1):
        base = nn.functional.silu(tokens) @ layer.base.T
        spline = answer - base
        expected = spline.flatten(1, 2).norm(dim=1) / base.flatten(1, 2).norm(dim=1)
        torch.testing.assert_close(shown[f"nonlinearity_{number}"], expected.detach(), rtol=1e-3, atol=1e-5)
        ratio = spline.norm(dim=3) / base.norm(dim=3)
        step = 8 // ratio.shape[1]
        maps.append(ratio.repeat_interleave(step, dim=1).repeat_interleave(step, dim=2))
    assert shown["token_nonlinearity"].shape == (2, 1, 8, 12)
    torch.testing.assert_close(
        shown["token_nonlinearity"][:, 0], torch.stack(maps).mean(dim=0).detach(), rtol=1e-3, atol=1e-5
    )


def test_a_layer_without_splines_scores_zero_and_a_bent_one_more():
    kan, image = network(), torch.rand(1, 1, 32, 32)
    before = kan.intrinsic(image)
    with torch.no_grad():
        kan.kan_layers()[11].spline *= 3
        kan.kan_layers()[5].spline.zero_()
    after = kan.intrinsic(image)
    assert (after["nonlinearity_6"] == 0).all()
    torch.testing.assert_close(after["nonlinearity_1"], before["nonlinearity_1"])
    assert (after["nonlinearity_12"] > 2 * before["nonlinearity_12"]).float().mean() > 0.9


def test_intrinsic_leaves_no_hooks_behind():
    kan = network()
    kan.intrinsic(torch.rand(1, 1, 32, 32))
    assert not any(module._forward_hooks for module in kan.modules())
