"""The user's own files that a submission names, copied beside it: what is queued does not see later edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import algoperf
from harness.components import as_config
from harness.launchers.slurm.manifest import own_key
from harness.optimizers.own_files import own_files, sha256_of
from harness.optimizers.user import is_file
from harness.records.files import atomic_write_bytes
from harness.trial import Trial
from workloads.base import BadInput

_KINDS = (".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Kept:
    """Copies under `folder`, of which each content has its own folder. write: whether to make them, or only say where."""

    folder: Path
    write: bool

    def copy(self, path: Path) -> Path:
        """Where the file's present content is kept, beside that of the files it imports from its folder.

        Raises BadInput as `own_files` does.
        """
        files = own_files(path) if path.suffix == ".py" else [path.resolve()]
        folder = self.folder / "files" / sha256_of(files)[:12]
        for file in files if self.write else ():
            target = folder / file.relative_to(files[0].parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(target, file.read_bytes())
        return folder / files[0].name

    def words(self, words: Iterable[str]) -> list[str]:
        """A command's key=value words, naming the copies in place of the files.

        An AlgoPerf submission stays where it is: it may have other files beside it.
        """
        return [self._word(word) for word in words]

    def _word(self, word: str) -> str:
        key, equals, value = word.partition("=")
        return f"{key}{equals}{','.join(map(self._value, value.split(',')))}"

    def _value(self, value: str) -> str:
        name, colon, function = value.partition(":")
        path = Path(name)
        if (
            path.suffix not in _KINDS
            or not path.is_file()
            or (path.suffix == ".py" and algoperf.is_algoperf_style(path))
        ):
            return value
        return f"{self.copy(path)}{colon}{function}"

    def optimizers(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Of the users' own optimizers among these trials: own_key -> copy.

        Raises BadInput where a file has changed since it was read.
        """
        found = {}
        by_class = {type(trial.optimizer): trial.optimizer for trial in trials}
        for own in (optimizer for optimizer in by_class.values() if is_file(optimizer.file)):
            path, key = Path(own.file), own_key(as_config(own))
            if not key.startswith(sha256_of(own_files(path))):
                raise BadInput(f"{path} has changed since this command read it; start it again")
            found[key] = f"{self.copy(path)}:{own.name.partition(':')[2]}"
        return found
