"""`beamside denoise import-weights` and `beamside denoise export`: models from and to other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.errors import InputError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from beamside.denoise.model_file import Card
    from beamside.denoise.networks import Network

_FORMS = ("onnx", "safetensors", "fortran")
_PROBE_PX = 112


def configure(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both actions."""
    read = actions.add_parser(
        "import-weights",
        help="weights of the Fortran denoiser, accepted by what they do to a probe",
        description="Read convNN_weights.bin and convNN_bias.bin (raw float32). Every order of the weights is tried on "
        "a simulated micrograph; the documented one is accepted if it alone denoises.",
    )
    read.add_argument("folder", type=Path, metavar="DIR", help="folder of one epoch's weight files")
    read.add_argument("out", type=Path, metavar="OUT.safetensors", help="model file to write")
    read.add_argument(
        "--layout", default="out,in,kh,kw", metavar="ORDER", help="order of the axes in the files (out,in,kh,kw)"
    )
    write = actions.add_parser("export", help="a model for other programs")
    write.add_argument("model", metavar="RUN|FILE|prior", help="a training run, a model file, or the one built in")
    write.add_argument("--to", choices=_FORMS, required=True, help="ONNX, our model file, or the Fortran weight files")
    write.add_argument("--out", type=Path, metavar="PATH", help="file, or folder for fortran (beside the model)")


def run(args: argparse.Namespace) -> int:
    """Import or export; 0."""
    return _import(args) if args.action == "import-weights" else _export(args)


def _import(args: argparse.Namespace) -> int:
    """Raises FormatError for files that fit no network, InputError when the evidence is against them."""
    from beamside import __version__
    from beamside.denoise import ancestor
    from beamside.denoise.export import write_model
    from beamside.denoise.model_file import Card
    from beamside.formats.layer_files import read_layers

    if args.layout not in ancestor.LAYOUTS:
        raise OptionError(f"--layout {args.layout} is no order of out, in, kh and kw.", remedy="Name all four, once.")
    if args.out.suffix != ".safetensors":
        raise OptionError(f"{args.out} does not end in .safetensors.", remedy="Call the model file so.")
    layers = [ancestor.Weights(x.inputs, x.outputs, x.weights, x.bias) for x in read_layers(args.folder)]
    name = ancestor.network_of(layers)
    trials = ancestor.try_all(name, layers, *probe())
    print(ancestor.table(trials), flush=True)
    try:
        best = ancestor.chosen(trials, args.layout)
    except InputError as error:
        raise InputError(error.what, where=str(args.folder), remedy=error.remedy) from error
    facts = {"program": f"beamside {__version__}", "imported_from": str(args.folder), "layout": args.layout}
    facts |= {"input_units": [best.gain, best.offset], "probe_error_left": best.left}
    card = Card(name, pixel_size_A=None, pairs="given", provenance=facts)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_model(args.out, ancestor.assembled(name, layers, args.layout), card)
    print(f"{name} in {args.out}; it leaves {100 * best.left:.1f} % of the probe's error")
    return 0


def probe() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A half of a simulated micrograph and its truth, both normalised by the half; always the same."""
    from beamside.denoise.normalise import robust_scale
    from beamside.simulate.micrographs import Recipe, Session

    recipe = Recipe(
        size_px=_PROBE_PX, pixel_size_A=2.0, structures=("ring", "small"), contrast=1.0, ice_rad=0.005, seed=3
    )
    made = Session(recipe).micrograph(0)
    scale = robust_scale(made.even, made.odd)
    return scale.normalise(made.even), scale.normalise(0.5 * made.clean)


def _export(args: argparse.Namespace) -> int:
    """Raises InputError for a network that the form cannot hold, OptionError where a library is missing."""
    from beamside.denoise.export import read_model, write_model
    from beamside.denoise.prior import PRIOR
    from beamside.errors import BeamsideError

    path = PRIOR if args.model == "prior" else Path(args.model)
    if not path.exists():
        raise InputError("there is no such model or run.", where=args.model, remedy="Name a run, a file, or 'prior'.")
    network, card = read_model(path)
    beside = Path.cwd() / "prior" if args.model == "prior" else path.with_name(path.name.removesuffix(".safetensors"))
    endings = {"onnx": ".onnx", "safetensors": ".export.safetensors", "fortran": "_fortran"}
    out = args.out or beside.with_name(beside.name + endings[args.to])
    if out.exists() and out.resolve() == path.resolve():
        raise InputError("files.distinct: is the model itself.", where=str(out), remedy="Give another path by --out.")
    if network.blend is not None and args.to != "safetensors":
        text = "beamside: the form holds the network alone; what 'apply' adds by frequency (its blend) is not in it."
        print(text, file=sys.stderr)
    try:
        if args.to == "safetensors":
            write_model(out, network, card)
        elif args.to == "fortran":
            _write_fortran(out, network)
        else:
            _write_onnx(out, network, card)
    except BeamsideError as error:
        raise InputError(error.what, where=str(path), remedy=error.remedy) from error
    print(f"{network.name} in {out}")
    return 0


def _write_fortran(folder: Path, network: Network) -> None:
    """The files, read back and compared bit for bit."""
    from beamside.denoise.ancestor import flattened
    from beamside.formats.layer_files import Layer, read_layers, write_layers

    layers = [Layer(x.inputs, x.outputs, x.flat, x.bias) for x in flattened(network)]
    write_layers(folder, layers)
    for made, found in zip(layers, read_layers(folder), strict=True):
        if made.weights.tobytes() != found.weights.tobytes() or made.bias.tobytes() != found.bias.tobytes():
            raise InputError("weights.roundtrip: what was written reads back differently.", remedy="Check the disk.")


def _write_onnx(path: Path, network: Network, card: Card) -> None:
    """One file with free height and width (multiples of the stride), its numbers checked by its own library."""
    import importlib.util
    import warnings

    import torch

    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None:
        raise OptionError("ONNX needs the packages onnx and onnxscript.", remedy="pip install onnx onnxscript")
    side = 8 * network.stride
    sizes: Any = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        # The exporter warns about its own use of other libraries.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 1, side, 2 * side),),
            dynamo=True,
            input_names=["normalised"],
            output_names=["denoised"],
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
