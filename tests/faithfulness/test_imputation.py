import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter

from xaiseg.errors import UsageError
from xaiseg.faithfulness import imputation
from xaiseg.faithfulness.imputation import NEIGHBOURS, dissected, impute, system

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((3, 13, 17)).astype(np.float32)


def holes():
    scattered = RANDOM.random((13, 17)) < 0.5
    blob = np.zeros((13, 17), dtype=bool)
    blob[3:11, :9] = True
    corner = np.ones((13, 17), dtype=bool)
    corner[12, 16] = False
    one = np.zeros((13, 17), dtype=bool)
    one[0, 0] = True
    return {"scattered": scattered, "blob": blob, "all but one": corner, "one": one}


def by_definition(image, hidden):
    """A dense system, pixel by pixel: each hidden pixel is the weighted mean of its neighbours within the image."""
    pixels = [tuple(at) for at in np.argwhere(hidden)]
    number = {at: k for k, at in enumerate(pixels)}
    matrix, right = np.zeros((len(pixels), len(pixels))), np.zeros((len(pixels), len(image)))
    for (i, j), k in number.items():
        for down, across, weight in NEIGHBOURS:
            at = (i + down, j + across)
            if 0 <= at[0] < hidden.shape[0] and 0 <= at[1] < hidden.shape[1]:
                matrix[k, k] += weight
                if at in number:
                    matrix[k, number[at]] -= weight
                else:
                    right[k] += weight * image[:, at[0], at[1]]
    filled = image.copy()
    filled[:, hidden] = np.linalg.solve(matrix, right).T
    return filled


@pytest.mark.parametrize("name", holes())
def test_every_hidden_pixel_is_the_weighted_mean_of_its_neighbours(name):
    hidden = holes()[name]
    filled = impute(IMAGE, hidden)
    np.testing.assert_allclose(filled, by_definition(IMAGE, hidden), atol=1e-6)
    assert (filled[:, ~hidden] == IMAGE[:, ~hidden]).all()


# grad-cam hands tensors to numpy functions, which numpy 2 warns about; may go once it no longer does.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("name", holes())
@pytest.mark.parametrize("noisy", [False, True])
def test_it_is_pytorch_grad_cams_with_the_same_noise(name, noisy, monkeypatch):
    hidden = holes()[name]
    noise = RANDOM.standard_normal(IMAGE.shape).astype(np.float32)
    monkeypatch.setattr(torch, "randn_like", lambda values: torch.from_numpy(noise[:, hidden]))
    peer = NoisyLinearImputer(0.01 if noisy else 0.0)
    expected = peer(torch.from_numpy(IMAGE), torch.from_numpy((~hidden).astype(np.float32))).numpy()
    np.testing.assert_allclose(impute(IMAGE, hidden, noise=0.01 * noise if noisy else None), expected, atol=1e-5)


def test_the_system_is_symmetric_and_diagonally_dominant():
    hidden = holes()["blob"]
    matrix, right = system(IMAGE, hidden)
    dense = matrix.toarray()
    assert right.shape == (72, 3)
    np.testing.assert_array_equal(dense, dense.T)
    off = np.abs(dense).sum(axis=1) - np.diag(dense)
    assert (np.diag(dense) >= off - 1e-12).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (40, 50)])
def test_the_order_of_elimination_names_every_pixel_once_and_puts_the_dividing_line_last(shape):
    hidden = np.ones(shape, dtype=bool)
    order = dissected(hidden)
    assert sorted(order.tolist()) == list(range(hidden.size))
    if shape == (40, 50):
        columns = np.nonzero(hidden)[1][order]
        assert len(set(columns[-40:])) == 1
        assert 20 <= columns[-1] <= 30


def test_a_flat_image_stays_flat_in_both_modes_and_an_image_without_a_known_pixel_shows_its_mean():
    flat = np.full((1, 30, 40), 3.0, dtype=np.float32)
    hidden = RANDOM.random((30, 40)) < 0.7
    hidden[5:25, 5:30] = True
    for mode in ("exact", "fast"):
        np.testing.assert_allclose(impute(flat, hidden, mode=mode), flat, rtol=1e-5)
        everything = impute(IMAGE, np.ones((13, 17), dtype=bool), mode=mode)
        np.testing.assert_allclose(everything, IMAGE.mean((1, 2), keepdims=True) * np.ones_like(IMAGE), rtol=1e-5)
        assert (impute(IMAGE, np.zeros((13, 17), dtype=bool), mode=mode) == IMAGE).all()


def test_the_fast_mode_is_near_the_exact_one_on_a_smooth_image():
    image = gaussian_filter(RANDOM.standard_normal((2, 61, 74)), (0, 6, 6)).astype(np.float32)
    hidden = gaussian_filter(RANDOM.standard_normal((61, 74)), 4) > 0
    exact, fast = (impute(image, hidden, mode=mode) for mode in ("exact", "fast"))
    error = np.sqrt(((exact - fast)[:, hidden] ** 2).mean()) / image.std()
    assert 0 < error < 0.1
    assert (fast[:, ~hidden] == image[:, ~hidden]).all()


@pytest.mark.parametrize("name", holes())
def test_more_steps_bring_the_fast_mode_to_the_exact_one(name, monkeypatch):
    hidden = holes()[name]
    monkeypatch.setattr(imputation, "STEPS", 60)
    np.testing.assert_allclose(impute(IMAGE, hidden, mode="fast"), impute(IMAGE, hidden), atol=1e-4)


def test_the_block_system_is_the_full_one_summed_over_blocks():
    shape = (16, 24)
    hidden = RANDOM.random(shape) < 0.6
    hidden[:8, 8:16] = False  # a block without a hidden pixel
    dense = system(np.zeros((1, *shape)), hidden)[0].toarray()
    rows, columns = np.nonzero(hidden)
    label = (rows // 8) * 3 + columns // 8
    members = np.stack([label == block for block in (0, 2, 3, 4, 5)]).astype(float)
    inside = np.ones((1, *shape), dtype=np.float32)
    blocks = imputation._Blocks.of(hidden.astype(np.float32), imputation._neighbours(inside)[0])
    residual = np.where(hidden, RANDOM.standard_normal(shape), 0.0)[None].astype(np.float32)
    expected = np.linalg.solve(members @ dense @ members.T, members @ residual[0][hidden])
    np.testing.assert_allclose(blocks.solved(residual)[0][hidden], expected @ members, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_filled_is_refused():
    with pytest.raises(UsageError, match="no such way of filling"):
        impute(IMAGE, holes()["one"], mode="quick")
    with pytest.raises(UsageError, match="another size"):
        impute(IMAGE, np.zeros((3, 3), dtype=bool))
