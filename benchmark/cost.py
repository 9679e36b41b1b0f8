"""How many operations the sampling of a structure takes, by the formulas of spec/cost.md. Runs nothing."""

from __future__ import annotations

from scenegen.generator.checkpoints import SamplerSettings
from scenegen.generator.structure.flow import SparseStructureFlowModel


def operations(
    flow: SparseStructureFlowModel, tokens: int, assets: int, settings: SamplerSettings, *, savings: bool = True
) -> float:
    """Floating-point operations of one structure sampling from one view (spec/cost.md 1 to 3).

    tokens: of the condition of each asset. savings: all exact ones, or every pass in full. Those of elementwise work,
    embeddings and the position head are left out.
    """
    c, blocks = flow.out_layer.in_features, len(flow.flow_blocks)
    latent, local = len(flow.pos_emb), min(flow.local_tokens, tokens)
    joined = latent + flow.position_token.shape[1] + flow.register_token.shape[1]
    hidden = flow.flow_blocks[0].mlp.mlp[0].out_features
    own = 8 * latent * c**2 + 4 * latent**2 * c
    across = 8 * joined * c**2 + 4 * assets * joined**2 * c
    forward = 4 * latent * c * hidden
    to_condition = 4 * (latent + joined) * c**2 + 4 * (latent * local + joined * tokens) * c
    keys_values = 4 * (local + tokens) * c**2
    conditional = blocks * (own + across + forward + to_condition)
    # Both passes share the first block's own attention, unless a readout's hint tells them apart.
    negative = blocks * (own + across + forward) - (own if flow.readout is None else 0)
    guided = sum(settings.guided)
    if not savings:
        return assets * (settings.steps + guided) * (conditional + blocks * keys_values)
    return assets * (settings.steps * conditional + guided * negative + blocks * keys_values)
