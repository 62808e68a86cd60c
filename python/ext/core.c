/* core.c: the module allcores._core, Python's way into the C library.
 *
 * A thin face: it turns Python's objects into the library's types and statuses
 * into exceptions, and does nothing else. Arrays come through the buffer
 * protocol, so NumPy is neither needed nor imported.
 *
 * The GIL is released for sums of 1,000 elements and more; releasing costs more
 * than a smaller one takes. On Python's main thread the library then asks now
 * and then (ac_poll_set) whether a signal waits: the GIL is taken back for that
 * moment, and a handler's exception, KeyboardInterrupt for Ctrl-C, ends the
 * sum.
 *
 * The module keeps its state in the module object: several interpreters, each
 * with a GIL of its own or none, may load it. The core budget is the process's,
 * so they share that.
 *
 * Knows nothing of: how a sum is made; which numbers of cores make sense
 * (budget.py says so to users).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <allcores/allcores.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
  RELEASE_GIL_ELEMENTS = 1000, /* about 0.1 us of work */
  SHARE_ELEMENTS = 1025,       /* smaller sums never reach the team */
  WATCH_SIGNALS_ELEMENTS = 1 << 16,
  STATUS_RAISED = 1 /* a signal's handler raised: the exception is set */
};

typedef struct core_state {
  PyTypeObject *limit_type;
  atomic_uint exported; /* `forks` + 1 when ALLCORES_LEDGER was last set */
} core_state;

static core_state *state_of(PyObject *module) {
  return PyModule_GetState(module);
}

/* ---- Statuses become exceptions ----------------------------------------- */

/* The one table: X(status, exception). */
#define EXCEPTION_TABLE(X)                                                     \
  X(AC_E_INVAL, PyExc_ValueError)                                              \
  X(AC_E_NOMEM, PyExc_MemoryError)                                             \
  X(AC_E_OS, PyExc_OSError)                                                    \
  X(AC_E_CANCELLED, PyExc_RuntimeError)                                        \
  X(AC_E_TIMEOUT, PyExc_TimeoutError)                                          \
  X(AC_E_FORKED, PyExc_RuntimeError)                                           \
  X(AC_E_STATE, PyExc_RuntimeError)                                            \
  X(AC_E_UNSUPPORTED, PyExc_NotImplementedError)

static PyObject *exception_of(ac_status status) {
  switch (status) {
#define CASE(code, exception)                                                  \
  case code:                                                                   \
    return exception;
    EXCEPTION_TABLE(CASE)
#undef CASE
  }
  return PyExc_RuntimeError;
}

/* Raise for `status`; always NULL. */
static PyObject *raise_status(ac_status status) {
  const ac_error *error = ac_last_error();
  if (error->status != status || error->detail[0] == '\0')
    return PyErr_Format(exception_of(status), "%s", ac_status_text(status));
  return PyErr_Format(exception_of(status), "%s%s%s", error->detail,
                      error->remedy[0] != '\0' ? ". " : "", error->remedy);
}

/* ---- Programs that this one starts share its cores ----------------------- */

static atomic_uint forks; /* how often this process was forked off another */

static void count_fork(void) {
  /* relaxed: the child has one thread. */
  atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

/* Once a process. If it is refused, a forked child keeps its parent's text. */
static void watch_forks(void) { (void)pthread_atfork(NULL, NULL, count_fork); }

/* Set os.environ["ALLCORES_LEDGER"] at the first shared work, and anew in a
 * forked child, whose children cannot count on its parent's life. A machine
 * that refuses shared memory has no ledger to tell of; that is no reason to
 * fail. */
static void export_ledger(core_state *state) {
  char text[64];
  /* relaxed, both: only the number counts; setting it twice is harmless. */
  unsigned now = atomic_load_explicit(&forks, memory_order_relaxed) + 1;
  if (atomic_load_explicit(&state->exported, memory_order_relaxed) == now)
    return;
  atomic_store_explicit(&state->exported, now, memory_order_relaxed);
  if (ac_ledger_export(text, sizeof text) != AC_OK)
    return;
  PyObject *os = PyImport_ImportModule("os");
  PyObject *environ = os ? PyObject_GetAttrString(os, "environ") : NULL;
  PyObject *value = environ ? PyUnicode_FromString(text) : NULL;
  if (value == NULL ||
      PyMapping_SetItemString(environ, "ALLCORES_LEDGER", value) < 0)
    PyErr_Clear(); /* the interpreter is going down, or memory is short */
  Py_XDECREF(value);
  Py_XDECREF(environ);
  Py_XDECREF(os);
}

static PyObject *core_ledger_export(PyObject *module, PyObject *unused) {
  char text[64];
  (void)module, (void)unused;
  ac_status st = ac_ledger_export(text, sizeof text);
  return st == AC_OK ? PyUnicode_FromString(text) : raise_status(st);
}

/* ---- Machine, budget, counters ------------------------------------------- */

static PyObject *core_version(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyUnicode_FromString(ac_version());
}

static const char *limit_name(ac_core_limit limit) {
  switch (limit) {
  case AC_LIMIT_ONLINE:
    return "online";
  case AC_LIMIT_AFFINITY:
    return "affinity";
  case AC_LIMIT_QUOTA:
    return "quota";
  case AC_LIMIT_USER:
    return "user";
  }
  return "unknown";
}

static PyObject *core_topology(PyObject *module, PyObject *unused) {
  ac_topology t;
  (void)module, (void)unused;
  ac_status st = ac_topology_read(&t);
  if (st != AC_OK)
    return raise_status(st);
  return Py_BuildValue(
      "{si si si si si si sd si si si ss sL sL sL ss ss}", "online", t.online,
      "affinity", t.affinity, "physical", t.physical, "nodes", t.nodes, "smt",
      t.smt, "packages", t.packages, "quota", t.quota, "granted", t.granted,
      "user_cap", t.user_cap, "cores", t.cores, "limit", limit_name(t.limit),
      "l1d_bytes", (long long)t.l1d_bytes, "l2_bytes", (long long)t.l2_bytes,
      "l3_bytes", (long long)t.l3_bytes, "quota_path", t.quota_path, "reason",
      t.reason);
}

static PyObject *core_budget(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyLong_FromLong(ac_budget());
}

/* A number of cores as C takes it; what no int holds becomes one that the
 * library refuses. -1 with an exception set if it is no integer. */
static int cores_of(PyObject *cores, int *ret_cores) {
  int overflow;
  long value = PyLong_AsLongAndOverflow(cores, &overflow);
  if (value == -1 && PyErr_Occurred())
    return -1;
  *ret_cores = overflow || value < 0 || value > INT_MAX ? -1 : (int)value;
  return 0;
}

static PyObject *core_budget_set(PyObject *module, PyObject *arg) {
  int cores;
  (void)module;
  if (cores_of(arg, &cores) < 0)
    return NULL;
  ac_status st = ac_budget_set(cores);
  if (st != AC_OK)
    return raise_status(st);
  Py_RETURN_NONE;
}

static PyObject *core_counters(PyObject *module, PyObject *unused) {
  ac_counters counters;
  (void)module, (void)unused;
  ac_counters_read(NULL, &counters);
  const struct {
    const char *name;
    uint64_t value;
  } table[] = {
#define ROW(name, text) {#name, counters.name},
      AC_COUNTER_TABLE(ROW)
#undef ROW
  };
  PyObject *dict = PyDict_New();
  for (size_t i = 0; dict != NULL && i < sizeof table / sizeof *table; i++) {
    PyObject *value = PyLong_FromUnsignedLongLong(table[i].value);
    if (value == NULL || PyDict_SetItemString(dict, table[i].name, value) < 0)
      Py_CLEAR(dict);
    Py_XDECREF(value);
  }
  return dict;
}

static PyObject *core_counter_sentences(PyObject *module, PyObject *unused) {
  static const char *const table[][2] = {
#define ROW(name, text) {#name, text},
      AC_COUNTER_TABLE(ROW)
#undef ROW
  };
  PyObject *dict = PyDict_New();
  (void)module, (void)unused;
  for (size_t i = 0; dict != NULL && i < sizeof table / sizeof *table; i++) {
    PyObject *text = PyUnicode_FromString(table[i][1]);
    if (text == NULL || PyDict_SetItemString(dict, table[i][0], text) < 0)
      Py_CLEAR(dict);
    Py_XDECREF(text);
  }
  return dict;
}

/* ---- Limit: a narrowed budget, until it is released or forgotten --------- */

typedef struct limit {
  PyObject_HEAD ac_limit_token token;
  atomic_int holds; /* 0 once released */
} limit;

static void limit_let_go(limit *self) {
  /* acq_rel: of two threads that release, one gets the 1, and it sees the
   * token that core_limit_hold() wrote before its release store. */
  if (atomic_exchange_explicit(&self->holds, 0, memory_order_acq_rel) != 0)
    ac_limit_release(&self->token);
}

static PyObject *limit_release(PyObject *self, PyObject *unused) {
  (void)unused;
  limit_let_go((limit *)self);
  Py_RETURN_NONE;
}

static void limit_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  limit_let_go((limit *)self);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyMethodDef limit_methods[] = {
    {"release", limit_release, METH_NOARGS,
     "release($self, /)\n--\n\nGive the budget back; a second call does "
     "nothing."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot limit_slots[] = {
    {Py_tp_doc, (char *)"A narrowed budget; made by limit_hold()."},
    {Py_tp_dealloc, limit_dealloc},
    {Py_tp_methods, limit_methods},
    {0, NULL},
};

static PyType_Spec limit_spec = {
    .name = "allcores._core.Limit",
    .basicsize = sizeof(limit),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = limit_slots,
};

static PyObject *core_limit_hold(PyObject *module, PyObject *arg) {
  int cores;
  PyTypeObject *type = state_of(module)->limit_type;
  if (cores_of(arg, &cores) < 0)
    return NULL;
  limit *self = (limit *)type->tp_alloc(type, 0);
  if (self == NULL)
    return NULL;
  atomic_init(&self->holds, 0);
  ac_status st = ac_limit_hold(cores, &self->token);
  if (st != AC_OK) {
    Py_DECREF(self);
    return raise_status(st);
  }
  /* release: pairs with the exchange in limit_let_go(). */
  atomic_store_explicit(&self->holds, 1, memory_order_release);
  return (PyObject *)self;
}

/* ---- Buffers become arrays ----------------------------------------------- */

/* True if longer than one byte and in the order that this machine has not. */
static int is_swapped(const Py_buffer *view) {
  char order = view->format != NULL ? view->format[0] : '@';
#if PY_BIG_ENDIAN
  return view->itemsize > 1 && order == '<';
#else
  return view->itemsize > 1 && (order == '>' || order == '!');
#endif
}

/* The element type of a buffer, by the kind that its format names and its size,
 * so that letters whose size differs between machines and modes ('l') need no
 * table; AC_DTYPE_COUNT if ac_sum() has none for it. */
static ac_dtype dtype_of(const Py_buffer *view) {
  const char *format = view->format != NULL ? view->format : "B";
  Py_ssize_t size = view->itemsize;
  if (format[0] != '\0' && strchr("@=<>!^", format[0]) != NULL)
    format++;
  if (strcmp(format, "Zf") == 0 && size == 8)
    return AC_COMPLEX64;
  if (strcmp(format, "Zd") == 0 && size == 16)
    return AC_COMPLEX128;
  if (format[0] == '\0' || format[1] != '\0')
    return AC_DTYPE_COUNT;
  if (format[0] == 'f' && size == 4)
    return AC_FLOAT32;
  if (format[0] == 'd' && size == 8)
    return AC_FLOAT64;
  if (format[0] == '?' && size == 1)
    return AC_BOOL;
  int log2_size = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
  if (size != 1 << log2_size)
    return AC_DTYPE_COUNT;
  if (strchr("bhilqn", format[0]) != NULL)
    return (ac_dtype)((int)AC_INT8 + log2_size);
  if (strchr("BHILQN", format[0]) != NULL)
    return (ac_dtype)((int)AC_UINT8 + log2_size);
  return AC_DTYPE_COUNT;
}

/* Raise a TypeError that names the element type of `x`; always -1. */
static int refuse_elements(PyObject *x, const char *format) {
  PyObject *dtype = PyObject_GetAttrString(x, "dtype");
  if (dtype == NULL) {
    PyErr_Clear();
    dtype = PyUnicode_FromFormat("elements of buffer format '%s'", format);
    if (dtype == NULL)
      return -1;
  }
  PyErr_Format(PyExc_TypeError,
               "sum() takes arrays of bool, integers of 8 to 64 bits, float32, "
               "float64, complex64 and complex128, not %S: convert it, for "
               "example with x.astype(\"float64\"), or use numpy.sum(x)",
               dtype);
  Py_DECREF(dtype);
  return -1;
}

/* An array that hides some of its elements: its buffer shows them all. */
static int is_masked(PyObject *x) {
  return strcmp(Py_TYPE(x)->tp_name, "numpy.ndarray") != 0 &&
         PyObject_HasAttrString(x, "_mask");
}

static int buffer_open(PyObject *x, Py_buffer *ret_view) {
  if (!PyObject_CheckBuffer(x)) {
    PyErr_Format(PyExc_TypeError,
                 "sum() takes an array (any object with the buffer protocol), "
                 "not %.100s: numpy.asarray(x) makes an array of it",
                 Py_TYPE(x)->tp_name);
    return -1;
  }
  if (is_masked(x)) {
    PyErr_SetString(PyExc_TypeError,
                    "sum() cannot see the mask of a masked array: use "
                    "x.sum(), or x.filled(0)");
    return -1;
  }
  if (PyObject_GetBuffer(x, ret_view, PyBUF_RECORDS_RO) == 0)
    return 0;
  /* NumPy refuses types that have no format, as datetime64, by ValueError. */
  if (!PyErr_ExceptionMatches(PyExc_ValueError))
    return -1;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  if (!PyObject_HasAttrString(x, "dtype")) {
    PyErr_Restore(type, value, traceback);
    return -1;
  }
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return refuse_elements(x, "");
}

static int array_init(PyObject *x, const Py_buffer *view, int64_t *shape,
                      int64_t *strides, ac_array *ret_array) {
  ac_dtype dtype = dtype_of(view);
  if (dtype == AC_DTYPE_COUNT)
    return refuse_elements(x, view->format);
  if (is_swapped(view)) {
    PyErr_Format(PyExc_TypeError,
                 "sum() takes arrays in this machine's byte order, and this "
                 "one is byte-swapped (format '%s'): convert it with "
                 "x.astype(x.dtype.newbyteorder(\"=\"))",
                 view->format);
    return -1;
  }
  /* ctypes gives no strides though asked for them: C order. */
  int has_strides = view->strides != NULL;
  for (int a = 0; a < view->ndim; a++) {
    shape[a] = view->shape[a];
    strides[a] = has_strides ? view->strides[a] : 0;
  }
  *ret_array = (ac_array){view->buf, dtype, view->ndim, shape,
                          has_strides ? strides : NULL};
  return 0;
}

/* ---- sum ----------------------------------------------------------------- */

/* A sum that watches for signals; lives on its caller's stack. */
typedef struct watch {
  PyThreadState *thread; /* as PyEval_SaveThread() gave it */
  struct watch *outer;   /* a sum in whose signal handler this one runs */
  int has_raised;
} watch;

static _Thread_local watch *innermost;

static ac_status look_for_signals(void *ctx) {
  watch *w = ctx;
  if (!w->has_raised) {
    PyEval_RestoreThread(w->thread);
    w->has_raised = PyErr_CheckSignals() < 0;
    w->thread = PyEval_SaveThread();
  }
  return w->has_raised ? STATUS_RAISED : AC_OK;
}

static void watch_begin(watch *w) {
  w->outer = innermost;
  innermost = w;
  ac_poll_set(look_for_signals, w);
}

static void watch_end(watch *w) {
  innermost = w->outer;
  ac_poll_set(innermost != NULL ? look_for_signals : NULL, innermost);
}

/* Python runs signal handlers on its main thread only. Without the module
 * threading nobody has made another. -1 with an exception set on failure. */
static int is_main_thread(void) {
  PyObject *name = PyUnicode_FromString("threading");
  PyObject *threading = name != NULL ? PyImport_GetModule(name) : NULL;
  Py_XDECREF(name);
  if (threading == NULL)
    return PyErr_Occurred() ? -1 : 1;
  PyObject *thread = PyObject_CallMethod(threading, "main_thread", NULL);
  PyObject *ident = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
  unsigned long main = ident ? PyLong_AsUnsignedLong(ident) : 0;
  Py_XDECREF(ident);
  Py_XDECREF(thread);
  Py_DECREF(threading);
  return PyErr_Occurred() ? -1 : main == PyThread_get_thread_ident();
}

/* Sum without the GIL; STATUS_RAISED if a signal's handler raised. */
static ac_status sum_released(const ac_array *array, int watches,
                              ac_scalar *ret_sum) {
  watch w = {0};
  w.thread = PyEval_SaveThread();
  if (watches)
    watch_begin(&w);
  ac_status st = ac_sum(NULL, array, NULL, ret_sum);
  if (watches)
    watch_end(&w);
  PyEval_RestoreThread(w.thread);
  return w.has_raised ? STATUS_RAISED : st;
}

static PyObject *scalar_to_python(ac_dtype dtype, const ac_scalar *sum) {
  switch (dtype) {
  case AC_FLOAT32:
    return PyFloat_FromDouble((double)sum->f32);
  case AC_FLOAT64:
    return PyFloat_FromDouble(sum->f64);
  case AC_COMPLEX64:
    return PyComplex_FromDoubles((double)sum->c64[0], (double)sum->c64[1]);
  case AC_COMPLEX128:
    return PyComplex_FromDoubles(sum->c128[0], sum->c128[1]);
  case AC_UINT8:
  case AC_UINT16:
  case AC_UINT32:
  case AC_UINT64:
    return PyLong_FromUnsignedLongLong(sum->u64);
  default:
    return PyLong_FromLongLong(sum->i64);
  }
}

static PyObject *core_sum(PyObject *module, PyObject *x) {
  int64_t shape[PyBUF_MAX_NDIM], strides[PyBUF_MAX_NDIM];
  Py_buffer view;
  ac_array array;
  ac_scalar sum;
  PyObject *result = NULL;
  int watches = 0;
  if (buffer_open(x, &view) < 0)
    return NULL;
  if (array_init(x, &view, shape, strides, &array) < 0)
    goto out;
  Py_ssize_t count = view.len / view.itemsize;
  if (count >= SHARE_ELEMENTS)
    export_ledger(state_of(module));
  if (count >= WATCH_SIGNALS_ELEMENTS && (watches = is_main_thread()) < 0)
    goto out;
  ac_status st = count < RELEASE_GIL_ELEMENTS
                     ? ac_sum(NULL, &array, NULL, &sum)
                     : sum_released(&array, watches, &sum);
  if (st == AC_OK)
    result = scalar_to_python(array.dtype, &sum);
  else if (!PyErr_Occurred())
    raise_status(st);
out:
  PyBuffer_Release(&view);
  return result;
}

PyDoc_STRVAR(
    sum_doc,
    "sum($module, x, /)\n"
    "--\n"
    "\n"
    "Sum all elements of an array, on as many cores as pay.\n"
    "\n"
    "Parameters\n"
    "----------\n"
    "x : array\n"
    "    Any object with the buffer protocol: a NumPy array, a\n"
    "    memoryview, an array.array, bytes. Any shape and strides; it may\n"
    "    be read-only, unaligned or broadcast, and is not copied.\n"
    "    Elements are bool, integers of 8 to 64 bits, float32, float64,\n"
    "    complex64 or complex128, in the machine's byte order.\n"
    "\n"
    "Returns\n"
    "-------\n"
    "int, float or complex\n"
    "    Integers and booleans are summed in 64 bits, wrapping, as\n"
    "    numpy.sum does; float32 in float32 and complex64 in complex64,\n"
    "    and the result is that number as a Python float or complex. An\n"
    "    empty array gives zero. NaN and infinity propagate.\n"
    "\n"
    "Raises\n"
    "------\n"
    "TypeError\n"
    "    `x` has no buffer, is masked, or has elements of another type or\n"
    "    byte order.\n"
    "BufferError\n"
    "    `x` does not lend its memory now.\n"
    "KeyboardInterrupt\n"
    "    Ctrl-C came while the sum ran on the main thread.\n"
    "\n"
    "Notes\n"
    "-----\n"
    "The bits of the result depend on the elements in C order alone, not\n"
    "on the number of threads nor on the strides. So they can differ in\n"
    "the last places from those of numpy.sum, which adds in the order of\n"
    "memory. The error is at most (log2(n) + 64) u sum(abs(x)) to first\n"
    "order, for each part of a complex sum (log2(n) + 128) u; u is\n"
    "2**-53, for float32 and complex64 2**-24. A transposed array of\n"
    "floats is read in C order all the same, which takes a few times as\n"
    "long; integers are read in the order of memory.\n"
    "\n"
    "The GIL is released from 1,000 elements on: do not write to `x` from\n"
    "another thread meanwhile. The first sum of more than 1,024 elements\n"
    "sets ``os.environ[\"ALLCORES_LEDGER\"]``, so that programs started\n"
    "from then on keep within the machine's cores together with this one.\n"
    "\n"
    "Examples\n"
    "--------\n"
    ">>> import array\n"
    ">>> import allcores as ac\n"
    ">>> ac.sum(array.array(\"d\", [0.5, 1.5, 2.0]))\n"
    "4.0\n");

/* ---- The module ---------------------------------------------------------- */

static PyMethodDef core_methods[] = {
    {"sum", core_sum, METH_O, sum_doc},
    {"version", core_version, METH_NOARGS,
     "version($module, /)\n--\n\nVersion of the C library."},
    {"topology", core_topology, METH_NOARGS,
     "topology($module, /)\n--\n\nThe machine as this process sees it, as a "
     "dict; 0 for what is not limited or not known."},
    {"budget", core_budget, METH_NOARGS,
     "budget($module, /)\n--\n\nCores that the process may use now."},
    {"budget_set", core_budget_set, METH_O,
     "budget_set($module, cores, /)\n--\n\nSet the budget: 1 to 1024; 0 is "
     "what "
     "the machine grants."},
    {"limit_hold", core_limit_hold, METH_O,
     "limit_hold($module, cores, /)\n--\n\nNarrow the budget until the Limit "
     "returned is released."},
    {"counters", core_counters, METH_NOARGS,
     "counters($module, /)\n--\n\nWhat the process's team did, as a dict."},
    {"counter_sentences", core_counter_sentences, METH_NOARGS,
     "counter_sentences($module, /)\n--\n\nWhat each counter counts."},
    {"ledger_export", core_ledger_export, METH_NOARGS,
     "ledger_export($module, /)\n--\n\nThe value of ALLCORES_LEDGER by which a "
     "program joins this process's core ledger."},
    {NULL, NULL, 0, NULL},
};

static int core_exec(PyObject *module) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  core_state *state = state_of(module);
  atomic_init(&state->exported, 0);
  (void)pthread_once(&once, watch_forks);
  state->limit_type =
      (PyTypeObject *)PyType_FromModuleAndSpec(module, &limit_spec, NULL);
  if (state->limit_type == NULL)
    return -1;
  return PyModule_AddType(module, state->limit_type);
}

static int core_traverse(PyObject *module, visitproc visit, void *arg) {
  Py_VISIT(state_of(module)->limit_type);
  return 0;
}

static int core_clear(PyObject *module) {
  Py_CLEAR(state_of(module)->limit_type);
  return 0;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "allcores._core",
    .m_doc = "Python's way into the C library; use the functions of allcores.",
    .m_size = sizeof(core_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
};

PyMODINIT_FUNC PyInit__core(void); /* only the interpreter calls it */
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&core_module); }
