import numpy as np
import pytest
import torch

from tests.toys import BrightBlobs
from xaiseg.subject import Boxes, Detector, Segmenter, SubjectInfo, Threshold


class Fixed(Segmenter):
    def __init__(self, classes, threshold=0.5, offers=frozenset({"scores"})):
        self.info = SubjectInfo("fixed", classes, 1, threshold=Threshold(threshold), offers=offers)

    def predict(self, images, *, batch_size=8):
        return [torch.zeros(len(self.info.classes), *image.shape[1:]) for image in images]


def test_two_classes_are_decided_by_the_threshold():
    z = torch.logit(torch.tensor([[0.2, 0.4, 0.69, 0.71]]))
    logits = torch.stack((torch.zeros_like(z), z))
    prediction = Fixed(("background", "lesion"), threshold=0.7).decide(logits)
    assert prediction.labels.tolist() == [[0, 0, 0, 1]]
    assert prediction.labels.dtype == np.uint8
    np.testing.assert_allclose(prediction.probabilities[1], [[0.2, 0.4, 0.69, 0.71]], rtol=1e-5)


def test_more_classes_are_decided_by_the_largest():
    logits = torch.tensor([[[0.0, 3.0]], [[1.0, 2.0]], [[2.0, 1.0]]])
    assert Fixed(("background", "a", "b"), threshold=0.99).decide(logits).labels.tolist() == [[2, 0]]


def test_a_labels_only_subject_gives_no_probabilities():
    assert Fixed(("background", "a"), offers=frozenset()).decide(torch.zeros(2, 1, 1)).probabilities is None


def test_unknown_offers_are_refused():
    with pytest.raises(ValueError, match="scoers"):
        SubjectInfo("x", ("background", "a"), 1, offers=frozenset({"scoers"}))


def test_boxes_refuse_shapes_that_do_not_fit():
    Boxes(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        Boxes(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2, dtype=torch.int64))


def test_the_toy_detector_finds_planted_blobs():
    image = torch.zeros(1, 20, 30)
    image[0, 2:6, 3:9] = 0.8
    image[0, 10:12, 20:21] = 1.0
    detector = BrightBlobs()
    assert isinstance(detector, Detector)
    found, nothing = detector.predict([image, torch.zeros(1, 8, 8)])
    assert found.xyxy.tolist() == [[3, 2, 9, 6], [20, 10, 21, 12]]
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 1.0]))
    assert found.masks.sum(dim=(1, 2)).tolist() == [24, 2]
    assert nothing.xyxy.shape == (0, 4)
