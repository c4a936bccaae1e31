"""Magnetic resonance images and their undersampled measurements, made from complex images or read from fastMRI's files.

k-space is the centred, orthonormal Fourier transform of a complex image. A measurement keeps a few of its columns (a
Cartesian mask); putting zeros in place of the others and transforming back gives the zero-filled image, which a model is to
repair. Images are magnitudes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import SPLITS

CENTRE = 0.08  # share of the columns that is always measured, as in fastMRI
_AXES = (-2, -1)
_SHARES = (0.8, 0.1, 0.1)  # of the patients of a folder, in the order of SPLITS
_RECONSTRUCTIONS = ("reconstruction_esc", "reconstruction_rss")
Stamp = tuple[str, int, int]  # path, bytes, modification time in ns
LAYOUT = (
    "a folder of fastMRI single-coil volumes, *.h5, each with `kspace` (slices, height, width), complex, and "
    "`reconstruction_esc` or `reconstruction_rss` (slices, height, width), below folders *_train and *_val or not"
)


@dataclass(frozen=True)
class Scans:
    """images: (N, S, S) complex64, fully sampled. peak: (N,) float32, the data range that SSIM is measured with."""

    images: np.ndarray
    peak: np.ndarray


@dataclass(frozen=True, eq=False)
class ScanSet:
    """Scans by split, and what is recorded of them."""

    splits: Mapping[str, Scans]
    info: Mapping[str, Any] = field(default_factory=dict)


def to_kspace(images: np.ndarray) -> np.ndarray:
    """(..., S, S) complex -> (..., S, S), lowest frequency in the middle."""
    shifted = np.fft.fft2(np.fft.ifftshift(images, axes=_AXES), norm="ortho")
    return np.fft.fftshift(shifted, axes=_AXES)


def to_images(kspace: np.ndarray) -> np.ndarray:
    """The inverse of `to_kspace`."""
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, axes=_AXES), norm="ortho")
    return np.fft.fftshift(shifted, axes=_AXES)


def centre_columns(columns: int) -> slice:
    """The columns that every mask measures: 8% of them, at least one."""
    count = max(1, round(CENTRE * columns))
    first = (columns - count + 1) // 2
    return slice(first, first + count)


def masks(rng: np.random.Generator, count: int, columns: int, acceleration: int) -> np.ndarray:
    """(count, columns) booleans: columns / acceleration measured ones each, the centre and others at random."""
    score = rng.random((count, columns))
    score[:, centre_columns(columns)] += 1.0
    rank = np.argsort(np.argsort(-score, axis=1), axis=1)
    return rank < columns // acceleration


def zero_filled(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, S, S) complex and (N, S) masks of columns -> (N, S, S) float32 magnitudes."""
    return np.abs(to_images(to_kspace(images) * mask[:, None, :])).astype(np.float32)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """(..., H, W) complex -> (..., size, size) by keeping the middle of k-space, H and W at least `size`; means are kept."""
    height, width = images.shape[-2:]
    middle = to_kspace(images)[(..., _middle(height, size), _middle(width, size))]
    return to_images(middle) * (size / np.sqrt(height * width))


def _middle(length: int, size: int) -> slice:
    first = length // 2 - size // 2
    return slice(first, first + size)


def stamps(folder: Path) -> tuple[Stamp, ...]:
    """Of all files that `load_folder` reads, so that a changed folder is another data set. Raises BadInput as it does."""
    found = []
    for path in _files(folder):
        stat = path.stat()
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def load_folder(folder: Path, size: int, most: Mapping[str, int]) -> ScanSet:
    """The volumes below a folder (see LAYOUT), all volumes of a patient (attribute `patient_id`, else the file's name) in one
    split: of folders whose names end in _train and _val the first trains, and the patients of the second are halved between
    validation and test, as AlgoPerf does with its files; without such folders 80/10/10 of the patients. Patients are taken in
    the order of their SHA-256. Volumes with a `mask` and no reconstruction, as fastMRI's test set has, are left out.

    A slice is brought to the field of view of the file's reconstruction, as fastMRI does, by cropping the middle of the fully
    sampled image, and then to size x size pixels by cropping k-space; its magnitude is the target (at full size it is
    `reconstruction_esc`). peak is the largest magnitude of the volume at this size (in training: of the slices taken), at
    full size the file's attribute `max`, where it has one, as in fastMRI and AlgoPerf.
    most: split -> the most slices it may have, evenly spaced ones of each of its files, about as many of one as of another.
    Raises BadInput on missing or malformed files, too few patients, or a split of fewer than two slices.
    """
    volumes = [_volume(path, folder) for path in _files(folder)]
    usable = [volume for volume in volumes if volume.reconstructed]
    if not usable:
        raise BadInput(
            f"all {len(volumes)} volumes in '{folder}' have a mask and no reconstruction, as fastMRI's test set, which nothing "
            f"can be learnt from: give the folder of singlecoil_train and singlecoil_val; it must be {LAYOUT}"
        )
    chosen, rule = _split(usable, folder)
    splits: dict[str, Scans] = {}
    names: dict[str, list[str]] = {}
    for split in SPLITS:
        splits[split], names[split] = _read_all(chosen[split], size, most[split], whole=split != "train")
        if len(splits[split].peak) < 2:
            raise BadInput(
                f"'{folder}' leaves {len(splits[split].peak)} slice to the {split} split ({', '.join(names[split])}), which "
                f"needs 2: give more volumes, or more slices"
            )
    info = {
        "source": "fastMRI files",
        "files": names,
        "slices": {split: len(scans.peak) for split, scans in splits.items()},
        "left_out": {
            "without_reconstruction": len(volumes) - len(usable),
            "in_other_folders": len(usable) - sum(map(len, chosen.values())),
        },
        "split": rule,
        "sha256": _fingerprint(splits),
    }
    return ScanSet(splits, info)


@dataclass(frozen=True)
class _Volume:
    """folders: between the data set's folder and the file."""

    path: Path
    patient: str
    folders: tuple[str, ...]
    reconstructed: bool


def _volume(path: Path, folder: Path) -> _Volume:
    with _opened(path) as file:
        patient = file.attrs.get("patient_id", path.name)
        patient = patient.decode(errors="replace") if isinstance(patient, bytes) else str(patient)
        reconstructed = "mask" not in file or any(name in file for name in _RECONSTRUCTIONS)
    return _Volume(path, patient, path.relative_to(folder).parts[:-1], reconstructed)


def _split(volumes: Sequence[_Volume], folder: Path) -> tuple[dict[str, list[Path]], str]:
    """The files of every split, and the rule in words."""
    within = {end: [v for v in volumes if any(name.endswith(end) for name in v.folders)] for end in ("_train", "_val")}
    if all(within.values()):
        train, held_out = (_by_patient(within[end]) for end in ("_train", "_val"))
        half = len(held_out) // 2
        groups = train, held_out[:half], held_out[half:]
        rule = (
            "train: folder *_train; validation and test: halves of the patients in *_val, by the SHA-256 of patient_id"
        )
    else:
        patients = _by_patient(volumes)
        ends = np.round(np.cumsum(_SHARES) * len(patients)).astype(int)
        ends = np.clip(ends, [1, 2, 3], np.maximum(len(patients) - np.array([2, 1, 0]), 0))
        groups = patients[: ends[0]], patients[ends[0] : ends[1]], patients[ends[1] :]
        rule = "80/10/10 of the patients, by the SHA-256 of patient_id (of the file's name where there is none)"
    for split, group in zip(SPLITS, groups, strict=True):
        if not group:
            raise BadInput(
                f"'{folder}' has too few patients, none for the {split} split: give volumes of at least {len(SPLITS)} (of 2 in "
                f"the folder *_val, where there is one), told apart by the attribute patient_id"
            )
    files = ([path for patient in group for path in patient] for group in groups)
    return dict(zip(SPLITS, files, strict=True)), rule


def _by_patient(volumes: Sequence[_Volume]) -> list[list[Path]]:
    """The files of every patient, patients by the SHA-256 of what tells them apart."""
    found: dict[str, list[Path]] = {}
    for volume in volumes:
        found.setdefault(volume.patient, []).append(volume.path)
    return [
        found[patient] for patient in sorted(found, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())
    ]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"no folder '{folder}': write data=path:FOLDER with {LAYOUT}")
    files = sorted(path for path in folder.rglob("*.h5") if not path.name.startswith("."))
    if len(files) < len(SPLITS):
        raise BadInput(
            f"'{folder}' has {len(files)} files *.h5, at least {len(SPLITS)} are needed: one a split; it must be {LAYOUT}"
        )
    return files


def _fingerprint(splits: Mapping[str, Scans]) -> str:
    """SHA-256 of all images."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(np.ascontiguousarray(splits[split].images, "<c8").data)
    return digest.hexdigest()


def _read_all(files: Sequence[Path], size: int, most: int, whole: bool) -> tuple[Scans, list[str]]:
    """At most `most` slices and the names of the files they are of; what a short file lacks the later ones make up for."""
    images: list[np.ndarray] = []
    peaks: list[np.ndarray] = []
    left = most
    for number, path in enumerate(files):
        share = -(-left // (len(files) - number))
        if not share:
            break
        slices, peak = _read(path, size, share, whole)
        images.append(slices.astype(np.complex64))
        peaks.append(np.full(len(slices), peak, np.float32))
        left -= len(slices)
    return Scans(np.concatenate(images), np.concatenate(peaks)), [path.name for path in files[: len(images)]]


def _read(path: Path, size: int, most: int, whole: bool) -> tuple[np.ndarray, float]:
    """At most `most` evenly spaced slices, (slices, size, size) complex, and the data range.

    whole: it is that of all slices of the volume, not of those alone.
    """
    with _opened(path) as file:
        names = [name for name in _RECONSTRUCTIONS if name in file]
        if "kspace" not in file or not names:
            raise BadInput(
                f"'{path}' has {', '.join(sorted(file)) or 'nothing'} in it; data=path:FOLDER must be {LAYOUT}"
            )
        shape, dtype, field_of_view = file["kspace"].shape, file["kspace"].dtype, file[names[0]].shape[-2:]
        _check(path, shape, dtype, field_of_view, size)
        peak = float(file.attrs.get("max", 0.0)) if tuple(field_of_view) == (size, size) else 0.0
        count = min(most, shape[0])
        chosen = [(2 * index + 1) * shape[0] // (2 * count) for index in range(count)]
        every = whole and not peak
        kspace = file["kspace"][slice(None) if every else chosen]
    rows, columns = (_middle(k, f) for k, f in zip(shape[1:], field_of_view, strict=True))
    slices = resized(to_images(kspace)[:, rows, columns], size)
    return slices[chosen] if every else slices, peak or float(np.abs(slices).max())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file. Raises BadInput where it cannot be read."""
    try:
        import h5py
    except ImportError:
        raise BadInput("reading fastMRI files needs the package h5py: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise BadInput(f"'{path}' is no readable HDF5 file ({error}); data=path:FOLDER must be {LAYOUT}") from None


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype, field_of_view: tuple[int, ...], size: int) -> None:
    """Raises BadInput unless k-space and reconstructions are of shapes that go together."""
    if len(shape) != 3 or dtype.kind != "c" or not shape[0]:
        raise BadInput(
            f"'{path}' has a kspace of shape {shape}, {dtype}: single-coil volumes are (slices, height, width), complex"
        )
    if min(*field_of_view) < size or any(f > k for f, k in zip(field_of_view, shape[1:], strict=True)):
        raise BadInput(
            f"'{path}' has {shape[1:]} k-space and {tuple(field_of_view)} reconstructions: the reconstructions must "
            f"be no larger than k-space, and at least workload.image_size={size}"
        )
