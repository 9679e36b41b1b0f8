"""The stages of a config, in order: each builds on the averaged weights of the ones before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scenegen.generator.checkpoints import save_image_encoder, save_model, save_pipeline
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.devices import require_device
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.scene import InvalidInput
from scenegen.training.distributed import own_device
from scenegen.training.encoders import EncoderPretraining, EncoderStage, initialise_encoders
from scenegen.training.initial import Checkpoint, is_scenegen, start_from_nothing, start_from_trellis
from scenegen.training.latent_vae import LatentVAE, LatentVAEStage
from scenegen.training.latents import LatentStage
from scenegen.training.loop import Schedule, Stage, load_average, run
from scenegen.training.shards import GIVEN, Samples, make_shards, sample_sizes
from scenegen.training.stream import Stream, StreamedStage
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
    init: str | None = None,
    stream_workers: int | None = None,
) -> None:
    """Train stage ``name``, one of STAGES, into ``runs``/name; resumes what is there.

    shards: read only the first so many. init: a whole SceneGen (a folder, or "tiny") that the stage starts from, and
    that stands in for earlier stages which ``runs`` has not; or TRELLIS's weights for the structure flow, see
    start_from_trellis. stream_workers: encoders and structure draw scenes without end, by so many processes, instead of
    reading shards. Raises InvalidInput when the device can't be used, or data or an earlier stage is missing.
    """
    stage: Stage
    device = own_device(device)
    require_device(device)
    torch.manual_seed(0)  # new parts begin alike in every run, and in every process of one
    start = Checkpoint(init) if init is not None and is_scenegen(init) else None
    if init is not None and start is None and name != "structure":
        raise InvalidInput(
            f"--init {init} is no whole SceneGen: the stage {name} starts from packaged weights or from what `scenegen "
            "train export` wrote; TRELLIS's flow is for the stage structure"
        )
    if name == "structure-vae":
        grids = (object_grids(seeds, config["resolution"]) for seeds in (VAE_OBJECTS, VAE_HELD_OUT))
        vae = _vae(config)
        if start is not None:
            start.structure_vae(vae)
        run(StructureVAEStage(vae, *grids), schedule, runs / name, device=device)
        return
    if name == "latent-vae":
        latent_vae = _latent_vae(config, trained_encoders(config, runs, start).conditioner.image_encoder)
        run(LatentVAEStage(latent_vae), schedule, runs / name, device=device)
        return
    stream = None if stream_workers is None else _stream(config, runs, stream_workers)
    samples = Samples(runs / "data", limit=shards) if stream is None else None
    held_out = Samples(runs / "held_out")
    if name == "latents":
        assert samples is not None, "latents has no stream"
        image_encoder = trained_encoders(config, runs, start).conditioner.image_encoder.to(device)
        latent_vae, normalisation = _trained_latent_vae(config, runs)
        of_latents = latent_flow(config)
        if start is not None:
            start.latent_flow(of_latents)
        stage = LatentStage(of_latents, image_encoder, latent_vae.to(device), normalisation, samples, held_out)
        run(stage, schedule, runs / name, device=device)
        return
    vae = standard_vae(config, runs, start).to(device)
    dense: EncoderStage | StructureStage
    given = ""
    if name == "encoders":
        layout = {"patch": config["flow"]["patch_size"], "resolution": config["flow"]["resolution"]}
        learner = _encoders(config)
        if start is not None:
            start.encoders(learner.conditioner, learner.readout)
        dense = EncoderStage(learner, vae, samples, held_out, **layout)
    else:
        encoders = trained_encoders(config, runs, start)
        flow = SparseStructureFlowModel(**config["flow"])
        if start is not None:
            start.flow(flow)
        elif init is not None:
            start_from_trellis(flow, Path(init))
        else:
            start_from_nothing(flow)
        if flow.readout is not None:
            flow.readout.load_state_dict(encoders.readout.state_dict())
            flow.readout.requires_grad_(False)
            given = "readout"
        dense = StructureStage(flow, encoders.conditioner.to(device), vae, samples, held_out)
    if stream is None:
        run(dense, schedule, runs / name, device=device, given=given)
        return
    with stream:
        run(StreamedStage(dense, stream), schedule, runs / name, device=device, given=given)


def _stream(config: Config, runs: Path, workers: int) -> Stream:
    """The stream that a config describes; held-out scenes are drawn where they are missing."""
    data, sizes = config["data"], sample_sizes(config)
    stream = Stream(runs / "data", data, sizes, workers)
    if not any((runs / "held_out").glob(f"{GIVEN}*")):
        count, first_seed = data["held_out_scenes"], data["held_out_seed"]
        make_shards(runs / "held_out", count, first_seed=first_seed, workers=workers, **sizes)
    return stream


def export(config: Config, runs: Path, folder: Path, textures: bool = False, init: str | None = None) -> None:
    """Write the averaged weights of all stages as a checkpoint folder in fp16 that ``--weights`` takes.

    textures: with the stages of structured latents. init: the whole SceneGen that structure VAE and encoders are taken
    from where ``runs`` has none. Raises InvalidInput when a stage is missing.
    """
    start = None if init is None else Checkpoint(init)
    structure_vae = standard_vae(config, runs, start)
    encoders = trained_encoders(config, runs, start)
    flow = SparseStructureFlowModel(**config["flow"])
    load_average(runs / "structure", flow)
    if flow.readout is not None:  # as the image encoder beside it, which may be newer than the flow
        flow.readout.load_state_dict(encoders.readout.state_dict())
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


def standard_vae(config: Config, runs: Path, start: Checkpoint | None = None) -> StructureVAE:
    """The trained structure VAE, or that of ``start``, with latents of unit deviation over its held-out objects."""
    vae = _vae(config)
    if start is not None and not (runs / "structure-vae" / "checkpoint.pt").exists():
        start.structure_vae(vae)
        return vae.eval()  # what export wrote has unit deviation
    load_average(runs / "structure-vae", vae)
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


def trained_encoders(config: Config, runs: Path, start: Checkpoint | None = None) -> EncoderPretraining:
    """The trained encoders and readout, or those of ``start``."""
    encoders = _encoders(config)
    if start is not None and not (runs / "encoders" / "checkpoint.pt").exists():
        start.encoders(encoders.conditioner, encoders.readout)
        return encoders.eval()
    load_average(runs / "encoders", encoders)
    return encoders


def _vae(config: Config) -> StructureVAE:
    return StructureVAE(config["structure_encoder"], config["structure_decoder"])


def _encoders(config: Config) -> EncoderPretraining:
    encoders = ImageEncoder(config["image_encoder"]), VGGTAggregator(**config["geometry_encoder"])
    readout = ConditionReadout(**config["flow"]["readout"])
    conditioner = Conditioner(*encoders, ray_token=readout.ray_token)
    initialise_encoders(conditioner)
    conditioner.image_encoder.config._attn_implementation = "eager"  # a tenth faster to train on a CPU
    return EncoderPretraining(conditioner, readout)
