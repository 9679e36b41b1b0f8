"""Where training a structure flow model without a TRELLIS checkpoint starts. Knows nothing about losses."""

from __future__ import annotations

from torch import nn

from scenegen.generator.structure.flow import SparseStructureFlowModel


def initialise_from_scratch(model: SparseStructureFlowModel) -> None:
    """Xavier weights, zero gates and zero output: at the start only the cross-attentions act.

    The constructor's own initialisation is the published one of spec/structure.md section 2.2, which assumes that
    the local layers come from a checkpoint. The position head and a readout keep what their constructors gave them.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name.startswith(("position_head", "readout")):
            continue
        if "adaLN_modulation" in name or name == "out_layer":
            nn.init.zeros_(module.weight)
        elif name.startswith("t_embedder"):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if model.use_global:
        nn.init.normal_(model.position_token, std=0.02)
        nn.init.normal_(model.register_token, std=0.02)
