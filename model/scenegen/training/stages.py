"""The stages of a config, in order: each builds on the averaged weights of the ones before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenegen.generator.checkpoints import save_image_encoder, save_model, save_pipeline
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.devices import require_device
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.training.distributed import own_device
from scenegen.training.encoders import EncoderPretraining, EncoderStage, initialise_encoders
from scenegen.training.initial import start_from_nothing, start_from_trellis
from scenegen.training.latent_vae import LatentVAE, LatentVAEStage
from scenegen.training.latents import LatentStage
from scenegen.training.loop import Schedule, Stage, load_average, run
from scenegen.training.shards import Samples
from scenegen.training.structure import StructureStage
from scenegen.training.structure_vae import StructureVAE, StructureVAEStage, object_grids, unpack_grids

Config = Mapping[str, Any]
VAE_OBJECTS, VAE_HELD_OUT = range(100_000, 105_000), range(200_000, 200_256)

__all__ = ["Schedule", "export", "train"]


def train(
    name: str,
    config: Config,
    schedule: Schedule,
    runs: Path,
    *,
    device: str = "cpu",
    shards: int | None = None,
    init: Path | None = None,
) -> None:
    """Train stage ``name``, one of STAGES, into ``runs``/name; resumes what is there.

    shards: read only the first so many. init: published weights that the structure flow starts from, see
    start_from_trellis. Raises InvalidInput when the device can't be used, or data or an earlier
    stage is missing.
    """
    stage: Stage
    device = own_device(device)
    require_device(device)
    if name == "structure-vae":
        grids = (object_grids(seeds, config["resolution"]) for seeds in (VAE_OBJECTS, VAE_HELD_OUT))
        run(StructureVAEStage(_vae(config), *grids), schedule, runs / name, device=device)
        return
    if name == "latent-vae":
        run(LatentVAEStage(_latent_vae(config, _image_encoder(config, runs))), schedule, runs / name, device=device)
        return
    samples = Samples(runs / "data", limit=shards)
    held_out = Samples(runs / "held_out")
    if name == "latents":
        image_encoder = _image_encoder(config, runs).to(device)
        latent_vae, normalisation = _trained_latent_vae(config, runs)
        stage = LatentStage(latent_flow(config), image_encoder, latent_vae.to(device), normalisation, samples, held_out)
        run(stage, schedule, runs / name, device=device)
        return
    vae = standard_vae(config, runs).to(device)
    if name == "encoders":
        layout = {"patch": config["flow"]["patch_size"], "resolution": config["flow"]["resolution"]}
        stage = EncoderStage(_encoders(config), vae, samples, held_out, **layout)
    else:
        encoders = load_average(runs / "encoders", _encoders(config))
        assert isinstance(encoders, EncoderPretraining)
        flow = SparseStructureFlowModel(**config["flow"])
        if init is None:
            start_from_nothing(flow)
        else:
            start_from_trellis(flow, init)
        if flow.readout is not None:
            flow.readout.load_state_dict(encoders.readout.state_dict())
            flow.readout.requires_grad_(False)
        stage = StructureStage(flow, encoders.conditioner.to(device), vae, samples, held_out)
    run(stage, schedule, runs / name, device=device)


def export(config: Config, runs: Path, folder: Path, textures: bool = False) -> None:
    """Write the averaged weights of all stages as a checkpoint folder in fp16 that ``--weights`` takes.

    textures: with the stages of structured latents. Raises InvalidInput when a stage is missing.
    """
    structure_vae = standard_vae(config, runs)
    encoders = load_average(runs / "encoders", _encoders(config))
    flow = load_average(runs / "structure", SparseStructureFlowModel(**config["flow"]))
    assert isinstance(encoders, EncoderPretraining)
    save_model(folder, "ss_flow", flow, config["flow"])
    save_model(folder, "ss_dec", structure_vae.decoder, config["structure_decoder"])
    save_model(folder, "ss_enc", structure_vae.encoder, config["structure_encoder"])
    save_model(folder, "vggt", encoders.conditioner.geometry_encoder, config["geometry_encoder"])
    save_image_encoder(folder / "dinov2", encoders.conditioner.image_encoder)
    models = {
        "sparse_structure_flow_model": "ss_flow",
        "sparse_structure_decoder": "ss_dec",
        "sparse_structure_encoder": "ss_enc",
    }
    pipeline = {
        "models": models,
        "sparse_structure_sampler": _sampler("FlowEulerGuidanceIntervalSamplerVGGT", config["sampler"]),
        "image_cond_model": "dinov2",
        "vggt_model": "vggt",
        "multiview": "published",
        "ray_token": config.get("ray_token", False),
    }
    if textures:
        models |= {"slat_flow_model": "slat_flow", "slat_decoder_mesh": "slat_dec_mesh"}
        vae, normalisation = _trained_latent_vae(config, runs)
        save_model(folder, "slat_flow", load_average(runs / "latents", latent_flow(config)), config["latent_flow"])
        save_model(folder, "slat_dec_mesh", vae.mesh_decoder, config["mesh_decoder"])
        pipeline |= {
            "slat_sampler": _sampler("FlowEulerGuidanceIntervalSampler", config["latent_sampler"]),
            "slat_normalization": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
            "latent_voxels": "surface",
        }
    save_pipeline(folder, pipeline)


def _sampler(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "args": {"sigma_min": 1e-5}, "params": params}


def standard_vae(config: Config, runs: Path) -> StructureVAE:
    """The trained structure VAE with latents of unit deviation over its held-out objects."""
    vae = load_average(runs / "structure-vae", _vae(config))
    assert isinstance(vae, StructureVAE)
    vae.standardise(unpack_grids(object_grids(VAE_HELD_OUT, config["resolution"])))
    return vae


def _latent_vae(config: Config, image_encoder: ImageEncoder) -> LatentVAE:
    return LatentVAE(config["latent_encoder"], config["mesh_decoder"], config["gaussian_decoder"], image_encoder)


def latent_flow(config: Config) -> SLatFlowModel:
    """The flow over structured latents as training starts."""
    flow = SLatFlowModel(**config["latent_flow"])
    start_from_nothing(flow)
    return flow


def _trained_latent_vae(config: Config, runs: Path) -> tuple[LatentVAE, LatentNormalisation]:
    vae = load_average(runs / "latent-vae", _latent_vae(config, ImageEncoder(config["image_encoder"])))
    assert isinstance(vae, LatentVAE)
    return vae, LatentNormalisation(*vae.standard())


def _image_encoder(config: Config, runs: Path) -> ImageEncoder:
    encoders = load_average(runs / "encoders", _encoders(config))
    assert isinstance(encoders, EncoderPretraining)
    return encoders.conditioner.image_encoder


def _vae(config: Config) -> StructureVAE:
    return StructureVAE(config["structure_encoder"], config["structure_decoder"])


def _encoders(config: Config) -> EncoderPretraining:
    encoders = ImageEncoder(config["image_encoder"]), VGGTAggregator(**config["geometry_encoder"])
    conditioner = Conditioner(*encoders, ray_token=config.get("ray_token", False))
    initialise_encoders(conditioner)
    conditioner.image_encoder.config._attn_implementation = "eager"  # a tenth faster to train on a CPU
    return EncoderPretraining(conditioner, ConditionReadout(**config["flow"]["readout"]))
