"""Prompts to masks: what is taken, what the SAM 2 network is given and remembers, and what becomes of its logits.

Weights are random, so nothing here says how good masks are; that the network sees what it should is held against
transformers' own use of the same weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segmenting import SIDE, prompted_view, save_segmenter
from transformers import Sam2Model
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from scenegen import cli
from scenegen.images import load_views
from scenegen.prompts import Prompt, PromptedView, of_one_numbering, with_prompts
from scenegen.scene import Cancelled, InvalidInput, Progress, View
from scenegen.segmentation import Segmenter, sam2
from scenegen.segmentation.masks import instance_masks

LEFT = Prompt(1, (4.0, 4.0, 30.0, 30.0))
RIGHT = Prompt(2, (40.0, 10.0, 70.0, 40.0))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_pretrained(save_segmenter(tmp_path_factory.mktemp("sam2")))


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, np.ndarray]]:
    """What the network gave, view by view, as it is handed to instance_masks."""
    seen: list[dict[int, np.ndarray]] = []

    def spy(planes: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        seen.append(planes)
        return instance_masks(planes, size)

    monkeypatch.setattr(sam2, "instance_masks", spy)
    return seen


def plane(*boxes: tuple[int, int, int, int, float], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Logits of -5 with rectangles (top, left, bottom, right, logit)."""
    made = np.full(size, -5, np.float32)
    for top, left, bottom, right, value in boxes:
        made[top:bottom, left:right] = value
    return made


def test_the_larger_logit_wins_where_objects_overlap() -> None:
    masks = instance_masks({7: plane((2, 2, 12, 14, 1.0)), 3: plane((6, 8, 16, 26, 2.0))}, (20, 30))
    expected = np.zeros((20, 30), np.int32)
    expected[2:12, 2:14] = 7
    expected[6:16, 8:26] = 3
    np.testing.assert_array_equal(masks, expected)
    equal = instance_masks({7: plane((2, 2, 12, 14, 1.0)), 3: plane((2, 2, 12, 14, 1.0))}, (20, 30))
    assert set(np.unique(equal)) == {0, 7}
    assert not instance_masks({7: plane((2, 2, 12, 14, 0.0))}, (20, 30)).any()


def test_islands_go_and_what_was_parted_stays() -> None:
    parted = plane((0, 0, 10, 10, 1.0), (0, 14, 10, 18, 1.0), (15, 20, 17, 22, 1.0), (19, 29, 20, 30, 1.0))
    masks = instance_masks({4: parted}, (20, 30))
    assert (masks[0:10, 0:10] == 4).all() and (masks[0:10, 14:18] == 4).all(), (
        "40% of the largest: parted, not an island"
    )
    assert np.count_nonzero(masks) == 140, "4% and 1% of the largest: islands"
    tiny = instance_masks({4: plane((3, 3, 4, 4, 1.0))}, (20, 30))
    assert np.count_nonzero(tiny) == 1, "the largest piece stays, however small"
    won = instance_masks(
        {1: plane((0, 0, 20, 30, 1.0)), 2: plane((0, 3, 20, 30, 2.0)), 5: plane((8, 0, 9, 3, 3.0))}, (20, 30)
    )
    assert (won[:8, :3] == 1).all() and (won[9:, :3] == 1).all(), "parted by an object before it"


def test_logits_are_scaled_to_the_image() -> None:
    masks = instance_masks({9: plane((5, 5, 15, 15, 5.0), size=(20, 20))}, (60, 100))
    rows, columns = np.nonzero(masks)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 44, 25, 74)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        (Prompt(1, (70.0, 4.0, 99.0, 30.0)), r"object 1 lies at \(99, 30\), outside its image of 80 x 48"),
        (Prompt(1, (4.0, -1.0, 30.0, 30.0)), "outside its image"),
        (Prompt(1, inside=((float("nan"), 3.0),)), "outside its image"),
        (Prompt(2, (4.0, 4.0, 20.0, 20.0), outside=((4.0, 49.0),)), "object 2 lies at"),
        (Prompt(1, (30.0, 4.0, 4.0, 30.0), label="cup"), r"object 1 \(cup\) is the box .* at least a pixel wide"),
        (Prompt(1), "neither a box nor a point"),
        (Prompt(1, outside=((4.0, 4.0),)), "neither a box nor a point"),
        (Prompt(0, (4.0, 4.0, 30.0, 30.0)), "object 0 .* positive"),
    ],
)
def test_prompts_that_cannot_be_used(prompt: Prompt, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        prompted_view((prompt,))


def test_two_prompts_of_one_id_in_a_view() -> None:
    with pytest.raises(InvalidInput, match=r"ids \[1, 1\]"):
        prompted_view((LEFT, replace(RIGHT, id=1)))


def test_no_prompt_anywhere(segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match="none of 2 views has a prompt"):
        segmenter.segment([prompted_view(()), prompted_view(())])


def test_ids_that_only_number_boxes_hold_for_the_first_view() -> None:
    views = [prompted_view((LEFT, RIGHT)), prompted_view((LEFT,), 1)]
    assert of_one_numbering(views) == tuple(views)
    first, second = of_one_numbering([replace(view, tracked=False) for view in views])
    assert first.prompts == (LEFT, RIGHT) and first.instance_ids == (1, 2)
    assert second.prompts == () and second.instance_ids == ()


def test_views_come_back_whole_in_their_order_with_the_ids_of_the_prompts(segmenter: Segmenter) -> None:
    prompts = (replace(RIGHT, id=40), replace(LEFT, id=7))
    views = [prompted_view(prompts, 0, stamp_ns=5), prompted_view((), 1, (40, 64), stamp_ns=9), prompted_view((), 2)]
    heard: list[Progress] = []
    made = segmenter.segment(views, on_progress=heard.append)
    for view, given in zip(made, views, strict=True):
        assert type(view) is View and view.masks.dtype == np.int32
        assert view.image is given.image and view.depth_m is given.depth_m and view.stamp_ns == given.stamp_ns
        assert set(view.instance_ids) <= {7, 40}
    assert set(made[0].instance_ids) == {7, 40}
    assert made[1].masks.any() and made[2].masks.any(), "masks were propagated forward and backward"
    assert [round(6 * p.fraction) for p in heard] == [1, 2, 3, 4, 5, 6] and {p.stage for p in heard} == {"segmentation"}
    again = with_prompts(made[0], prompts)
    np.testing.assert_array_equal(segmenter.segment([again])[0].masks, made[0].masks)


def test_objects_are_carried_through_the_views_as_transformers_does(
    segmenter: Segmenter, logits: list[dict[int, np.ndarray]]
) -> None:
    """All prompts in the first view: transformers' own session of many objects gives the same logits."""
    pair = LEFT, Prompt(2, (34.0, 10.0, 60.0, 40.0))
    views = [prompted_view(pair if t == 0 else (), t, (SIDE, SIDE), stamp_ns=t) for t in range(4)]
    segmenter.segment(views)
    session = Sam2VideoInferenceSession(
        video=torch.stack([segmenter._pixels(view.image) for view in views]), dtype=torch.float32
    )
    for prompt in pair:
        index = session.obj_id_to_idx(prompt.id)
        box = torch.tensor(prompt.box).reshape(1, 1, 2, 2)
        session.add_point_inputs(index, 0, {"point_coords": box, "point_labels": torch.tensor([[[2, 3]]])})
    session.obj_with_new_inputs = [1, 2]
    for frame in segmenter._model.propagate_in_video_iterator(session, start_frame_idx=0):
        for row, instance_id in enumerate(frame.object_ids):
            theirs = frame.pred_masks[row, 0].numpy()
            np.testing.assert_allclose(logits[frame.frame_idx][instance_id], theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(logits[3][1] - logits[3][2]).max() > 0.01, "each object has a memory of its own"


def test_a_box_is_what_the_image_model_takes_for_it(
    segmenter: Segmenter, logits: list[dict[int, np.ndarray]], tmp_path: Path
) -> None:
    """The same weights as transformers' image model, whose boxes go another way; and pixels are scaled per axis."""
    segmenter._model.save_pretrained(tmp_path)
    image_model = Sam2Model.from_pretrained(tmp_path).eval()
    view = prompted_view((RIGHT,), 3)
    segmenter.segment([view])
    scale = torch.tensor([SIDE / 80, SIDE / 48, SIDE / 80, SIDE / 48])
    with torch.inference_mode():
        found = image_model(
            pixel_values=segmenter._pixels(view.image)[None],
            input_boxes=(torch.tensor(RIGHT.box) * scale).reshape(1, 1, 4),
            multimask_output=False,
        )
    np.testing.assert_allclose(logits[0][2], found.pred_masks[0, 0, 0].numpy(), rtol=1e-3, atol=1e-3)


def test_points_boxes_and_memory_all_count(segmenter: Segmenter, logits: list[dict[int, np.ndarray]]) -> None:
    given = [
        (LEFT,),
        (replace(LEFT, box=(4.0, 4.0, 30.0, 20.0)),),
        (replace(LEFT, inside=((10.0, 10.0),)),),
        (replace(LEFT, outside=((10.0, 10.0),)),),
        (Prompt(1, inside=((10.0, 10.0),)),),
        (Prompt(1, inside=((10.0, 10.0), (12.0, 14.0))),),
    ]
    for prompts in given:
        segmenter.segment([prompted_view(prompts, 0), prompted_view((), 1, stamp_ns=1)])
    for offset in (0, 1):  # in the prompted view, and by memory in the other
        found = [planes[1] for planes in logits[offset::2]]
        assert len({f.tobytes() for f in found}) == len(given), f"view {offset}"


def test_memory_follows_the_stamps_and_an_object_may_enter_later(
    segmenter: Segmenter, logits: list[dict[int, np.ndarray]]
) -> None:
    views = [
        prompted_view((LEFT,), 0, stamp_ns=0),
        prompted_view((RIGHT,), 1, stamp_ns=1),
        prompted_view((), 2, stamp_ns=2),
    ]
    segmenter.segment(views)
    segmenter.segment([views[2], views[0], views[1]])
    by_time, shuffled = logits[:3], logits[3:]
    for before, after in zip(by_time, shuffled, strict=True):
        for instance_id in (1, 2):
            np.testing.assert_array_equal(before[instance_id], after[instance_id])
    logits.clear()
    segmenter.segment([prompted_view((), 0, stamp_ns=0), views[1], views[2]])
    np.testing.assert_array_equal(logits[1][2], by_time[1][2], "what is in its first view is no memory of it")
    np.testing.assert_allclose(logits[2][2], by_time[2][2], rtol=1e-4, atol=1e-4)


def test_cancelled_before_the_next_object(segmenter: Segmenter) -> None:
    polls: list[int] = []

    def cancelled() -> bool:
        polls.append(len(heard))
        return len(heard) == 2

    heard: list[Progress] = []
    with pytest.raises(Cancelled):
        segmenter.segment(
            [prompted_view((LEFT, RIGHT)), prompted_view((), 1, stamp_ns=1)],
            on_progress=heard.append,
            cancelled=cancelled,
        )
    assert polls == [0, 1, 2]


def test_the_command_writes_masks_that_generate_takes(
    segmenter: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter._model.save_pretrained(tmp_path / "sam2")
    views = [prompted_view((LEFT, RIGHT), 0, stamp_ns=0), prompted_view((), 1, (40, 64), stamp_ns=1)]
    images = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path, view in zip(images, views, strict=True):
        Image.fromarray(view.image).save(path)
    prompts = tmp_path / "prompts.json"
    command = ["segment", *images, "--prompts", str(prompts), "--segmenter", str(tmp_path / "sam2"), "--out"]
    given = [[{"id": 1, "box": LEFT.box}, {"id": 2, "box": RIGHT.box}], []]
    prompts.write_text(json.dumps(given))
    assert cli.main([*command, str(tmp_path / "out")]) == 0
    paths = capsys.readouterr().out.split()
    expected = segmenter.segment(views)
    for written, view in zip(load_views(images, paths), expected, strict=True):
        np.testing.assert_array_equal(written.masks, view.masks)
    for damaged, word in (
        ([given[0]], "must be a list of 2 lists of prompts"),
        ([[{"id": 70000, "box": LEFT.box}], []], "an id above 65535"),
        ([[{"id": 1, "box": [0, 0, 900, 20]}], []], "outside its image of 80 x 48 pixels"),
        ([[], []], "none of 2 views has a prompt"),
    ):
        prompts.write_text(json.dumps(damaged))
        assert cli.main([*command, str(tmp_path / "out")]) == 2
        assert word in capsys.readouterr().err


def test_folders_that_are_no_weights(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no config.json: give a folder"):
        Segmenter.from_pretrained(tmp_path)
    segmenter._model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match="cannot be loaded as SAM 2"):
        Segmenter.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(InvalidInput, match="cannot be loaded as SAM 2"):
        Segmenter.from_pretrained(tmp_path)
    from safetensors.torch import load, save_file

    tensors = load(whole)
    some = {name: tensor for name, tensor in tensors.items() if "memory_encoder" not in name}
    save_file(some, path, metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match="lacks .* tensors of SAM 2, memory_encoder"):
        Segmenter.from_pretrained(tmp_path)
    save_file(tensors | {"no_memory_embedding": torch.zeros(1, 1, 7)}, path, metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match="cannot be loaded as SAM 2"):
        Segmenter.from_pretrained(tmp_path)


def test_a_prompted_view_has_the_contract_of_a_view() -> None:
    with pytest.raises(InvalidInput, match="uint8"):
        PromptedView(np.zeros((4, 4, 3)), np.zeros((4, 4), np.int32))
