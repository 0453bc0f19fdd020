"""The network: pure ``nn.Module`` classes over tensors; no files, devices or millimetres."""
