"""From a volume and prompts to masks on the volume's own grid, in the order preprocess, tiling, embed, localize, decode, postprocess."""
