"""Where training starts: from nothing, from a whole SceneGen, or from TRELLIS and with most of it frozen.

spec/structure.md section 8: the local layers of the structure flow are TRELLIS's, and frozen; what a scene needs
besides is new, and trained. Knows nothing about losses or data.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from scenegen.generator.checkpoints import find_model, load_model, load_pipeline
from scenegen.generator.checkpoints.tensors import differences, listed, opened
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.loading import load_parts
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.generator.structure.vae import SparseStructureEncoder
from scenegen.scene import InvalidInput
from scenegen.training.structure_vae import StructureVAE
from scenegen.weights import find_weights

TRAINED = re.compile(
    "global_attn|global_cross_attn|adaLN_modulation_global|position_token|register_token|position_head"
)
"""Names of what is trained, as in the released configuration."""
_OF_SCENES = re.compile(rf"{TRAINED.pattern}|norm4|^readout")
"""Names that TRELLIS's flow does not have; the norm of the global cross-attention stays the identity it begins as."""


@torch.no_grad()
def start_from_nothing(flow: SparseStructureFlowModel | SLatFlowModel) -> None:
    """Xavier weights, zero gates and zero output: the first answer is zero, and only the cross-attentions act.

    The constructors' own initialisation is the published one (spec/structure.md section 2.2), which assumes that the
    local layers come from a checkpoint. The position head and a readout keep what their constructors gave them.
    """
    for name, module in flow.named_modules():
        if not isinstance(module, nn.Linear) or name.startswith(("position_head", "readout")):
            continue
        if "adaLN_modulation" in name or "emb_layers" in name or name == "out_layer":
            nn.init.zeros_(module.weight)
        elif name.startswith("t_embedder"):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(flow, SparseStructureFlowModel) and flow.use_global:
        nn.init.normal_(flow.position_token, std=0.02)
        nn.init.normal_(flow.register_token, std=0.02)


def structure_flow_file(place: Path) -> Path:
    """The structure flow's tensors: place itself, or what the `pipeline.json` of that folder names."""
    if not place.is_dir():
        return place
    name = load_pipeline(place)["models"].get("sparse_structure_flow_model")
    if not isinstance(name, str):
        raise InvalidInput(f"{place / 'pipeline.json'} names no sparse_structure_flow_model: give the file itself")
    stem = find_model(place, name)
    return stem.with_name(stem.name + ".safetensors")


def start_from_trellis(flow: SparseStructureFlowModel, place: Path) -> list[str]:
    """Give a flow the local layers of a published one, and freeze all but what scenes need. Names of what is trained.

    place: a safetensors file, or a checkpoint folder. Raises InvalidInput naming every tensor that does not fit.
    """
    path = structure_flow_file(place)
    state = flow.state_dict()
    wanted = {name: list(value.shape) for name, value in state.items() if not _OF_SCENES.search(name)}
    with opened(path) as stored:
        shapes = {name: list(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        shapes = {name: shape for name, shape in shapes.items() if not _OF_SCENES.search(name)}
        if troubles := differences(wanted, shapes):
            raise InvalidInput(f"{path} does not fit the flow of the config: {listed(troubles)}")
        with torch.no_grad():
            for name in wanted:
                state[name].copy_(stored.get_tensor(name))
    for name, parameter in flow.named_parameters():
        parameter.requires_grad_(bool(TRAINED.search(name)))
    return [name for name, parameter in flow.named_parameters() if parameter.requires_grad]


RAYS = re.compile(r"^(read_rays|rays_to_|to_lifted)")
"""Names of what a readout with a ray token has more than one without."""
ADDED = re.compile(r"^image_encoder\.backbone\.encoder\.layer\.\d+\.|^(shape|place)_blocks\.\d+\.")
"""Names of the layers that encoders and readout may have more of than the checkpoint they start from."""
WRITES = re.compile(r"\.(attention\.o_proj|mlp\.fc2|cross_out|self_out|mlp\.2)\.(weight|bias)$")
"""Names of what such a layer adds to its input by: zero, so that it changes nothing to begin with."""


def is_scenegen(place: str | Path) -> bool:
    """Whether a place is a whole SceneGen's checkpoint, whose flow places assets; TRELLIS's is not."""
    try:
        folder = find_weights(place)
    except InvalidInput:
        return False
    with opened(structure_flow_file(folder)) as stored:
        return any(name.startswith("position_head") for name in stored.keys())  # noqa: SIM118


class Checkpoint:
    """A whole SceneGen that training goes on from: packaged weights, or a folder that `export` wrote.

    place: whatever find_weights takes. device: of its models. Raises InvalidInput as load_parts does, and when a model
    has other sizes than the one it is given to.
    """

    def __init__(self, place: str | Path, device: str = "cpu") -> None:
        self.folder = find_weights(place)
        self.parts = load_parts(self.folder, device, "all", "exact")

    def stem(self, role: str) -> Path:
        """The files of the model with a role in `pipeline.json`, without their endings; InvalidInput without one."""
        name = load_pipeline(self.folder)["models"].get(role)
        if not isinstance(name, str):
            raise InvalidInput(
                f"{self.folder / 'pipeline.json'} has no {role}, which training needs: use weights that "
                "`scenegen train export` wrote"
            )
        return find_model(self.folder, name)

    def structure_vae(self, vae: StructureVAE) -> None:
        """Give ``vae`` its encoder and decoder."""
        self._copy(load_model(self.stem("sparse_structure_encoder"), SparseStructureEncoder), vae.encoder)
        self._copy(self.parts.decoder, vae.decoder)

    def encoders(self, conditioner: Conditioner, readout: ConditionReadout) -> None:
        """Give them the checkpoint's weights. What it has not, rays and more layers, has no effect to begin with."""
        self._copy(self.parts.conditioner, conditioner, apart=ADDED)
        if isinstance(self.parts.flow.readout, ConditionReadout):
            self._copy(self.parts.flow.readout, readout, apart=re.compile(f"{RAYS.pattern}|{ADDED.pattern}"))

    def flow(self, flow: SparseStructureFlowModel) -> None:
        """Give a structure flow its weights, but for what is read out of the condition, which is the encoders'."""
        self._copy(self.parts.flow, flow, apart=re.compile(r"^readout\."))

    def latent_flow(self, flow: SLatFlowModel) -> None:
        """Give a latent flow its weights; InvalidInput when the checkpoint makes no textures."""
        if self.parts.latents is None:
            raise InvalidInput(f"{self.folder} has no structured latents: leave --init out, or use other weights")
        self._copy(self.parts.latents.flow, flow)

    def _copy(self, source: nn.Module, target: nn.Module, apart: re.Pattern[str] | None = None) -> None:
        """apart: names that are only taken where both have them alike; layers among them begin as the identity."""
        stored, wanted = source.state_dict(), target.state_dict()
        expected, found = ({name: list(v.shape) for name, v in side.items()} for side in (wanted, stored))
        for name in expected.keys() | found.keys():
            if apart is not None and apart.search(name) and expected.get(name) != found.get(name):
                for side in (expected, found, stored):
                    side.pop(name, None)
                if name in wanted and ADDED.search(name) and WRITES.search(name):
                    nn.init.zeros_(wanted[name])
        if troubles := differences(expected, found):
            kind = type(target).__name__
            raise InvalidInput(f"{kind} of {self.folder} does not fit the config's: {listed(troubles)}")
        target.load_state_dict(stored, strict=False)
