"""Generated speech has the statistics it claims, recordings are read as they are, and features match a plain reference."""

from __future__ import annotations

import functools
import itertools
import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data import formants, librispeech
from workloads.data.formants import LETTERS, SAMPLE_RATE, SAMPLES, SEPARATOR, Speakers, Spoken, lexicon, speak
from workloads.data.speech import SPLITS, UNKNOWN, load_speech
from workloads.speech import SpeechRecognition
from workloads.speech_frontend import FrontEnd, log_mel, mel_filters, spec_augment

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # a third of the time to compile
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
FRONT = FrontEnd(SAMPLE_RATE, 20)
PLAIN = Speakers(pitch=(120.0, 120.0), drift=(0.0, 0.0), tract=(1.0, 1.0), snr=(90.0, 90.0))


@functools.cache
def spoken() -> Spoken:
    return speak(600, seed=3, stream=0)


def words_of(labels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(group) for letter, group in itertools.groupby(labels.tolist(), lambda x: x != 1) if letter]


def test_transcripts_are_words_of_the_lexicon_all_equally_frequent() -> None:
    words = [tuple(int(letter) for letter in word if letter) for word in lexicon(3)]
    assert len(set(words)) == formants.LEXICON
    assert all(2 <= len(word) <= 3 and all(a != b for a, b in itertools.pairwise(word)) for word in words)
    found = spoken()
    said = [words_of(row[:length]) for row, length in zip(found.labels, found.lengths, strict=True)]
    assert {len(utterance) for utterance in said} == {2, 3}
    counts = np.array([sum(utterance.count(word) for utterance in said) for word in words])
    assert counts.sum() == sum(map(len, said))
    chi_squared = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert abs(chi_squared - (len(words) - 1)) < 4 * (2 * len(words)) ** 0.5
    after = np.arange(found.labels.shape[1])[None, :] >= found.lengths[:, None]
    assert (found.labels[after] == 0).all()
    assert (found.labels[~after] > 0).all()


def test_the_sound_depends_on_the_seed_and_the_stream_only() -> None:
    first = speak(70, seed=3, stream=1)
    np.testing.assert_array_equal(first.audio, speak(70, seed=3, stream=1).audio)
    for other in (speak(70, seed=4, stream=1), speak(70, seed=3, stream=2)):
        assert (first.audio != other.audio).any()
        assert (first.samples != other.samples).any()
    assert (lexicon(3) != lexicon(4)).any()


def test_length_loudness_and_noise_are_in_their_ranges() -> None:
    found = spoken()
    assert found.samples.min() >= 0.75 * SAMPLES - 1
    assert found.samples.max() <= SAMPLES
    assert found.samples.mean() == pytest.approx(0.875 * SAMPLES, rel=0.02)
    after = np.arange(SAMPLES)[None, :] >= found.samples[:, None]
    assert (found.audio[after] == 0).all()
    peak = np.abs(found.audio.astype(float)).max(axis=1) / 2**15
    assert 0.099 < peak.min() < 0.15
    assert 0.7 < peak.max() < 0.801
    assert np.log(peak).mean() == pytest.approx(np.log([0.1, 0.8]).mean(), abs=4 * np.log(8) / (12 * 600) ** 0.5)
    quiet, noisy = (speak(64, 3, 0, Speakers(snr=(db, db))).audio.astype(float) for db in (90.0, 10.0))
    gain = (quiet * noisy).sum(axis=1) / (quiet**2).sum(axis=1)
    rest = noisy - gain[:, None] * quiet
    decibels = 10 * np.log10(((gain[:, None] * quiet) ** 2).sum(axis=1) / (rest**2).sum(axis=1))
    assert decibels.mean() == pytest.approx(10.0, abs=0.2)


def test_default_data_are_below_100_megabytes() -> None:
    assert (4096 + 512 + 4096) * SAMPLES * 2 < 100e6


def segments(found: Spoken) -> tuple[np.ndarray, np.ndarray]:
    """Log spectra of the middle of every unit, without their mean, and its label."""
    spectra, labels = [], []
    for row in range(len(found.audio)):
        start = np.concatenate([[0.0], found.ends[row]])[: found.lengths[row]]
        first = start.copy()
        first[0] = 0.5 * found.ends[row][0]  # behind the silence that begins the utterance
        for begin, end, label in zip(first, found.ends[row], found.labels[row][: found.lengths[row]], strict=False):
            middle = int((begin + end) / 2)
            sound = found.audio[row, middle - 64 : middle + 64].astype(float) * np.hanning(128)
            mel = np.log(np.abs(np.fft.rfft(sound)) ** 2 @ mel_filters(FRONT) + 1.0)
            spectra.append(mel)
            labels.append(label)
    return np.array(spectra), np.array(labels)


def test_every_unit_has_its_own_sound() -> None:
    """Of one speaker without noise, the nearest mean spectrum names the unit."""
    voice = Speakers(pitch=(120.0, 120.0), drift=(0.0, 0.0), tract=(1.0, 1.0), snr=(90.0, 90.0), loudness=(0.5, 0.5))
    spectra, labels = segments(speak(200, 3, 0, voice))
    means = np.array([spectra[labels == label].mean(axis=0) for label in range(1, 2 + len(LETTERS))])
    other, truth = segments(speak(100, 3, 1, voice))
    nearest = 1 + np.argmin(((other[:, None, :] - means[None]) ** 2).sum(axis=2), axis=1)
    assert np.mean(nearest == truth) > 0.97


def test_a_vowel_has_its_pitch_and_formants() -> None:
    found = speak(400, 3, 0, PLAIN)
    label = 1 + (SEPARATOR + LETTERS).index("a")
    pieces = []
    for row in range(400):
        for place in range(1, found.lengths[row]):
            begin, end = found.ends[row][place - 1] + 48, found.ends[row][place] - 48
            if found.labels[row][place] == label and end - begin >= 200:
                pieces.append(found.audio[row, int(begin) : int(begin) + 200].astype(float))
    assert len(pieces) > 20
    sound = np.array(pieces)
    lags = np.arange(20, 60)
    similar = [(sound[:, :-lag] * sound[:, lag:]).sum() for lag in lags]
    assert abs(SAMPLE_RATE / lags[np.argmax(similar)] - 120.0) < 5
    power = (np.abs(np.fft.rfft(sound * np.hanning(200), 1024)) ** 2).mean(axis=0)
    hertz = np.fft.rfftfreq(1024, 1 / SAMPLE_RATE)
    band = lambda f: power[np.abs(hertz - f) < 100].mean()  # noqa: E731
    first, second = formants.UNITS["a"].formants
    assert min(band(first), band(second)) > 3 * max(band(300.0), band(1700.0))


def by_definition(sound: np.ndarray, frames: int) -> np.ndarray:
    """(frames, F) float64: Hann, periodogram, triangles, log, and standardised bands."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(128) / 128)
    power = [np.abs(np.fft.fft(window * sound[40 * t : 40 * t + 128] / 2**15)[:65]) ** 2 for t in range(frames)]
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 2000 / 700), 22) / 2595) - 1)
    rows = []
    for spectrum in power:
        row = []
        for low, top, high in zip(edges, edges[1:], edges[2:], strict=False):
            hertz = np.arange(65) * SAMPLE_RATE / 128
            weight = np.where(hertz <= top, (hertz - low) / (top - low), (high - hertz) / (high - top))
            row.append(np.log(np.maximum(weight, 0) @ spectrum + 1e-6))
        rows.append(row)
    features = np.array(rows) - np.mean(rows, axis=0)
    return features / np.sqrt(features.var(axis=0) + 1e-3)


def test_features_are_those_of_the_definition() -> None:
    audio, samples = spoken().audio[:4], spoken().samples[:4]
    features, frames = quick_jit(log_mel, static_argnums=(2, 3))(audio, samples, FRONT, 8)
    assert features.shape == (4, 96, 20)
    np.testing.assert_array_equal(frames, 1 + (samples - 128) // 40)
    for row in range(4):
        expected = by_definition(audio[row].astype(np.float64), int(frames[row]))
        np.testing.assert_allclose(features[row, : frames[row]], expected, atol=2e-3)
        assert not features[row, frames[row] :].any()


def test_sounds_shorter_than_a_window_have_one_frame() -> None:
    features, frames = log_mel(np.ones((1, 50), np.int16), np.array([50]), FRONT, 4)
    assert features.shape == (1, 4, 20)
    assert frames.tolist() == [1]


def test_spec_augment_hides_spans_of_bands_and_frames() -> None:
    frames = np.array([40, 92] * 200, np.int32)
    ones = np.ones((400, 92, 20), np.float32)

    @quick_jit
    def masked(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return spec_augment(ones, frames, key, 1, 0), spec_augment(ones, frames, key, 0, 2)

    by_band, by_time = (np.asarray(x) for x in masked(jax.random.key(0)))
    bands = (by_band == 0).all(axis=1)
    assert (by_band == np.where(bands, 0.0, 1.0)[:, None, :]).all()
    width = bands.sum(axis=1)
    assert set(width) == {0, 1, 2, 3, 4}
    assert (np.abs(np.diff(bands.astype(int), axis=1)).sum(axis=1) <= 2).all(), "one span"
    assert width.mean() == pytest.approx(2.0, abs=4 * 2**0.5 / 400**0.5)
    assert bands.any(axis=0).all(), "every band is hidden at times"
    hidden = (by_time == 0).all(axis=2)
    assert (by_time == np.where(hidden, 0.0, 1.0)[:, :, None]).all()
    assert not hidden[0::2, 40:].any(), "masks lie in the utterance"
    assert hidden[1::2].sum(axis=1).max() == 2 * 4
    assert hidden[0::2].sum(axis=1).max() == 2 * 2
    np.testing.assert_array_equal(spec_augment(ones, frames, jax.random.key(0), 0, 0), ones)


SOUNDS = np.random.default_rng(0).integers(-9000, 9000, (6, 12800)).astype(np.int16)
TEXTS = ["A CAT SAT", "THE CAT", "IT'S FLAT", "THAT HAT", "A TEST", "SEA TEA"]


def write_wav(path: Path, sound: np.ndarray, rate: int = 8000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())


def library(root: Path, ending: str = ".wav") -> Path:
    """Three training recordings of 1.6, 0.8 and 1.2 s in two chapters, one in dev-clean, two folders of tests."""
    training = ["train-clean-5/1/2", "train-clean-5/1/2", "train-other-5/3/4"]
    places = [*training, "dev-clean/5/6", "test-clean/7/8", "test-other/9/1"]
    sizes = [12800, 6400, 9600, 7200, 8000, 8800]
    for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
        folder = root / place
        folder.mkdir(parents=True, exist_ok=True)
        _, speaker, chapter = place.split("/")
        name = f"{speaker}-{chapter}-{number:04d}"
        if ending == ".wav":
            write_wav(folder / f"{name}.wav", SOUNDS[number, :size])
        else:
            soundfile = pytest.importorskip("soundfile")
            soundfile.write(folder / f"{name}.flac", SOUNDS[number, :size], 8000, subtype="PCM_16")
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {TEXTS[number]}\n")
    return root


def load(root: Path, most: tuple[int, int, int] = (9, 9, 9), milliseconds: int = 2000):
    return load_speech(f"path:{root}", 0, most, milliseconds)


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_recordings_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    speech = load(library(tmp_path, ending))
    assert speech.sample_rate == 8000
    assert speech.alphabet == " '" + "".join(sorted(set("".join(TEXTS)) - set(" '")))
    assert [sorted(speech.transcripts(split)) for split in SPLITS] == [sorted(TEXTS[:3]), TEXTS[3:4], sorted(TEXTS[4:])]
    sizes = dict(zip(TEXTS, (12800, 6400, 9600, 7200, 8000, 8800), strict=True))
    for split in SPLITS:
        audio, texts = speech.arrays[f"{split}_audio"], speech.transcripts(split)
        assert audio.shape[1] == 12800
        assert speech.arrays[f"{split}_samples"].tolist() == [sizes[text] for text in texts]
        for row, text in zip(audio, texts, strict=True):
            np.testing.assert_array_equal(row[: sizes[text]], SOUNDS[TEXTS.index(text), : sizes[text]])
            assert not row[sizes[text] :].any()
    assert speech.info["utterances"] == {"train": 3, "validation": 1, "test": 2}
    assert len(speech.info["sha256"]) == 64


def test_limits_on_recordings_are_kept_and_counted(tmp_path: Path) -> None:
    library(tmp_path)
    (tmp_path / "test-clean/7/8/7-8.trans.txt").write_text("7-8-0004 FAR TOO MANY LETTERS FOR ONE\n")
    speech = load(tmp_path, most=(2, 9, 9), milliseconds=1200)
    assert sorted(speech.transcripts("train")) == sorted(TEXTS[1:3])
    assert speech.transcripts("test") == TEXTS[5:]
    assert speech.info["left_out"] == {"too_long": 1, "too_fast": 1}


def crowd(root: Path) -> Path:
    """20 training speakers, each of whom says a letter of his own in ten recordings."""
    library(root)
    (root / "train-other-5/3/4/3-4.trans.txt").unlink()
    (root / "train-clean-5/1/2/1-2.trans.txt").unlink()
    for number, letter in enumerate("ABCDEFGHIJKLMNOPQRST"):
        folder = root / f"train-many/{100 + number}/1"
        folder.mkdir(parents=True)
        names = [f"{100 + number}-1-{take:04d}" for take in range(10)]
        for name in names:
            write_wav(folder / f"{name}.wav", SOUNDS[0, :1600])
        (folder / f"{100 + number}-1.trans.txt").write_text("".join(f"{name} {letter}\n" for name in names))
    return root


def test_recordings_are_of_all_speakers_and_mixed(tmp_path: Path) -> None:
    crowd(tmp_path / "first")
    few, every = (load(tmp_path / "first", most=(most, 9, 9)).transcripts("train") for most in (40, 999))
    assert [few.count(letter) for letter in sorted(set(few))] == [2] * 20
    assert [every.count(letter) for letter in sorted(set(every))] == [10] * 20
    for rows in (few, every):
        assert all(len(set(rows[:count])) > count / 2 for count in range(1, 21)), "any prefix is of many speakers"
    assert load(crowd(tmp_path / "second"), most=(40, 9, 9)).transcripts("train") == few


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    transcript = library(tmp_path) / "dev-clean/5/6/5-6.trans.txt"
    transcript.write_text(transcript.read_text("utf-8"), "utf-8-sig")
    assert load(tmp_path).transcripts("validation") == TEXTS[3:4]


def test_recordings_are_read_once_and_changed_ones_are_another_data_set(tmp_path: Path) -> None:
    before = load(library(tmp_path))
    write_wav(tmp_path / "dev-clean/5/6/5-6-0003.wav", SOUNDS[5, :7201])
    assert load(tmp_path) is before
    load_speech.cache_clear()
    assert load(tmp_path).info["sha256"] != before.info["sha256"]


def test_letters_that_are_not_trained_share_a_label_that_never_matches(tmp_path: Path) -> None:
    library(tmp_path)
    (tmp_path / "dev-clean/5/6/5-6.trans.txt").write_text("5-6-0003 THAT \u00dcX\n", "utf-8")
    speech = load(tmp_path)
    assert speech.alphabet == " '" + "".join(sorted(set("".join(TEXTS[:3])) - set(" '"))) + UNKNOWN
    assert speech.unknown == len(speech.alphabet)
    assert speech.transcripts("validation") == [f"THAT {2 * UNKNOWN}"]
    assert speech.info["letters_not_trained"] == ["X", "\u00dc"]
    labels = np.repeat(speech.arrays["validation_labels"][0], 2)
    labels[1::2] = 0

    class Parrot(SpeechRecognition):
        """Hears the labels of the validation split, the unknown one too."""

        name = "parrot"

        def transcribe(self, params, features, frames, **options):
            logits = jnp.broadcast_to(
                50.0 * jax.nn.one_hot(labels, self.letters), (len(frames), len(labels), self.letters)
            )
            return logits, jnp.full(len(frames), len(labels)), {}

    most = dict.fromkeys(("utterances", "validation_utterances", "test_utterances"), 9)
    parrot = Parrot(data=f"path:{tmp_path}", longest_ms=2000, **most)
    scores = quick_jit(parrot.evaluate, static_argnums=2)({}, dict(speech.arrays), "validation")
    assert scores["word_error_rate"] == 0.5
    assert np.isfinite(scores["loss"])


def test_recordings_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librispeech, "MOST_BYTES", 5 * 12800 * 2)
    with pytest.raises(
        BadInput, match=r"6 recordings .* 1\.6 s.* lower workload\.utterances=9.*test_utterances=9.*longest_ms=2000"
    ):
        load(library(tmp_path))


def without_transcript(root: Path) -> None:
    (root / "dev-clean/5/6/5-6.trans.txt").unlink()


def without_sound(root: Path) -> None:
    (root / "dev-clean/5/6/5-6-0003.wav").unlink()


def without_words(root: Path) -> None:
    (root / "dev-clean/5/6/5-6.trans.txt").write_text("5-6-0003\n")


def latin_1(root: Path) -> None:
    (root / "dev-clean/5/6/5-6.trans.txt").write_text("5-6-0003 CAF\u00c9\n", "latin-1")


def stereo(root: Path) -> None:
    write_wav(root / "dev-clean/5/6/5-6-0003.wav", SOUNDS[:2, :100], channels=2)


def two_rates(root: Path) -> None:
    write_wav(root / "dev-clean/5/6/5-6-0003.wav", SOUNDS[0], rate=16000)


def broken(root: Path) -> None:
    (root / "dev-clean/5/6/5-6-0003.wav").write_bytes(b"RIFF")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (without_transcript, "has no validation recordings.*SPLIT/SPEAKER/CHAPTER"),
        (without_sound, r"neither 5-6-0003\.flac nor 5-6-0003\.wav"),
        (without_words, "must be the recording's name and its words"),
        (latin_1, r"5-6\.trans\.txt' is not UTF-8 text"),
        (stereo, "one channel"),
        (two_rates, "differ in sample rate"),
        (broken, "not a readable WAV"),
    ],
)
def test_malformed_libraries_are_told_what_is_wrong(tmp_path: Path, fault, message: str) -> None:
    fault(library(tmp_path))
    with pytest.raises(BadInput, match=message):
        load(tmp_path)


def test_flac_needs_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, ".flac")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(BadInput, match="pip install soundfile"):
        load(tmp_path, milliseconds=1999)


def test_unknown_data_are_told_the_valid_ones(tmp_path: Path) -> None:
    for data, message in (("librispeech", "generated, or path:FOLDER"), (f"path:{tmp_path / 'no'}", "no folder there")):
        with pytest.raises(BadInput, match=message):
            load_speech(data, 0, (1, 1, 1), 1000)
    with pytest.raises(BadInput, match="longest_ms=10"):
        load(library(tmp_path), milliseconds=10)
