"""Other stream processors on the same load as flowstream, one file each; ``python -m bench.peers`` compares them."""
