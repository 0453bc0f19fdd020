"""Batch, review and comparison in Slicer: thin over ``RefSAM3DLib.batch``, ``RefSAM3DLib.review`` and ``RefSAM3DLib.compare``.

Those are imported when a folder is opened, not when the module loads: they need packages that are installed with the engine.
"""
