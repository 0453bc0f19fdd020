"""The command line ``refsam3d``; one module per command."""
