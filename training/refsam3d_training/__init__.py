"""Train RefSAM3D from volumes with partial labels, or fine-tune its adapters."""
