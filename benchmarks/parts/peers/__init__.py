"""The comparison with timm's and the authors' networks: who takes part, their memory, their batches, the picture."""
