"""allcores.sum against NumPy and math.fsum, for arrays of every shape."""

import array
import ctypes
import math
import struct

import allcores as ac
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
REALS = ["f4", "f8"]
COMPLEX = ["c8", "c16"]
EVERY = ["?", *INTEGERS, *REALS, *COMPLEX]


def bits(number):
    """The bits of a sum: floats by their bytes, so that NaN equals itself."""
    if isinstance(number, complex):
        return struct.pack("dd", number.real, number.imag)
    return struct.pack("d", number) if isinstance(number, float) else number


def random_array(dtype, shape, seed):
    """Numbers whose sums round; integers over their whole range."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.asarray(random.random(shape) < 0.5)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        x = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return np.asarray(x)
    x = random.standard_normal(shape) * 10.0 ** random.integers(-9, 9, shape)
    if dtype.kind == "c":
        x = x + 1j * random.standard_normal(shape)
    return np.asarray(x, dtype)


@st.composite
def views(draw):
    """An array of any type and a view of it: steps, turns, repeats, misalignment."""
    dtype = np.dtype(draw(st.sampled_from(EVERY)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9))
    if draw(st.booleans()):
        shape = (*shape[:1], draw(st.integers(0, 3000)))
    x = random_array(dtype, shape, draw(st.integers(0, 2**32)))
    if draw(st.booleans()):  # one byte off
        raw = np.empty(x.nbytes + 1, np.uint8)
        off = raw[1:].view(dtype).reshape(shape) if x.size else x
        off[...] = x
        x = off
    if x.ndim:
        steps = st.sampled_from([1, 2, 3, -1, -2])
        x = x[tuple(slice(None, None, draw(steps)) for _ in x.shape)]
        x = x.transpose(draw(st.permutations(range(x.ndim))))
    if draw(st.booleans()):
        x = np.broadcast_to(x, (draw(st.integers(0, 5)), *x.shape))
    if draw(st.booleans()):
        x = x.view()
        x.flags.writeable = False
    return x


def assert_close(x, total):
    """`total` is within the stated bound of the exact sum of the reals `x`."""
    values = x.astype("f8").ravel().tolist()
    u = np.finfo(x.dtype).eps / 2
    bound = math.log2(max(len(values), 2)) + 128
    assert abs(total - math.fsum(values)) <= bound * u * math.fsum(map(abs, values))


@settings(max_examples=400, deadline=None)
@given(views())
def test_a_sum_is_numpys_and_that_of_the_contiguous_copy(x):
    total = ac.sum(x)
    assert bits(total) == bits(ac.sum(np.array(x, order="C", copy=True)))
    if x.dtype.kind in "?biu":
        assert type(total) is int
        assert total == int(np.sum(x))
    elif x.dtype.kind == "f":
        assert type(total) is float
        assert_close(x, total)
    else:
        assert type(total) is complex
        assert_close(x.real, total.real)
        assert_close(x.imag, total.imag)


@pytest.mark.parametrize("dtype", EVERY)
def test_the_bits_do_not_depend_on_the_budget(dtype, budget):
    x = random_array(dtype, 300_001, 3)
    views = [x, x[::-1], x[1::2], x[:300_000].reshape(600, 500).T]
    found = []
    for cores in (1, 2, 3, 8):
        budget(cores)
        found.append([bits(ac.sum(v)) for v in views for _ in range(5)])
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("dtype", REALS + COMPLEX)
@pytest.mark.parametrize(
    "shape", [(700, 900), (3, 200_000), (200_000, 3), (40, 50, 300), (2, 5000, 60)]
)
def test_a_large_transposed_array_has_the_bits_of_its_copy(dtype, shape):
    x = random_array(dtype, shape, 11)
    for view in (x.T, x.T[::-1], x.swapaxes(-1, -2), x.T[:, 1:], x.T[1::2, ::-1]):
        assert bits(ac.sum(view)) == bits(ac.sum(np.ascontiguousarray(view)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_in_64_bits_as_numpys_do(dtype):
    limits = np.iinfo(dtype)
    for value in (limits.max, limits.min):
        x = np.broadcast_to(np.array(value, dtype), (50_000,))
        assert ac.sum(x) == int(np.sum(x))


@pytest.mark.parametrize("dtype", EVERY)
def test_an_empty_array_sums_to_zero(dtype):
    for shape in ((0,), (3, 0, 2), (0, 10**9)):
        total = ac.sum(np.empty(shape, dtype))
        assert total == 0
        assert type(total) is type(np.sum(np.empty(shape, dtype)).item())


@pytest.mark.parametrize("dtype", EVERY)
def test_an_array_without_axes_and_a_scalar_are_their_one_element(dtype):
    x = np.array(1, dtype)
    assert ac.sum(x) == 1
    assert ac.sum(x[()]) == 1


def test_nan_and_infinity_come_through():
    x = np.ones(5000)
    x[1234] = math.inf
    assert ac.sum(x) == math.inf
    x[4321] = -math.inf
    assert math.isnan(ac.sum(x))
    x[:] = math.nan
    assert math.isnan(ac.sum(x))


def test_negative_zeros_sum_to_the_zero_that_numpy_gives():
    x = np.full(3, -0.0)
    assert math.copysign(1, ac.sum(x)) == math.copysign(1, np.sum(x))


def test_a_float32_sum_is_a_float32():
    total = ac.sum(random_array("f4", 10_000, 5))
    assert np.float32(total) == total


def test_a_read_only_array_is_summed():
    x = np.arange(2000.0)
    x.flags.writeable = False
    assert ac.sum(x) == 1_999_000


def test_an_array_larger_than_memory_is_summed_where_it_repeats():
    x = np.broadcast_to(np.int8(1), (10**6, 300))
    assert ac.sum(x) == 300_000_000


def test_other_things_with_a_buffer_are_summed():
    assert ac.sum(b"\x01\x02\xff") == 258
    assert ac.sum(bytearray(3)) == 0
    assert ac.sum(memoryview(b"abc")[::-2]) == 196
    for code in "bBhHiIlLqQfd":
        assert ac.sum(array.array(code, [1, 2, 3])) == 6
    for kind in (ctypes.c_int16, ctypes.c_long, ctypes.c_ulonglong, ctypes.c_double):
        assert ac.sum((kind * 3)(1, 2, 3)) == 6
    assert ac.sum((ctypes.c_bool * 3)(True, False, True)) == 2


def test_the_letters_of_the_struct_module_are_known():
    for code in "nN":
        assert ac.sum(memoryview(bytes(16)).cast(code)) == 0
    assert ac.sum(memoryview(bytes(2)).cast("?")) == 0


def test_a_memory_mapped_file_is_summed(tmp_path):
    np.arange(10_000.0).tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", "f8", "r")
    assert ac.sum(mapped) == 49_995_000


@pytest.mark.parametrize("dtype", [">f8", ">i2", ">c16"])
def test_a_byte_swapped_array_is_refused_with_the_remedy(dtype):
    x = np.ones(3, dtype)
    with pytest.raises(TypeError, match=r"byte-swapped.*newbyteorder\(\"=\"\)"):
        ac.sum(x)
    assert ac.sum(x.astype(x.dtype.newbyteorder("="))) == 3


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("f2", "float16"),
        ("O", "object"),
        ("M8[s]", "datetime64"),
        ("m8[s]", "timedelta64"),
        ("S3", "S3"),
        ("U2", "U2"),
        ("V5", "V5"),
        ([("a", "f8")], "'a'"),
    ],
)
def test_a_type_that_is_not_summed_is_refused_by_name(dtype, name):
    with pytest.raises(TypeError, match="not .*" + name):
        ac.sum(np.zeros(3, dtype))


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="long double is float64 here")
def test_a_long_double_is_refused():
    for dtype in ("g", "G"):
        with pytest.raises(TypeError, match="float64"):
            ac.sum(np.zeros(3, dtype))


@pytest.mark.parametrize("x", [[1, 2], (1,), 3, 2.5, None, "text", range(3), {1}])
def test_what_has_no_buffer_is_refused_with_the_remedy(x):
    with pytest.raises(TypeError, match=rf"not {type(x).__name__}: numpy.asarray"):
        ac.sum(x)


def test_a_masked_array_is_refused_since_its_buffer_hides_nothing():
    with pytest.raises(TypeError, match="mask"):
        ac.sum(np.ma.masked_array([1.0, 2.0], [True, False]))


def test_a_released_memoryview_is_refused():
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(ValueError, match="released"):
        ac.sum(view)


def test_the_buffer_is_given_back():
    data = bytearray(5000)
    ac.sum(data)
    with pytest.raises(TypeError):
        ac.sum(memoryview(data).cast("c"))
    data.clear()  # a BufferError while somebody holds its buffer
    assert not data


def test_it_takes_one_argument_by_position():
    for wrong in (lambda: ac.sum(), lambda: ac.sum(b"", b""), lambda: ac.sum(x=b"")):
        with pytest.raises(TypeError):
            wrong()
