from __future__ import annotations

import hashlib
import io
from itertools import pairwise

import numpy as np
from PIL import Image

from xaiseg.data.hashing import dhash, file_sha256
from xaiseg.data.phantoms import PhantomSpec, phantom_case


def images(count=12):
    return [phantom_case(PhantomSpec(), index)[0] for index in range(count)]


def differing(one, other):
    return (dhash(one) ^ dhash(other)).bit_count()


def test_file_sha256_is_that_of_all_bytes(tmp_path):
    content = np.random.default_rng(0).bytes(3_000_000)  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_dhash_is_the_definition():
    """Slowly, on a grid where the boxes are whole: 9 x 8 cells of 5 x 4 pixels."""
    image = np.random.default_rng(0).random((32, 45))
    bits = ""
    for row in range(8):
        means = [image[4 * row : 4 * row + 4, 5 * column : 5 * column + 5].mean() for column in range(9)]
        bits += "".join("1" if right > left else "0" for left, right in pairwise(means))
    assert dhash(image) == int(bits, 2)
    assert dhash(np.stack([image] * 3)) == int(bits, 2)
    assert 0 <= dhash(image) < 2**64


def test_dhash_survives_jpeg_rescaling_and_gain():
    for image in images():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=60)
        height, width = image.shape
        half = Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
        assert differing(image, np.asarray(Image.open(buffer))) <= 2
        assert differing(image, np.asarray(half)) <= 4
        assert differing(image, image * 0.5 + 20) == 0


def test_dhash_tells_pictures_apart():
    held = images()
    apart = [differing(held[i], held[j]) for i in range(len(held)) for j in range(i)]
    assert min(apart) > 4
