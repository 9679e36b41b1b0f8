"""The node's folder of scenes: which ones stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from test_files import placed_in_world, scene_of_two

from scenegen_ros.scene_store import SceneStore, StoredScene

HOUR_S = 3600.0


def save(store: SceneStore) -> StoredScene:
    scene = scene_of_two()
    return store.save(scene, placed_in_world(scene), [], "map", 0)


def age(stored: StoredScene, hours: float) -> None:
    """Makes a scene's files look so old."""
    then_s = time.time() - hours * HOUR_S
    os.utime(stored.folder / "scene.json", (then_s, then_s))


def no_problem(text: str) -> None:
    pytest.fail(text)


def test_the_newest_scenes_stay(tmp_path: Path) -> None:
    store = SceneStore(str(tmp_path), 3, no_problem)
    (tmp_path / "notes").mkdir()
    saved = []
    for hours in range(6, 0, -1):
        saved.append(save(store))
        age(saved[-1], hours)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", *(one.id for one in saved[-3:])}
    last = SceneStore(str(tmp_path), 3, no_problem).last()
    assert last is not None and last.id == saved[-1].id


def test_the_scene_announced_at_start_stays_with_the_first_new_one(tmp_path: Path) -> None:
    earlier = save(SceneStore(str(tmp_path), 2, no_problem))
    store = SceneStore(str(tmp_path), 2, no_problem)
    assert store.last() is not None
    save(store)
    assert earlier.folder.exists()


def test_a_clock_that_was_set_back_costs_no_new_scene(tmp_path: Path) -> None:
    before = SceneStore(str(tmp_path), 10, no_problem)
    for _ in range(4):
        age(save(before), -10)
    store = SceneStore(str(tmp_path), 2, no_problem)
    first, second = save(store), save(store)
    assert first.folder.exists() and second.folder.exists()


def test_old_scenes_that_cannot_be_deleted_are_told_and_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    said: list[str] = []
    store = SceneStore(str(tmp_path), 2, said.append)
    monkeypatch.setattr(Path, "unlink", refuse)
    stored = [save(store) for _ in range(3)][-1]
    assert stored.folder.exists()
    assert len(said) == 1 and "cannot be deleted (Permission denied)" in said[0]
