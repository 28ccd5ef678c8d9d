"""The published checkpoints of NVAE and VAEBM: their arguments, names and weights in our terms."""
