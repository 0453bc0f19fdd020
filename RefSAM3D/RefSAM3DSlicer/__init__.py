"""RefSAM3D inside 3D Slicer: everything between the MRML scene, the panel and the engine's worker process.

Importing this package or any module in it loads no torch. ``runner`` and ``worker_process`` need neither Qt nor Slicer.
"""
