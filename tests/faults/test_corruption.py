"""One byte of a checkpoint flipped or cut off, 500 times: refused by the file's name each time."""

import random
import shutil
from pathlib import Path

import pytest

import app.lm
from app.errors import CheckpointCorrupt
from app.lm import store
from tests.faults.conftest import sized

STARTER = Path(app.lm.__file__).parent / "starter"
DAMAGES = sized(500)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, str]:
    """A store with the shipped starter model in it."""
    staged = store.staging_folder(tmp_path, "starter")
    for file in STARTER.iterdir():
        if store.FILE_NAME.match(file.name):
            shutil.copyfile(file, staged / file.name)
    store.seal(
        staged,
        kind="full",
        model_class="LlamaForCausalLM",
        parameters=1,
        mask_token="[MASK]",
        mask_id=0,
        context_length=1,
    )
    return tmp_path, store.publish(tmp_path, staged)


def test_any_changed_byte_is_refused(published: tuple[Path, str], tell) -> None:
    folder, digest = published
    files = sorted((folder / "objects" / digest).iterdir())
    chance, refused, flips = random.Random(11), 0, 0
    for number in range(DAMAGES):
        path = files[number % len(files)]
        whole = path.read_bytes()
        place = chance.randrange(len(whole))
        flip = chance.random() < 0.5
        flips += flip
        changed = bytes([whole[place] ^ (1 << chance.randrange(8))])
        damaged = whole[:place] + changed + whole[place + 1 :] if flip else whole[:place]
        path.chmod(0o644)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointCorrupt, match=path.name):
            store.verify(folder, digest)
        refused += 1
        path.write_bytes(whole)
    assert store.verify(folder, digest)
    tell(f"{refused} of {DAMAGES} damages refused by name ({flips} flips, {refused - flips} cuts)")
