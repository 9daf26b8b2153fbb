"""The demo's parts: data, a small NumPy neural network library, the experiments, and their pictures and tables."""
