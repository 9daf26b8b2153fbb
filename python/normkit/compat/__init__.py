"""The call shapes of other people's NumPy and C code, on normkit's functions.

cs231n: the batch, layer and group norm of Stanford's course notes and assignments.
darknet: its batch norm layer, and the batch norms in its `.weights` files.
"""
