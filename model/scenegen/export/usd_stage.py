"""Stages of USD, written through usd-core (pxr): what usd.py promises.

Objects are rigid bodies by UsdPhysics. Colours of vertices are made linear, as USD's are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from pxr import Gf, Kind, Sdf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdShade, UsdUtils, Vt
from scipy.spatial.transform import Rotation

from scenegen.export.bodies import Bodies, Body, Floor
from scenegen.export.looks import looks_of
from scenegen.export.usd import Collision
from scenegen.glb import png_file
from scenegen.scene import Floats


def write(scene: Bodies, out: Path, collision: Collision) -> Path:
    """scene.usda, scene.usdz, objects/<name>.usd and objects/textures/."""
    (out / "objects" / "textures").mkdir(parents=True)
    stage = _new_stage(out / "scene.usda")
    world = UsdGeom.Xform.Define(stage, "/World").GetPrim()
    stage.SetDefaultPrim(world)
    Usd.ModelAPI(world).SetKind(Kind.Tokens.assembly)
    physics = UsdPhysics.Scene.Define(stage, "/World/PhysicsScene")
    physics.CreateGravityDirectionAttr(Gf.Vec3f(0, 0, -1))
    physics.CreateGravityMagnitudeAttr(9.81)
    UsdLux.DomeLight.Define(stage, "/World/Light").CreateIntensityAttr(1000)
    for body in scene.bodies:
        _write_object(body, out / "objects", collision)
        placed = UsdGeom.Xform.Define(stage, f"/World/{body.name}")
        placed.GetPrim().GetReferences().AddReference(f"./objects/{body.name}.usd")
        placed.AddTranslateOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Vec3d(*body.position_m.tolist()))
        w, x, y, z = body.rotation.as_quat(scalar_first=True).tolist()
        placed.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Quatd(w, x, y, z))
    for name, slab in scene.supports.items():
        _add_slab(stage, f"/World/{name}", slab)
    stage.GetRootLayer().Save()
    main = out / "scene.usda"
    UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(main)), str(out / "scene.usdz"))
    return main


def _new_stage(path: Path) -> Any:
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    return stage


def _write_object(body: Body, folder: Path, collision: Collision) -> None:
    stage, root = _new_stage(folder / f"{body.name}.usd"), f"/{body.name}"
    prim = UsdGeom.Xform.Define(stage, root).GetPrim()
    stage.SetDefaultPrim(prim)
    Usd.ModelAPI(prim).SetKind(Kind.Tokens.component)
    prim.SetDisplayName(body.label)
    UsdPhysics.RigidBodyAPI.Apply(prim)
    _set_mass(prim, body)
    visual = _add_mesh(stage, f"{root}/visual", body.mesh)
    _add_looks(stage, root, visual, body, folder)
    if collision == "pieces":
        UsdGeom.Scope.Define(stage, f"{root}/collision").CreatePurposeAttr(UsdGeom.Tokens.guide)
        for i, piece in enumerate(body.pieces):
            _collide(_add_mesh(stage, f"{root}/collision/piece_{i:02d}", piece), "convexHull")
    else:
        _collide(visual, collision)
    stage.GetRootLayer().Save()


def _set_mass(prim: Any, body: Body) -> None:
    moments, axes = body.physics.principal()
    w, x, y, z = Rotation.from_matrix(axes).as_quat(scalar_first=True).tolist()
    mass = UsdPhysics.MassAPI.Apply(prim)
    mass.CreateMassAttr(body.physics.mass_kg)
    mass.CreateCenterOfMassAttr(Gf.Vec3f(*body.physics.centre_m.tolist()))
    mass.CreateDiagonalInertiaAttr(Gf.Vec3f(*moments.tolist()))
    mass.CreatePrincipalAxesAttr(Gf.Quatf(w, x, y, z))


def _add_mesh(stage: Any, path: str, mesh: trimesh.Trimesh) -> Any:
    prim = UsdGeom.Mesh.Define(stage, path)
    points = np.asarray(mesh.vertices, np.float32)
    prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.asarray(mesh.faces, np.int32).ravel()))
    prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    prim.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(0), points.max(0)])))
    prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    return prim


def _collide(mesh: Any, approximation: str) -> None:
    UsdPhysics.CollisionAPI.Apply(mesh.GetPrim())
    UsdPhysics.MeshCollisionAPI.Apply(mesh.GetPrim()).CreateApproximationAttr(approximation)


def _add_looks(stage: Any, root: str, visual: Any, body: Body, folder: Path) -> None:
    """A UsdPreviewSurface whose colour comes from the texture, or from the colours of the vertices."""
    looks = looks_of(body.mesh)
    material = UsdShade.Material.Define(stage, f"{root}/material")
    surface = UsdShade.Shader.Define(stage, f"{root}/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    primvars = UsdGeom.PrimvarsAPI(visual.GetPrim())
    if looks.texture is not None and looks.uv is not None:
        (folder / "textures" / f"{body.name}.png").write_bytes(png_file(looks.texture))
        st = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
        st.Set(Vt.Vec2fArray.FromNumpy(looks.uv.astype(np.float32)))
        reader = _reader(stage, f"{root}/material/st", "UsdPrimvarReader_float2", "st")
        output = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        image = UsdShade.Shader.Define(stage, f"{root}/material/texture")
        image.CreateIdAttr("UsdUVTexture")
        image.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(f"./textures/{body.name}.png")
        image.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        image.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(output)
        colour = image.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
    else:
        assert looks.colours is not None
        shown = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
        shown.Set(Vt.Vec3fArray.FromNumpy(_linear(looks.colours)))
        reader = _reader(stage, f"{root}/material/colour", "UsdPrimvarReader_float3", "displayColor")
        colour = reader.CreateOutput("result", Sdf.ValueTypeNames.Float3)
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(colour)
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Sdf.ValueTypeNames.Token))
    UsdShade.MaterialBindingAPI.Apply(visual.GetPrim()).Bind(material)


def _reader(stage: Any, path: str, kind: str, primvar: str) -> Any:
    reader = UsdShade.Shader.Define(stage, path)
    reader.CreateIdAttr(kind)
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set(primvar)
    return reader


def _linear(colours: Any) -> Floats:
    """sRGB bytes to the linear float32 [V, 3] that USD's colours are."""
    share = colours / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear, np.float32)


def _add_slab(stage: Any, path: str, slab: Floor) -> None:
    """Collides and has no rigid body: static."""
    cube = UsdGeom.Cube.Define(stage, path)
    cube.CreateSizeAttr(1.0)
    cube.CreateExtentAttr([Gf.Vec3f(-0.5), Gf.Vec3f(0.5)])
    cube.AddTranslateOp().Set(Gf.Vec3d(*slab.centre_m.tolist()))
    cube.AddScaleOp().Set(Gf.Vec3f(*slab.size_m.tolist()))
    cube.CreateDisplayColorAttr([Gf.Vec3f(0.3)])
    UsdPhysics.CollisionAPI.Apply(cube.GetPrim())
