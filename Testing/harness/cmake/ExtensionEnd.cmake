# Slicer writes its configuration and packages here.
