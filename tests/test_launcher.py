"""Jobs that differ in values share one composition, and are configured as Hydra itself would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from harness.config import CONFIG_DIR
from harness.launchers.packed import JobLoader

JOBS = [
    ["workload.width=16", "optimizer.learning_rate=0.001", "seed=0"],
    ["workload.width=32", "optimizer.learning_rate=2.5e-2", "seed=1"],
    ["workload.width=32", "optimizer.learning_rate=1", "data_seed=null"],
    ["workload.corpus='zipf_markov:vocab_size=16'", "study_name=a"],
    ["workload.corpus='a b=c,d'", "study_name='null'"],
    ["workload=image_mlp", "workload.width=16"],
    ["workload=image_mlp", "workload.width=64"],
    ["workload=image_mlp", "optimizer=sgd", "schedule.warmup='5%'"],
    ["budget.tokens=1e5", "engine.devices=1"],
    ["budget.tokens=2e5", "engine.devices=null"],
    ["tracker=wandb", "tracker.tags=[x,y]"],
    ["tracker=wandb", "tracker.tags=[]"],
    ["+tracker.tags=[x]", "seed=3"],
]


class Counting:
    """A loader that counts compositions."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.count = loader, 0

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self.count += 1
        return self._loader.load_sweep_config(master_config, sweep_overrides)


@pytest.fixture(scope="module")
def hydra() -> Iterator[tuple[Any, DictConfig]]:
    """Hydra's loader and the master configuration of a sweep."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("train", [], RunMode.MULTIRUN)


def plain(config: DictConfig) -> Any:
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    return {key: value for key, value in container.items() if key != "hydra"}


def test_jobs_are_what_hydra_composes(hydra: tuple[Any, DictConfig]) -> None:
    loader, master = hydra
    jobs = JobLoader(loader)
    for _ in ("the sweeper", "the launcher"):
        for job in JOBS:
            assert plain(jobs.load_sweep_config(master, job)) == plain(loader.load_sweep_config(master, job)), job


def test_values_cost_no_composition(hydra: tuple[Any, DictConfig]) -> None:
    loader, master = hydra
    counting = Counting(loader)
    jobs = JobLoader(counting)  # type: ignore[arg-type]
    sweep = [[f"workload={name}", f"seed={seed}"] for name in ("image_mlp", "regression") for seed in range(4)]
    checked = [jobs.load_sweep_config(master, job) for job in sweep]
    assert [jobs.load_sweep_config(master, job) for job in sweep] == checked
    assert [config.seed for config in checked] == [0, 1, 2, 3] * 2
    assert counting.count == 2


@pytest.mark.parametrize("bad", ["seed=no", "seeed=1", "workload.wdith=3"])
def test_bad_values_are_refused_by_hydra(hydra: tuple[Any, DictConfig], bad: str) -> None:
    loader, master = hydra
    jobs = JobLoader(loader)
    jobs.load_sweep_config(master, ["seed=1"])
    with pytest.raises(HydraException):
        jobs.load_sweep_config(master, [bad])
