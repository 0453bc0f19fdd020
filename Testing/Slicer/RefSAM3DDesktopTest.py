"""Run inside the Slicer desktop application: the end-to-end scenario of ``RefSAM3DTest``."""

import unittest


class RefSAM3DDesktopTest(unittest.TestCase):
    """One scenario; see RefSAM3D/RefSAM3DSlicer/self_test.py."""

    def test_end_to_end(self):
        import RefSAM3D

        RefSAM3D.RefSAM3DTest().runTest()
