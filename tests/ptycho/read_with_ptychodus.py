"""Run by an interpreter that has ptychodus: what its own library makes of our result, as an .npz.

python read_with_ptychodus.py ptycho.cxi OUT.npz
"""

import sys
from pathlib import Path

import numpy as np
from ptychodus.api.fourier import fourier_shift_2d
from ptychodus.plugins.cxi_file import CXIProductFileIO

product = CXIProductFileIO().read(Path(sys.argv[1]))
where, window = product.object_.get_geometry(), product.probes.get_geometry()
obj, first, exit_waves = product.object_.get_array()[0], [], []
for position, probe in product.iter_position_probes():
    point = where.map_coordinates_probe_to_object(position)
    bounds = window.resolve_patch_bounds(point.x_px, point.y_px)
    first.append((bounds.y_slice.start + bounds.dy, bounds.x_slice.start + bounds.dx))
    modes = fourier_shift_2d(probe.get_array(), dx=bounds.dx, dy=bounds.dy)
    exit_waves.append(modes * obj[bounds.y_slice, bounds.x_slice])
np.savez(
    sys.argv[2],
    object=obj,
    probe=np.squeeze(product.probes.get_array(), 0),
    first_px=np.array(first),
    indexes=product.probe_positions.get_indexes(),
    exit_waves=np.array(exit_waves),
    loss=np.array([loss.value for loss in product.losses]),
    energy_eV=product.metadata.photon_energy_eV,
    distance_m=product.metadata.detector_distance_m,
    pixel_m=np.array([where.pixel_height_m, where.pixel_width_m]),
)
