"""`SyncBatchNorm` on real ranks; what they do is in `ranks_sync.py`."""

import pytest

import mpi
import normkit as nk
from normkit.distributed import SyncBatchNorm


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "case",
    [
        "equal_to_one_process",
        "like_batch_norm_step_by_step",
        "communication_is_of_the_channels",
        "constants_and_nan",
        "one_value_in_all",
        "nothing_at_all",
        "one_rank_refuses",
        "copies",
        "precise_statistics_of_all_ranks",
    ],
)
def test_row_23_on_real_ranks(case, ranks):
    """USERS.md, row 23, and rows 13 to 15 on several ranks."""
    assert mpi.output(ranks, "ranks_sync.py", case).endswith(f"{case} on {ranks} ranks\n")


def test_docstring():
    mpi.output(1, "ranks_sync.py", "docstring_example")


@pytest.mark.parametrize("how", ["raises_before_the_exchange", "dies_before_the_exchange"])
def test_a_rank_that_never_comes_ends_all(how):
    """As the docstring says of programs under `-m mpi4py`; a hang would be a timeout here."""
    done = mpi.run(3, "ranks_sync.py", how, timeout=60)
    assert done.returncode != 0
    assert "went on" not in done.stdout
    if how.startswith("raises"):
        assert "the file of this rank cannot be read" in done.stderr


def test_comm_is_checked():
    for comm in (None, 3, "world"):
        with pytest.raises(TypeError, match=r"^SyncBatchNorm: `comm` must be an mpi4py communicator, found "):
            SyncBatchNorm(3, comm=comm)
    with pytest.raises(TypeError, match="comm"):
        SyncBatchNorm(3)


def test_is_a_batch_norm_with_its_arguments_and_state():
    class Alone:
        rank, size = 0, 1

        def Allgather(self, sent, received, /):  # noqa: N802
            received[0] = sent

    layer = SyncBatchNorm(3, comm=Alone(), eps=1e-3, axis=-1)
    assert isinstance(layer, nk.BatchNorm)
    assert list(layer.state_dict()) == list(nk.BatchNorm(3).state_dict())
    assert repr(layer).startswith("SyncBatchNorm(num_features=3, eps=0.001, ")
    with pytest.raises(ValueError, match=r"^SyncBatchNorm: `num_features` must be >= 1, found 0$"):
        SyncBatchNorm(0, comm=Alone())
