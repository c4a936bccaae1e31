"""Generated scans: what their docstring claims."""

from __future__ import annotations

import numpy as np
import pytest

from workloads.data import phantoms
from workloads.data.phantoms import generate, patches

SIZE = 32
SCANS = generate(3, SIZE, (400, 20, 30))


def rng():
    return np.random.default_rng(0)


def test_sizes_and_magnitudes():
    for split, count in (("train", 400), ("validation", 20), ("test", 30)):
        scans = SCANS.splits[split]
        assert scans.images.shape == (count, SIZE, SIZE)
        assert scans.images.dtype == np.complex64
        magnitude = np.abs(scans.images)
        np.testing.assert_allclose(magnitude.max(axis=(1, 2)), scans.peak, rtol=1e-5)
        assert magnitude.max() <= 1.0 + 1e-6
        assert np.all(magnitude.std(axis=(1, 2)) > 1e-3)


def test_deterministic_by_seed():
    phantoms._generate.cache_clear()
    again = generate(3, SIZE, (400, 20, 30))
    assert again.info == SCANS.info
    np.testing.assert_array_equal(again.splits["test"].images, SCANS.splits["test"].images)
    assert generate(4, SIZE, (400, 20, 30)).info["sha256"] != SCANS.info["sha256"]


def test_identity_is_what_images_are_made_from_and_not_how_they_round(monkeypatch):
    """As on a processor whose sines differ in the last bit."""
    sine, cosine = np.sin, np.cos
    monkeypatch.setattr(np, "sin", lambda x: np.nextafter(sine(x), np.float32(2)))
    monkeypatch.setattr(np, "cos", lambda x: np.nextafter(cosine(x), np.float32(2)))
    phantoms._generate.cache_clear()
    elsewhere = generate(3, SIZE, (400, 20, 30))
    phantoms._generate.cache_clear()
    assert np.any(elsewhere.splits["train"].images != SCANS.splits["train"].images)
    assert elsewhere.info["sha256"] == SCANS.info["sha256"]
    assert generate(3, SIZE, (400, 20, 31)).info["sha256"] != SCANS.info["sha256"]


def test_a_phantom_is_a_body_on_black():
    images = phantoms.phantoms(rng(), 300, SIZE)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() == 0.0
    covered = np.mean(images > 0.02, axis=(1, 2))
    area = np.pi * 0.65**2 / 4  # the ellipse with the mean axes, of the square from -1 to 1
    assert abs(np.mean(covered) - area) < 0.05
    assert len({image.tobytes() for image in images}) == 300


def test_ellipses_have_their_area_and_place():
    def column(value):
        return np.full((1, 1, 1), value, np.float32)

    drawn = phantoms._ellipse(128, column(0.2), column(-0.1), column(0.5), column(0.25), column(0.0))[0]
    assert drawn.sum() * (2 / 128) ** 2 == pytest.approx(np.pi * 0.5 * 0.25, rel=0.02)
    rows, columns = np.nonzero(drawn > 0.5)
    assert (rows.mean() + 0.5) * 2 / 128 - 1 == pytest.approx(0.2, abs=0.01)
    assert (columns.mean() + 0.5) * 2 / 128 - 1 == pytest.approx(-0.1, abs=0.01)
    assert np.ptp(rows) == pytest.approx(2 * np.ptp(columns), rel=0.05)


def test_texture_and_phase_have_their_spread():
    texture = phantoms._texture(rng(), 500, SIZE)
    assert texture.std() == pytest.approx(1.0, rel=0.05)
    phase = phantoms.phases(rng(), 2000, SIZE)
    corner = phase[:, 0, 0]
    edge = 1 - 1 / SIZE
    wanted = phantoms.PHASE * np.sqrt(1 + 2 * edge**2 + 3 * edge**4)
    assert corner.std() == pytest.approx(wanted, rel=0.1)
    assert np.abs(np.diff(phase, 2, axis=1)).max() < 0.05  # smooth


def test_patches_come_from_their_columns(monkeypatch):
    """A photograph whose brightness is its column says where a patch is from."""
    ramp = np.broadcast_to(np.linspace(0, 1, 640, dtype=np.float32), (427, 640))
    monkeypatch.setattr(phantoms, "_photographs", lambda: [ramp, ramp])
    for low, high in phantoms._COLUMNS:
        found = patches(rng(), 60, SIZE, (low, high))
        assert found.min() >= low - 1e-3
        assert found.max() <= high + 1e-3
        assert found.max() - found.min() > 0.5 * (high - low)


def test_larger_images_have_the_scales_that_fit(monkeypatch):
    assert all(photograph.shape == phantoms._PHOTOGRAPH for photograph in phantoms._photographs())
    largest = phantoms.largest_size()
    assert generate(3, largest, (20, 20, 20)).splits["test"].images.shape == (20, largest, largest)
    ramp = np.broadcast_to(np.arange(640, dtype=np.float32), (427, 640))
    monkeypatch.setattr(phantoms, "_photographs", lambda: [ramp, ramp])
    for size, scales in ((largest // 2, {1, 2}), (largest // 2 + 1, {1}), (largest, {1})):
        for columns in phantoms._COLUMNS:  # all splits alike
            span = np.ptp(patches(rng(), 20, size, columns), axis=(1, 2)) / (size - 1)
            assert set(span.round(3)) == scales


def test_share_of_photographs():
    """A phantom's corners are black, a photograph's are not."""
    dark = np.abs(SCANS.splits["train"].images)[:, [0, 0, -1, -1], [0, -1, 0, -1]].max(axis=1) < 1e-6
    assert abs(np.mean(~dark) - phantoms.PHOTOGRAPHS) < 0.02
