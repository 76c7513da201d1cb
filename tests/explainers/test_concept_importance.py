"""Importance by removal: the concept that drives the target, the one that does not, and what is left."""

import re
import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.explainers.test_replay import Aliased
from tests.explainers.test_tap import Tokens
from tests.explainers.toy_concepts import SHIFT, A, B, blobs, case, examples, planted
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.concept_importance import importance
from xaiseg.explainers.concepts import amounts_of, find_concepts
from xaiseg.explainers.pooling import Example
from xaiseg.explainers.targets import Region

SUBJECT = planted()
MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True


def unet_concepts(subject, k=3, **options):
    shown = [Example(str(n), bright_square(top=4 + 2 * n, left=6 + 3 * n)) for n in range(4)]
    return find_concepts(subject, shown, k=k, **options)


def test_only_the_concept_that_drives_the_target_is_important():
    concepts = find_concepts(SUBJECT, examples(8), k=2)
    a, b = int(np.argmax(concepts.vectors @ A)), int(np.argmax(concepts.vectors @ B))
    found = importance(SUBJECT, [case(n) for n in (40, 41, 42)], concepts)
    assert found.drops.shape == (3, 2)
    # Without A nothing is left but the head's shift.
    np.testing.assert_allclose(found.drops[:, a], found.scores + SHIFT, rtol=0.02)
    np.testing.assert_allclose(found.everything, found.scores + SHIFT, rtol=0.02)
    assert found.mean[a] > 0.5
    assert np.abs(found.drops[:, b]).max() < 0.01 * found.mean[a]
    assert np.abs(found.residual).max() < 0.01 * found.mean[a]
    assert "only what follows the layer was run again" in found.notes


def test_the_scores_are_those_of_a_network_cut_at_the_layer_by_hand():
    subject = small_unet()
    concepts = unet_concepts(subject)
    image = bright_square()
    found = importance(subject, [(image, Region(1, MASK))], concepts, batch_size=2)
    network = subject.network
    with torch.no_grad():
        skip = network.down(image[None])
        deep = network.bottom(network.pool(skip))
        amounts = torch.from_numpy(amounts_of(deep[0], concepts.vectors)).float()
        parts = torch.einsum("khw,kc->kchw", amounts, torch.from_numpy(concepts.vectors).float())

        def score(activation):
            upper = F.interpolate(activation, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            logits = network.head(torch.relu(network.fuse(torch.cat((skip, upper), dim=1))))
            return float(logits[0, 0][torch.from_numpy(MASK)].mean())

        whole = score(deep)
        expected = [whole - score(deep - part[None]) for part in parts]
        everything = whole - score(deep - parts.sum(dim=0))
        residual = whole - score(parts.sum(dim=0)[None])
    assert found.scores[0] == pytest.approx(whole, abs=1e-5)
    np.testing.assert_allclose(found.drops[0], expected, atol=1e-5)
    assert found.everything[0] == pytest.approx(everything, abs=1e-5)
    assert found.residual[0] == pytest.approx(residual, abs=1e-5)
    assert max(map(abs, expected)) > 1e-2


def test_a_token_layer_is_changed_in_its_own_layout():
    torch.manual_seed(0)
    subject = ToySegmenter(Tokens().eval())
    image = bright_square(16, 24, top=4, left=6)
    mask = np.zeros((16, 24), dtype=bool)
    mask[4:12, 6:14] = True
    concepts = find_concepts(subject, [Example("x", image)], k=2)
    target = Region(1, mask)
    found = importance(subject, [(image, target)], concepts)

    def without(number):
        """Takes a concept away token by token."""

        def changed(_, __, output):
            output = output.clone()
            rows, columns = 4, 6
            leading = output.shape[1] - rows * columns
            grid = output[0, leading:].reshape(rows, columns, -1).permute(2, 0, 1)
            amounts = amounts_of(grid, concepts.vectors)
            for y in range(rows):
                for x in range(columns):
                    part = amounts[number, y, x] * concepts.vectors[number]
                    output[0, leading + y * columns + x] -= torch.from_numpy(part).float()
            return output

        handle = dict(subject.network.named_modules())[concepts.place.layer].register_forward_hook(changed)
        with torch.no_grad():
            score = float(target.score(subject.forward(image[None]))[0])
        handle.remove()
        return score

    np.testing.assert_allclose(found.scores[0] - found.drops[0], [without(0), without(1)], atol=1e-5)
    assert np.abs(found.drops).max() > 1e-3


def test_a_network_that_cannot_be_replayed_is_run_whole_with_the_right_scores():
    torch.manual_seed(0)
    subject = ToySegmenter(Aliased())
    image, target = bright_square(), Region(1, MASK)
    concepts = unet_concepts(subject, k=1, layer="shared")
    found = importance(subject, [(image, target)], concepts)
    with torch.no_grad():
        assert found.scores[0] == pytest.approx(float(target.score(subject.forward(image[None]))[0]), abs=1e-5)
    assert "the whole network was run again, since its layers cannot be replayed" in found.notes


def test_a_target_can_be_differentiated_afterwards():
    subject, target = small_unet(), Region(1, MASK)
    importance(subject, [(bright_square(), target)], unet_concepts(subject))
    leaf = bright_square()[None].clone().requires_grad_(True)
    target.score(subject.forward(leaf)).sum().backward()
    assert bool(leaf.grad.abs().sum() > 0)


def test_unstable_concepts_are_named_beside_their_importance():
    concepts = find_concepts(SUBJECT, examples(6, noise=0.3), k=5)
    found = importance(SUBJECT, [case(1)], concepts)
    assert any("unstable" in note for note in found.notes)


def test_images_of_any_size_batches_of_any_size_and_the_cost():
    concepts = find_concepts(SUBJECT, examples(4), k=2)
    cases = [case(1), case(2, size=(9, 14))]
    one, many = (importance(SUBJECT, iter(cases), concepts, batch_size=size) for size in (1, 8))
    np.testing.assert_allclose(one.drops, many.drops, atol=1e-6)
    # A recording, five variants, and two of them twice for the comparison.
    assert many.cost.forwards == 2 * (1 + 5 + 2)
    assert many.cost.backwards == 0


def test_hooks_are_gone_and_the_network_is_as_it_was():
    subject = small_unet()
    before = subject.forward(bright_square()[None])
    importance(subject, [(bright_square(), Region(1, MASK))], unet_concepts(subject))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in subject.network.modules())
    assert all("forward" not in vars(part) for part in subject.network.modules())
    torch.testing.assert_close(subject.forward(bright_square()[None]), before)


def test_wrong_calls_are_one_clear_error():
    concepts = find_concepts(SUBJECT, examples(4), k=2)
    with pytest.raises(UsageError, match="no image to explain"):
        importance(SUBJECT, [], concepts)
    black_box = ToySegmenter(SUBJECT.network, channels=2, offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="taking concepts away needs activations"):
        importance(black_box, [case(1)], concepts)
    with pytest.raises(UsageError, match="does not fit the logits"):
        importance(SUBJECT, [(blobs(1), Region(1, MASK))], concepts)


def test_the_example_of_the_page_runs(repository, monkeypatch, capsys):
    page = (repository / "docs" / "explainers" / "examples-and-concepts.md").read_text(encoding="utf-8")
    block = re.search(r"## Example\n\n((?:    .*\n|\n)+)", page)
    monkeypatch.chdir(repository)
    exec(compile(textwrap.dedent(block[1]), "example", "exec"), {})
    printed = capsys.readouterr().out
    assert "test 0" in printed
    assert "first half" in printed
