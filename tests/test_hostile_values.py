"""Every argument of every public callable gets every hostile value: it is accepted, or refused in the one form with
nothing changed. A public callable without a row is a failure."""

import io
import re

import numpy as np
import pytest

import public_calls
from hostile_values import hostile
from public_calls import CALLS, WITHOUT_ARGUMENTS, public_names

ARGUMENTS = [(name, a) for name, make in CALLS.items() for a in make().parameters()]
HUGE = ("2**40", "2**70", "10**400", "array huge", "array huge channels", "array huge vector", "array huge and empty")
# What is asked for can be done, in some years; it is not waited for.
ENDLESS = {
    ("spectral_norm", "n_power_iterations"): {"2**40"},
    ("SpectralNorm", "n_power_iterations"): {"2**40"},
    ("moments", "x"): {"array huge", "array huge channels", "array huge vector"},
}
# Errors that are somebody else's: of a file that is not there, of the caller's own function.
FOREIGN = {
    ("convert.from_onnx_node", "model"): (OSError, UnicodeError),
    ("darknet.read_weights", "path"): (OSError, UnicodeError),
    ("darknet.write_weights", "path"): (OSError, UnicodeError),
    ("precise_statistics", "forward"): TypeError,
}

# Data, not errors: what looks bad and must be taken as it is.
NAN = {"array NaN in a channel"}
ACCEPTED = {
    ("batch_norm", "x"): {"array NaN", "array overlapping", "array broadcast", "array read-only", "array byte-swapped"},
    ("batch_norm", "weight"): NAN | {"None", "array negative in a channel"},
    ("batch_norm", "running_mean"): NAN,
    ("batch_norm", "running_var"): NAN | {"array negative in a channel"},  # refused where it is used to normalize
    ("batch_norm", "residual"): {"None", "array float64", "array broadcast"},
    ("batch_norm_inference", "var"): NAN,
    ("fold_conv_bn", "running_var"): NAN,
    ("fold_conv_bn", "conv_bias"): NAN | {"None"},
    ("batch_norm_backward", "dy"): {"array NaN", "array float64", "array broadcast"},
    ("moments", "x"): {"array NaN", "array (0, 6, 5)", "array 32 axes"},
    ("moments", "axis"): {"None", "()", "tuple", "np.int64"},
}


def reachable(value):
    """All arrays and files in some arguments or a layer."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, io.BytesIO):
        yield np.frombuffer(value.getvalue(), np.uint8)
    elif isinstance(value, dict):
        for key, of in value.items():
            yield from () if key == "_cache" else reachable(of)
    elif isinstance(value, (list, tuple)):
        for of in value:
            yield from reachable(of)
    elif type(value).__module__.startswith("normkit") and hasattr(value, "__dict__"):
        yield np.array(getattr(value, "training", False))
        yield from reachable(vars(value))


def snapshot(call):
    return [(a.shape, a.dtype, a.tobytes()) for a in reachable([call.arguments, call.owner])]


def own_bytes(value):
    """Those of a hostile array, unless there are too many."""
    is_plain = isinstance(value, np.ndarray) and value.size < 10**6 and not value.dtype.hasobject
    return value.tobytes() if is_plain else None


def of_form(message, name, arguments):
    """Function, argument in backticks, what was found, on one line that can be read."""
    *_, owner, method = f".{name}".split(".")
    if name in ("num_threads", "precise_statistics") or hasattr(
        getattr(public_calls.nk, owner or method, None), "eval"
    ):
        # A layer, and what calls one, may speak as the function that it calls, whose arguments are its own.
        says, arguments = rf"{owner or method}(\.{method})?|\w+", [*arguments, "x", "axis", "v", "u", "layers"]
    else:
        says = rf"({owner}\.)?{method}" if owner in ("Moments", "Convolution") else method
    if owner == "darknet":  # a file's errors are those of its parts
        says, arguments = r"\w+", [*arguments, "file", "layer"]
    if "state" in arguments or "variables" in arguments:  # names of their entries are arguments, too
        arguments = [r"\w+"]
    named = "|".join(arguments)
    return len(message) < 500 and re.match(
        rf"({says}): `(\w+\.)?({named})(\.\w+|\[.*\]|\(\))?` .*\b(found|missing|unexpected)\b.*\Z", message
    )


def outcome(name, argument, label, value):
    """None where the value is accepted, "refused", or what is wrong with it."""
    call = CALLS[name]()
    before, own = snapshot(call), own_bytes(value)
    try:
        call(**{argument: value})
    except FOREIGN.get((name, argument), ()):
        pass
    except (ValueError, TypeError) as error:
        if not of_form(str(error), name, call.parameters()):
            return f"{type(error).__name__}: {error}"
    except MemoryError:
        if label not in HUGE:
            return "MemoryError"
    except BaseException as error:  # PanicException is none of Exception
        return f"{type(error).__name__}: {error}"
    else:
        return None
    return "refused" if (snapshot(call), own_bytes(value)) == (before, own) else "something has changed"


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NaN and infinity in what is accepted
def test_hostile_values(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some of the texts are paths
    endless = ENDLESS.get((name, argument), ())
    outcomes = {label: outcome(name, argument, label, value) for label, value in hostile() if label not in endless}
    wrong = {label: of for label, of in outcomes.items() if of not in (None, "refused")}
    assert not wrong
    refused = {label for label, of in outcomes.items() if of == "refused"}
    assert refused or argument in ("prefix",)  # every argument has bad values
    assert not refused & ACCEPTED.get((name, argument), set())


def test_every_public_callable_has_a_call():
    assert set(public_names()) == set(CALLS) | WITHOUT_ARGUMENTS


@pytest.mark.parametrize("name", CALLS)
def test_the_call_works(name):
    CALLS[name]()()


def test_no_row_is_of_nothing():
    assert set(ACCEPTED) | set(ENDLESS) | set(FOREIGN) <= set(ARGUMENTS)
