"""Undersampled measurements, and fastMRI files that the tests write themselves."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data import kspace
from workloads.mri import MRI

MOST = {"train": 100, "validation": 100, "test": 100}


def scans(count=3, height=24, width=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, height, width)) + 1j * rng.normal(size=(count, height, width))


def test_kspace_is_centred_and_orthonormal():
    images = scans()
    there = kspace.to_kspace(images)
    np.testing.assert_allclose(kspace.to_images(there), images, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(there), np.linalg.norm(images))
    flat = kspace.to_kspace(np.ones((24, 20)))
    assert np.argwhere(np.abs(flat) > 1e-9).tolist() == [[12, 10]]


@pytest.mark.parametrize(("columns", "acceleration"), [(32, 4), (48, 4), (320, 8), (16, 1)])
def test_masks(columns, acceleration):
    masks = kspace.masks(np.random.default_rng(0), 2000, columns, acceleration)
    centre = kspace.centre_columns(columns)
    assert np.all(masks.sum(axis=1) == columns // acceleration)
    assert masks[:, centre].all()
    assert columns // 2 in range(columns)[centre]
    outside = np.delete(masks, np.arange(columns)[centre], axis=1).mean(axis=0)
    measured = columns // acceleration - (centre.stop - centre.start)
    np.testing.assert_allclose(outside, measured / len(outside), atol=0.06)


def test_zero_filling():
    images = scans(width=24)
    full = np.ones((3, 24), bool)
    np.testing.assert_allclose(kspace.zero_filled(images, full), np.abs(images), rtol=1e-5)
    half = kspace.masks(np.random.default_rng(0), 3, 24, 2)
    wanted = np.abs(kspace.to_images(np.where(half[:, None, :], kspace.to_kspace(images), 0)))
    np.testing.assert_allclose(kspace.zero_filled(images, half), wanted, rtol=1e-5)


def test_resizing_keeps_smooth_images():
    rows, columns = np.meshgrid(np.arange(48) / 48, np.arange(60) / 60, indexing="ij")
    smooth = 2.0 + np.exp(2j * np.pi * (2 * rows + 3 * columns))
    small = kspace.resized(smooth, 16)
    np.testing.assert_allclose(small.mean(), smooth.mean(), atol=1e-12)
    shift = np.arange(16) / 16
    exact = 2.0 + np.exp(2j * np.pi * (2 * shift[:, None] + 3 * shift[None]))
    np.testing.assert_allclose(np.abs(np.fft.fft2(small)), np.abs(np.fft.fft2(exact)), atol=1e-9)


def write_volume(path, slices=4, height=40, width=36, view=(32, 32), seed=0, with_max=True, patient=None, **changes):
    """A file as fastMRI's: k-space, the cropped magnitude image, and its largest value."""
    h5py = pytest.importorskip("h5py", reason="h5py is in the dev extra")
    images = scans(slices, height, width, seed) * 1e-4
    rows, columns = ((k - f) // 2 for k, f in zip((height, width), view, strict=True))
    reconstruction = np.abs(images[:, rows : rows + view[0], columns : columns + view[1]]).astype(np.float32)
    entries = {"kspace": kspace.to_kspace(images).astype(np.complex64), "reconstruction_esc": reconstruction} | changes
    with h5py.File(path, "w") as file:
        for name, values in entries.items():
            if values is not None:
                file[name] = values
        if with_max:
            file.attrs["max"] = reconstruction.max()
        if patient is not None:
            file.attrs["patient_id"] = patient
    return reconstruction


def test_files_give_their_reconstructions(tmp_path):
    wanted = [write_volume(tmp_path / f"file{i}.h5", seed=i) for i in range(3)]
    found = kspace.load_folder(tmp_path, 32, MOST)
    names = [found.info["files"][split][0] for split in ("train", "validation", "test")]
    assert sorted(names) == [f"file{i}.h5" for i in range(3)]
    for split, name in zip(("train", "validation", "test"), names, strict=True):
        reconstruction = wanted[int(name[4])]
        np.testing.assert_allclose(np.abs(found.splits[split].images), reconstruction, rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(found.splits[split].peak, reconstruction.max(), rtol=1e-6)


def test_the_workload_trains_on_files(tmp_path):
    for i in range(12):
        write_volume(tmp_path / f"file{i}.h5", seed=i)
    workload = MRI(data=f"path:{tmp_path}", image_size=16, train_images=30, depth=1)
    data = workload.load()
    assert data.examples == 30
    assert {split: len(names) for split, names in data.info["files"].items()} == {
        "train": 10,
        "validation": 1,
        "test": 1,
    }
    assert data.arrays["test_inputs"].shape == (4, 16, 16)
    assert np.all(np.abs(data.arrays["train_inputs"].mean(axis=(1, 2))) < 0.05)
    assert 0 < workload.trivial_metric() < 1
    assert workload.load() is data
    write_volume(tmp_path / "file0.h5", seed=99)
    assert workload.load().info["sha256"] != data.info["sha256"]


@pytest.mark.parametrize("with_max", [True, False])
def test_slices_are_of_all_volumes_and_evenly_spaced(tmp_path, with_max):
    for i in range(12):
        write_volume(tmp_path / f"file{i}.h5", slices=2 if i == 5 else 9, seed=i, with_max=with_max)
    every = kspace.load_folder(tmp_path, 16, MOST)
    found = kspace.load_folder(tmp_path, 16, {"train": 33, "validation": 3, "test": 2})
    assert found.info["slices"] == {"train": 33, "validation": 3, "test": 2}

    def rows(split):
        """Where the slices lie among all of the split."""
        chosen, sources = found.splits[split].images, every.splits[split].images
        return [int(np.flatnonzero((sources == image).all(axis=(1, 2)))[0]) for image in chosen]

    names = found.info["files"]["train"]
    ends = np.cumsum([2 if name == "file5.h5" else 9 for name in names])
    counts = np.bincount(np.searchsorted(ends, rows("train"), side="right"), minlength=10)
    assert all(count in ((2,) if name == "file5.h5" else (3, 4)) for name, count in zip(names, counts, strict=True))
    assert rows("validation") == [1, 4, 7]
    for split in ("validation", "test"):
        largest = np.abs(every.splits[split].images).max()  # of the one volume, resized, whatever its attribute says
        np.testing.assert_allclose(found.splits[split].peak, largest, rtol=1e-6)
    few = kspace.load_folder(tmp_path, 16, {"train": 4, "validation": 9, "test": 9}).info
    assert few["slices"]["train"] == 4
    assert few["files"]["train"] == names[:4]


def test_a_patient_is_in_one_split(tmp_path):
    for i in range(24):
        write_volume(tmp_path / f"file{i}.h5", slices=2, seed=i, patient=f"patient {i // 3}")
    (tmp_path / "._file0.h5").write_text("what macOS leaves")
    info = kspace.load_folder(tmp_path, 16, MOST).info
    patients = {split: {int(name[4:-3]) // 3 for name in names} for split, names in info["files"].items()}
    assert {split: len(found) for split, found in patients.items()} == {"train": 6, "validation": 1, "test": 1}
    assert set.union(*patients.values()) == set(range(8))
    assert all(len(info["files"][split]) == 3 * len(found) for split, found in patients.items())
    assert "patient_id" in info["split"]


def test_published_folders_are_kept_apart(tmp_path):
    """As published: the training volumes train, the others are halved, and the masked ones have no target."""
    for folder, numbers in (("train", range(3)), ("val", range(3, 9)), ("test", range(9, 11))):
        (tmp_path / f"singlecoil_{folder}").mkdir()
        for i in numbers:
            masked = {"mask": np.ones(36), "reconstruction_esc": None} if folder == "test" else {}
            write_volume(tmp_path / f"singlecoil_{folder}/file{i}.h5", seed=i, patient=f"p{(i + 1) // 2}", **masked)
    write_volume(tmp_path / "file12.h5", patient="another")
    info = kspace.load_folder(tmp_path, 16, MOST).info
    numbers = {split: {int(name[4:-3]) for name in names} for split, names in info["files"].items()}
    assert numbers["train"] == {0, 1, 2}
    assert numbers["validation"] | numbers["test"] == set(range(3, 9))
    assert {(i + 1) // 2 for i in numbers["validation"]}.isdisjoint({(i + 1) // 2 for i in numbers["test"]})
    assert info["left_out"] == {"without_reconstruction": 2, "in_other_folders": 1}
    assert "halves of the patients" in info["split"]
    write_volume(tmp_path / "singlecoil_test/file11.h5", mask=np.ones(36), reconstruction_esc=None)
    with pytest.raises(BadInput, match=r"all 3 volumes .*give the folder of singlecoil_train and singlecoil_val"):
        kspace.load_folder(tmp_path / "singlecoil_test", 16, MOST)


def test_too_few_patients(tmp_path):
    for i in range(4):
        write_volume(tmp_path / f"file{i}.h5", patient=f"p{i % 2}")
    with pytest.raises(BadInput, match=r"too few patients, none for the .* split: give volumes of at least 3"):
        kspace.load_folder(tmp_path, 16, MOST)


def test_a_split_of_one_slice_is_refused(tmp_path):
    for i in range(3):
        write_volume(tmp_path / f"file{i}.h5", slices=1)
    with pytest.raises(BadInput, match=r"leaves 1 slice to the train split .*give more volumes"):
        kspace.load_folder(tmp_path, 16, MOST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kspace": None}, "has reconstruction_esc in it"),
        ({"reconstruction_esc": None}, "has kspace in it"),
        ({"kspace": np.zeros((2, 3, 40, 36), np.complex64)}, "single-coil volumes are"),
        ({"kspace": np.zeros((2, 40, 36), np.float32)}, "single-coil volumes are"),
        ({"reconstruction_esc": np.zeros((4, 8, 8), np.float32)}, "at least workload.image_size=16"),
        ({"reconstruction_esc": np.zeros((4, 64, 64), np.float32)}, "no larger than k-space"),
    ],
)
def test_malformed_files(tmp_path, changes, message):
    for i in range(3):
        write_volume(tmp_path / f"file{i}.h5", **changes)
    with pytest.raises(BadInput, match=message):
        kspace.load_folder(tmp_path, 16, MOST)


def test_missing_folders_files_and_packages(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="no folder"):
        MRI(data=f"path:{tmp_path / 'nowhere'}").load()
    with pytest.raises(BadInput, match="has 0 files"):
        MRI(data=f"path:{tmp_path}").load()
    for i in range(3):
        (tmp_path / f"file{i}.h5").write_text("no hdf5")
    with pytest.raises(BadInput, match="no readable HDF5 file"):
        MRI(data=f"path:{tmp_path}").load()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BadInput, match="pip install h5py"):
        MRI(data=f"path:{tmp_path}").load()
    with pytest.raises(BadInput, match=r"unknown workload\.data 'knee'"):
        MRI(data="knee").load()
