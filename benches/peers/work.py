"""What a run measures, piece by piece: an op in one mode on one shape. A record has a cell for each that is done."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from case import Case
from ops import Op
from shapes import SETS, Shape

# Seconds on two cores of a server, for the estimate of what is left: only their proportions matter, as it follows what
# the pieces done so far took.
CALL, TURN, CHECK, COMPILE = 0.23e-3, 0.023, 1.5e-3, 10.0  # by MB and contender; at least; by MB and contender; each


@dataclass(frozen=True)
class Piece:
    shapes: str  # the set
    shape: Shape
    op: Op
    mode: str
    peers: frozenset[str] | None = None  # contenders that take part; all where None

    @property
    def key(self) -> tuple:
        return self.shapes, self.shape.dims, self.op.name, self.mode

    def __str__(self) -> str:
        return f"{self.shapes} {self.shape} {self.op.name} {self.mode}"

    def takes(self, peer: str) -> bool:
        """Whether a peer takes part, by the name its contenders begin with. PyTorch always: it says what is right."""
        return self.peers is None or peer == "PyTorch" or any(name.startswith(peer) for name in self.peers)

    @property
    def how(self) -> tuple[Shape, str, bool]:
        return self.shape, self.op.row.dtype, self.op.row.channels_last

    def case(self) -> Case:
        return Case(*self.how)

    def fits(self, case: Case | None) -> bool:
        """Whether the tensors of another piece will do."""
        return case is not None and (case.shape, case.dtype, case.channels_last) == self.how

    def seconds(self, budget: float, rounds: int) -> float:
        """About what it takes with all peers there."""
        contenders, mb = 5 + len((self.peers or set()) - {"PyTorch"}), math.prod(self.shape.dims) * 4e-6
        turns = contenders * max(TURN, 2 * CALL * mb)
        compiled = COMPILE * bool(self.op.compiled and self.takes("torch.compile"))
        return 1.5 * turns + max(budget, rounds * turns) + contenders * CHECK * mb + compiled


def pieces(
    shapes: Iterable[str], ops: Iterable[Op], needed: dict[tuple[str, str, str], set[str]] | None
) -> list[Piece]:
    """Ops on the sets of shapes they belong to; where it is said what is needed (targets.py), that alone.

    Neighbours share their tensors.
    """

    def found() -> Iterator[Piece]:
        for name in shapes:
            for shape in SETS[name]():
                for op in (op for op in ops if name in op.row.sets):
                    for mode in op.modes:
                        if needed is None:
                            yield Piece(name, shape, op, mode)
                        elif (name, op.name, mode) in needed:
                            yield Piece(name, shape, op, mode, frozenset(needed[name, op.name, mode]))

    return list(found())


def left(of: list[Piece], record: dict) -> list[Piece]:
    """Those that a record has no cell of."""
    done = {(c["set"], tuple(c["shape"]), c["op"], c["mode"]) for c in record["cells"]}
    return [piece for piece in of if piece.key not in done]
