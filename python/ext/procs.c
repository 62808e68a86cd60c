/* procs.c: the module allcores._procs, Python's way to worker processes.
 *
 * A thin face of allcores/pool.h, which turns Python's objects into bytes and
 * buffers. Three sides use it: the parent (Pool), the fork server
 * (forkserver_serve) and the worker (worker_serve).
 *
 * Memory. What arrives with buffers beside it is not copied: the buffers are
 * Part objects over shared memory, which share one Block. When the last Part
 * has gone the Block gives the memory back. In a worker Parts are read-only; in
 * the parent they are the caller's own.
 *
 * The GIL is released while a thread waits.
 *
 * Knows nothing of: pickles, what a task is. See _shipping.py, _processes.py.
 */
#include "procs_buffers.h"

#include <string.h>
#include <unistd.h>

static struct PyModuleDef procs_module;

static procs_state *state_of_type(PyTypeObject *type) {
  return PyType_GetModuleState(type);
}

/* The table of core.c, in short: what these calls return. */
static PyObject *raise_status(ac_status status) {
  const ac_error *error = ac_last_error();
  PyObject *exception = status == AC_E_INVAL   ? PyExc_ValueError
                        : status == AC_E_NOMEM ? PyExc_MemoryError
                        : status == AC_E_OS    ? PyExc_OSError
                                               : PyExc_RuntimeError;
  if (error->status != status || error->detail[0] == '\0')
    return PyErr_Format(exception, "%s", ac_status_text(status));
  return PyErr_Format(exception, "%s%s%s", error->detail,
                      error->remedy[0] != '\0' ? ". " : "", error->remedy);
}

/* ---- The worker ---------------------------------------------------------- */

typedef struct worker {
  procs_state *state;
  PyObject *begin, *run, *sleep;
  PyThreadState *thread;
  views out; /* what the last task gave, until the next */
  PyObject *text;
} worker;

static ac_status worker_begin(ac_worker_link *link, ac_bytes setup,
                              ac_bytes *ret_text, void *ctx) {
  worker *worker = ctx;
  PyEval_RestoreThread(worker->thread);
  PyObject *capsule = PyCapsule_New(link, "allcores.worker_link", NULL);
  PyObject *answer =
      capsule == NULL
          ? NULL
          : PyObject_CallFunction(worker->begin, "Oy#", capsule, setup.data,
                                  (Py_ssize_t)setup.size_bytes);
  Py_XDECREF(capsule);
  ac_status st = AC_OK;
  if (answer == NULL) {
    PyErr_Print();
    st = AC_E_STATE;
  } else if (PyUnicode_Check(answer)) { /* why it cannot begin */
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(answer, &size);
    if (text == NULL)
      PyErr_Clear();
    *ret_text = (ac_bytes){text != NULL ? text : "", text ? (size_t)size : 0};
    worker->text = answer;
    answer = NULL;
    st = AC_E_STATE;
  }
  Py_XDECREF(answer);
  worker->thread = PyEval_SaveThread();
  return st;
}

/* Call `run` with a message; its answer is a pair. */
static PyObject *call_run(worker *worker, block *block, const ac_message *in) {
  PyObject *payload, *buffers;
  if (procs_message_new(worker->state, (PyObject *)block, in, 1, &payload,
                        &buffers) < 0)
    return NULL;
  PyObject *args[] = {payload, buffers};
  PyObject *answer = PyObject_Vectorcall(worker->run, args, 2, NULL);
  Py_DECREF(payload);
  Py_DECREF(buffers);
  if (answer != NULL &&
      (!PyTuple_Check(answer) || PyTuple_GET_SIZE(answer) != 2)) {
    PyErr_SetString(PyExc_TypeError, "run() must return (payload, buffers)");
    Py_CLEAR(answer);
  }
  return answer;
}

static void worker_run(ac_worker_link *link, const ac_message *in,
                       ac_message *ret, bool *ret_is_held, void *ctx) {
  enum { COPIED_BYTES = 4096 };
  worker *worker = ctx;
  PyEval_RestoreThread(worker->thread);
  procs_views_release(&worker->out);
  block *block = NULL;
  if (in->buffer_count > 0 || in->bytes.size_bytes > COPIED_BYTES) {
    block = procs_block_new(worker->state);
    if (block != NULL) {
      block->link = link;
      block->data = in->bytes.data;
    }
  }
  PyObject *answer = NULL;
  pid_t pid = getpid();
  if (block != NULL || !PyErr_Occurred())
    answer = call_run(worker, block, in);
  if (getpid() != pid)
    _exit(0); /* a child that the task forked: it is no worker */
  if (answer == NULL ||
      procs_views_take(&worker->out, PyTuple_GET_ITEM(answer, 0),
                       PyTuple_GET_ITEM(answer, 1)) < 0) {
    /* run() sees to errors of tasks itself; this one is ours: end here, so that
     * the task fails with a death. */
    PyErr_Print();
    _exit(1);
  }
  *ret = worker->out.message;
  Py_DECREF(answer);
  if (block != NULL) {
    block->is_held = Py_REFCNT(block) > 1;
    *ret_is_held = block->is_held;
    Py_DECREF(block);
  }
  worker->thread = PyEval_SaveThread();
}

static void worker_rest(worker *worker, PyObject *flag) {
  if (worker->sleep == Py_None)
    return;
  PyEval_RestoreThread(worker->thread);
  PyObject *answer = PyObject_CallOneArg(worker->sleep, flag);
  if (answer == NULL)
    PyErr_Clear();
  Py_XDECREF(answer);
  worker->thread = PyEval_SaveThread();
}

/* The last result has been copied: do not keep it while idle. */
static void worker_before_sleep(void *ctx) {
  worker *worker = ctx;
  PyEval_RestoreThread(worker->thread);
  procs_views_release(&worker->out);
  worker->thread = PyEval_SaveThread();
  worker_rest(worker, Py_True);
}
static void worker_after_sleep(void *ctx) { worker_rest(ctx, Py_False); }

static PyObject *procs_worker_serve(PyObject *module, PyObject *args) {
  int fds[2], number;
  worker worker = {.state = PyModule_GetState(module)};
  worker.out.views = worker.out.own_views;
  if (!PyArg_ParseTuple(args, "iiiOOO:worker_serve", &fds[0], &fds[1], &number,
                        &worker.begin, &worker.run, &worker.sleep))
    return NULL;
  ac_worker_ops ops = {.begin = worker_begin,
                       .run = worker_run,
                       .before_sleep = worker_before_sleep,
                       .after_sleep = worker_after_sleep,
                       .ctx = &worker};
  worker.thread = PyEval_SaveThread();
  ac_status st = ac_worker_serve(fds, number, &ops);
  PyEval_RestoreThread(worker.thread);
  procs_views_release(&worker.out);
  Py_XDECREF(worker.text);
  return PyBool_FromLong(st == AC_OK);
}

static PyObject *procs_worker_fetch(PyObject *module, PyObject *args) {
  PyObject *capsule;
  unsigned long long key;
  (void)module;
  if (!PyArg_ParseTuple(args, "OK:worker_fetch", &capsule, &key))
    return NULL;
  ac_worker_link *link = PyCapsule_GetPointer(capsule, "allcores.worker_link");
  if (link == NULL)
    return NULL;
  ac_bytes bytes = ac_worker_fetch(link, key);
  if (bytes.data == NULL)
    return PyErr_Format(PyExc_KeyError, "nothing is stored as %llu", key);
  return PyBytes_FromStringAndSize(bytes.data, (Py_ssize_t)bytes.size_bytes);
}

/* ---- The fork server ----------------------------------------------------- */

static int is_prepared; /* Python's hooks before a fork have run */

static int fork_python(void *ctx) {
  int was_prepared = is_prepared;
  (void)ctx;
  if (!was_prepared)
    PyOS_BeforeFork();
  pid_t pid = fork();
  if (pid == 0) {
    is_prepared = 0;
    PyOS_AfterFork_Child();
  } else if (!was_prepared) {
    PyOS_AfterFork_Parent();
  }
  return (int)pid;
}

static void be_child(const int *fds, int fd_count, int number, void *ctx) {
  PyObject *list = PyList_New(0);
  for (int i = 0; list != NULL && i < fd_count; i++) {
    PyObject *fd = PyLong_FromLong(fds[i]);
    if (fd == NULL || PyList_Append(list, fd) < 0)
      Py_CLEAR(list);
    Py_XDECREF(fd);
  }
  PyObject *answer =
      list == NULL ? NULL : PyObject_CallFunction(ctx, "Oi", list, number);
  if (answer == NULL)
    PyErr_Print();
  _exit(answer == NULL);
}

typedef struct server_ctx {
  PyObject *child, *idle;
} server_ctx;

static void be_server_child(const int *fds, int fd_count, int number,
                            void *ctx) {
  be_child(fds, fd_count, number, ((server_ctx *)ctx)->child);
}

static void be_idle(void *ctx) {
  PyObject *answer = PyObject_CallNoArgs(((server_ctx *)ctx)->idle);
  if (answer == NULL)
    PyErr_Print();
  Py_XDECREF(answer);
}

static PyObject *procs_forkserver_serve(PyObject *module, PyObject *args) {
  int fd;
  server_ctx ctx;
  (void)module;
  if (!PyArg_ParseTuple(args, "iOO:forkserver_serve", &fd, &ctx.child,
                        &ctx.idle))
    return NULL;
  const ac_forkserver_ops ops = {.fork = fork_python,
                                 .child = be_server_child,
                                 .idle = be_idle,
                                 .ctx = &ctx};
  ac_status st = ac_forkserver_serve(fd, &ops); /* one thread: keeps the GIL */
  if (st != AC_OK)
    return raise_status(st);
  Py_RETURN_NONE;
}

/* ---- The parent ---------------------------------------------------------- */

static PyObject *procs_pool(PyObject *module, PyObject *args) {
  procs_state *state = PyModule_GetState(module);
  PyObject *server, *child;
  const char *argv[16] = {NULL};
  int workers, is_lazy;
  long long tasks_a_worker;
  if (!PyArg_ParseTuple(args, "iOOLp:pool", &workers, &server, &child,
                        &tasks_a_worker, &is_lazy))
    return NULL;
  ac_pool_options options = {.workers = workers,
                             .tasks_a_worker = tasks_a_worker,
                             .is_lazy = is_lazy != 0,
                             .is_paused = true};
  ac_forkserver_ops ops = {
      .fork = fork_python, .child = be_child, .ctx = child};
  if (server == Py_None) {
    options.forkserver = &ops;
  } else {
    if (!PyTuple_Check(server) || PyTuple_GET_SIZE(server) > 15) {
      PyErr_SetString(PyExc_TypeError, "the server is a tuple of strings");
      return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(server); i++)
      if ((argv[i] = PyUnicode_AsUTF8(PyTuple_GET_ITEM(server, i))) == NULL)
        return NULL;
    options.server = argv;
  }
  pool *made = PyObject_New(pool, state->pool_type);
  if (made == NULL)
    return NULL;
  made->pool = NULL;
  made->child = child;
  Py_INCREF(child);
  made->tickets = PyDict_New();
  made->inbox = PyList_New(0);
  if (made->tickets == NULL || made->inbox == NULL) {
    Py_DECREF(made);
    return NULL;
  }
  ac_status st;
  if (options.server != NULL) {
    Py_BEGIN_ALLOW_THREADS st = ac_pool_create(&options, &made->pool);
    Py_END_ALLOW_THREADS
  } else { /* Python's hooks may let other threads run: before any lock */
    PyOS_BeforeFork();
    is_prepared = 1;
    st = ac_pool_create(&options, &made->pool);
    is_prepared = 0;
    PyOS_AfterFork_Parent();
  }
  if (st != AC_OK) {
    Py_DECREF(made);
    return raise_status(st);
  }
  return (PyObject *)made;
}

static PyObject *pool_start(PyObject *self, PyObject *args) {
  Py_buffer setup;
  PyObject *list;
  int fds[AC_POOL_FDS_MAX];
  if (!PyArg_ParseTuple(args, "y*O!:start", &setup, &PyList_Type, &list))
    return NULL;
  Py_ssize_t count = PyList_GET_SIZE(list);
  for (Py_ssize_t i = 0; i < count && i < AC_POOL_FDS_MAX; i++)
    fds[i] = (int)PyLong_AsLong(PyList_GET_ITEM(list, i));
  ac_bytes bytes = {setup.buf, (size_t)setup.len};
  ac_status st = PyErr_Occurred() ? AC_OK
                                  : ac_pool_start(((pool *)self)->pool, bytes,
                                                  fds, (int)count);
  PyBuffer_Release(&setup);
  if (PyErr_Occurred())
    return NULL;
  if (st != AC_OK)
    return raise_status(st);
  Py_RETURN_NONE;
}

static void pool_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  pool *dead = (pool *)self;
  Py_BEGIN_ALLOW_THREADS ac_pool_destroy(dead->pool);
  Py_END_ALLOW_THREADS Py_XDECREF(dead->child);
  Py_XDECREF(dead->tickets);
  Py_XDECREF(dead->inbox);
  type->tp_free(self);
  Py_DECREF(type);
}

/* Note whose a key is. Nothing of Python's runs between the task's submission
 * and this, so no signal's handler can come between. */
static int note_ticket(pool *self, uint64_t key, PyObject *ticket) {
  procs_state *state = state_of_type(Py_TYPE(self));
  PyObject *number = PyLong_FromUnsignedLongLong(key);
  int result =
      number == NULL ? -1 : PyObject_SetAttr(ticket, state->key_name, number);
  if (result == 0)
    result = PyDict_SetItem(self->tickets, number, ticket);
  Py_XDECREF(number);
  return result;
}

static PyObject *pool_submit(PyObject *self, PyObject *const *args,
                             Py_ssize_t count) {
  views views;
  uint64_t key;
  ac_pool_task task;
  if (count != 5)
    return PyErr_Format(PyExc_TypeError, "submit() takes 5 arguments");
  task.limit_ns = PyLong_AsLongLong(args[2]);
  task.retries = (int)PyLong_AsLong(args[3]);
  if (PyErr_Occurred())
    return NULL;
  ac_status st = AC_OK;
  int result = procs_views_take(&views, args[0], args[1]);
  if (result == 0)
    /* The GIL is kept: another thread must not take in the result before its
     * ticket is noted. */
    st = ac_pool_submit(((pool *)self)->pool, &views.message, &task, &key);
  procs_views_release(&views);
  if (result < 0)
    return NULL;
  if (st != AC_OK)
    return raise_status(st);
  if (note_ticket((pool *)self, key, args[4]) < 0) {
    (void)ac_pool_cancel(((pool *)self)->pool, key, true);
    return NULL;
  }
  Py_RETURN_NONE;
}

static PyObject *pool_store(PyObject *self, PyObject *arg) {
  Py_buffer view;
  uint64_t key;
  if (PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) < 0)
    return NULL;
  ac_bytes bytes = {view.buf, (size_t)view.len};
  ac_status st = ac_pool_store(((pool *)self)->pool, bytes, &key);
  PyBuffer_Release(&view);
  return st == AC_OK ? PyLong_FromUnsignedLongLong(key) : raise_status(st);
}

/* A run of the arena would take more than the message does. */
static bool is_small(const ac_message *message) {
  enum { COPIED_BYTES = 131072 };
  size_t total = 0;
  for (size_t i = 0; i < message->buffer_count && total <= COPIED_BYTES; i++)
    total += message->buffers[i].size_bytes;
  return total <= COPIED_BYTES;
}

/* The result's message; its memory is freed, or a Block's. For want of memory
 * the result is none. */
static void take_message(PyObject *self, ac_pool_result *result,
                         PyObject **ret_payload, PyObject **ret_buffers) {
  procs_state *state = state_of_type(Py_TYPE(self));
  block *block = NULL;
  int made = -1;
  if (is_small(&result->message)) {
    made = procs_message_new(state, NULL, &result->message, 0, ret_payload,
                             ret_buffers);
  } else if ((block = procs_block_new(state)) != NULL) {
    Py_INCREF(self);
    block->pool = self;
    made = procs_message_new(state, (PyObject *)block, &result->message, 0,
                             ret_payload, ret_buffers);
  }
  ac_pool_result_free(((pool *)self)->pool, result, made == 0 && block != NULL,
                      block != NULL ? &block->buffers : NULL);
  Py_XDECREF(block);
  if (made == 0)
    return;
  PyErr_Clear();
  if (result->end == AC_TASK_DONE)
    result->end = AC_TASK_NOMEM;
  Py_INCREF(Py_None);
  *ret_payload = Py_None;
  Py_INCREF(Py_None);
  *ret_buffers = Py_None;
}

/* Put a finished task into the inbox: [mark, ticket, end, pid, attempts,
 * exit_status, run_ns, is_held, payload, buffers]. 0 = there is none. */
static int fill_inbox(pool *self) {
  ac_pool_result result;
  PyObject *payload, *buffers;
  if (!ac_pool_next(self->pool, &result))
    return 0;
  take_message((PyObject *)self, &result, &payload, &buffers);
  PyObject *key = PyLong_FromUnsignedLongLong(result.key);
  PyObject *ticket =
      key == NULL ? NULL : PyDict_GetItemWithError(self->tickets, key);
  int status = ticket == NULL && PyErr_Occurred() ? -1 : 1;
  if (ticket != NULL) { /* else its submission failed */
    PyObject *entry = Py_BuildValue(
        "[iOiiiiLNOO]", 0, ticket, (int)result.end, result.pid, result.attempts,
        result.exit_status, (long long)result.run_ns,
        PyBool_FromLong(result.is_held), payload, buffers);
    if (entry == NULL || PyList_Append(self->inbox, entry) < 0 ||
        PyDict_DelItem(self->tickets, key) < 0)
      status = -1;
    Py_XDECREF(entry);
  }
  Py_XDECREF(key);
  Py_DECREF(payload);
  Py_DECREF(buffers);
  return status;
}

/* Give every entry that this thread has marked back to all. */
static PyObject *pool_unmark(PyObject *self, PyObject *unused) {
  PyObject *inbox = ((pool *)self)->inbox;
  PyObject *zero = PyLong_FromLong(0);
  PyObject *mine = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
  (void)unused;
  for (Py_ssize_t i = 0; zero && mine && i < PyList_GET_SIZE(inbox); i++) {
    PyObject *entry = PyList_GET_ITEM(inbox, i);
    if (PyObject_RichCompareBool(PyList_GET_ITEM(entry, 0), mine, Py_EQ) == 1) {
      Py_INCREF(zero);
      (void)PyList_SetItem(entry, 0, zero);
    }
  }
  Py_XDECREF(zero);
  Py_XDECREF(mine);
  Py_RETURN_NONE;
}

/* The oldest entry that no thread has marked, marked as this thread's; None. */
static PyObject *pool_next(PyObject *self, PyObject *unused) {
  PyObject *inbox = ((pool *)self)->inbox;
  (void)unused;
  if (fill_inbox((pool *)self) < 0)
    return NULL;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(inbox); i++) {
    PyObject *entry = PyList_GET_ITEM(inbox, i);
    if (!PyLong_Check(PyList_GET_ITEM(entry, 0)) ||
        PyLong_AsUnsignedLong(PyList_GET_ITEM(entry, 0)) != 0)
      continue;
    PyObject *mine = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    if (mine == NULL || PyList_SetItem(entry, 0, mine) < 0)
      return NULL;
    Py_INCREF(entry);
    return entry;
  }
  Py_RETURN_NONE;
}

/* An entry's outcome is its ticket's: forget it. */
static PyObject *pool_done(PyObject *self, PyObject *entry) {
  PyObject *inbox = ((pool *)self)->inbox;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(inbox); i++)
    if (PyList_GET_ITEM(inbox, i) == entry) {
      if (PyList_SetSlice(inbox, i, i + 1, NULL) < 0)
        return NULL;
      break;
    }
  Py_RETURN_NONE;
}

static PyObject *pool_keep(PyObject *self, PyObject *arg) {
  procs_state *state = state_of_type(Py_TYPE(self));
  Py_buffer view;
  ac_status st;
  const void *data;
  uint64_t buffers;
  if (PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) < 0)
    return NULL;
  ac_bytes bytes = {view.buf, (size_t)view.len};
  Py_BEGIN_ALLOW_THREADS st =
      ac_pool_keep(((pool *)self)->pool, bytes, &data, &buffers);
  Py_END_ALLOW_THREADS PyBuffer_Release(&view);
  if (st != AC_OK)
    return raise_status(st);
  bytes.data = data;
  block *block = procs_block_new(state);
  if (block == NULL) {
    ac_pool_buffers_free(((pool *)self)->pool, buffers);
    return NULL;
  }
  Py_INCREF(self);
  block->pool = self;
  block->buffers = buffers;
  PyObject *part = procs_part_new(state, (PyObject *)block, &bytes, 1);
  Py_DECREF(block);
  return part;
}

static int64_t ns_of(PyObject *seconds) {
  double value = seconds == Py_None ? -1 : PyFloat_AsDouble(seconds);
  return value < 0 ? -1 : value > 9e9 ? INT64_MAX : (int64_t)(value * 1e9);
}

static PyObject *pool_bell(PyObject *self, PyObject *unused) {
  (void)unused;
  return PyLong_FromUnsignedLong(ac_pool_bell(((pool *)self)->pool));
}

static PyObject *pool_wait(PyObject *self, PyObject *const *args,
                           Py_ssize_t count) {
  ac_status st;
  if (count != 2)
    return PyErr_Format(PyExc_TypeError, "wait() takes 2 arguments");
  uint32_t bell = (uint32_t)PyLong_AsUnsignedLong(args[0]);
  int64_t timeout_ns = PyErr_Occurred() ? 0 : ns_of(args[1]);
  if (PyErr_Occurred())
    return NULL;
  Py_BEGIN_ALLOW_THREADS st =
      ac_pool_wait_from(((pool *)self)->pool, bell, timeout_ns);
  Py_END_ALLOW_THREADS if (st != AC_OK) return raise_status(st);
  Py_RETURN_NONE;
}

static PyObject *pool_join(PyObject *self, PyObject *seconds) {
  int64_t timeout_ns = ns_of(seconds);
  ac_status st;
  if (PyErr_Occurred())
    return NULL;
  Py_BEGIN_ALLOW_THREADS st = ac_pool_join(((pool *)self)->pool, timeout_ns);
  Py_END_ALLOW_THREADS return PyBool_FromLong(st == AC_OK);
}

static PyObject *pool_where(PyObject *self, PyObject *key) {
  unsigned long long number = PyLong_AsUnsignedLongLong(key);
  if (PyErr_Occurred())
    return NULL;
  return PyLong_FromLong(ac_pool_where(((pool *)self)->pool, number));
}

static PyObject *pool_cancel(PyObject *self, PyObject *args) {
  unsigned long long key;
  int kills;
  if (!PyArg_ParseTuple(args, "Kp:cancel", &key, &kills))
    return NULL;
  return PyBool_FromLong(ac_pool_cancel(((pool *)self)->pool, key, kills != 0));
}

static PyObject *pool_refusal(PyObject *self, PyObject *unused) {
  const char *text = ac_pool_refusal(((pool *)self)->pool);
  (void)unused;
  if (text == NULL)
    Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *pool_ring(PyObject *self, PyObject *unused) {
  (void)unused;
  ac_pool_ring(((pool *)self)->pool);
  Py_RETURN_NONE;
}

static PyObject *pool_close(PyObject *self, PyObject *unused) {
  (void)unused;
  ac_pool_close(((pool *)self)->pool);
  Py_RETURN_NONE;
}

static PyObject *pool_terminate(PyObject *self, PyObject *unused) {
  (void)unused;
  Py_BEGIN_ALLOW_THREADS ac_pool_terminate(((pool *)self)->pool);
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *pool_pids(PyObject *self, PyObject *unused) {
  int32_t pids[1024];
  int count = ac_pool_pids(((pool *)self)->pool, pids, 1024);
  PyObject *list = PyList_New(count);
  (void)unused;
  for (int i = 0; list != NULL && i < count; i++) {
    PyObject *pid = PyLong_FromLong(pids[i]);
    if (pid == NULL)
      Py_CLEAR(list);
    else
      PyList_SET_ITEM(list, i, pid);
  }
  return list;
}

static PyMethodDef pool_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))pool_submit, METH_FASTCALL,
     "submit($self, payload, buffers, limit_ns, retries, ticket, /)\n--\n\n"
     "Hand over a task; sets the ticket's _key."},
    {"start", pool_start, METH_VARARGS,
     "start($self, setup, fds, /)\n--\n\nStart the workers, with what each is "
     "given."},
    {"store", pool_store, METH_O,
     "store($self, data, /)\n--\n\nKeep bytes for all workers; returns a key."},
    {"keep", pool_keep, METH_O,
     "keep($self, data, /)\n--\n\nCopy bytes to where tasks' buffers lie; "
     "returns a buffer."},
    {"next", pool_next, METH_NOARGS,
     "next($self, /)\n--\n\nTake in a finished task, or None: [mark, ticket, "
     "end, pid, attempts, exit_status, run_ns, is_held, payload, buffers]. It "
     "comes again until done() is called, to this thread after unmark()."},
    {"done", pool_done, METH_O,
     "done($self, entry, /)\n--\n\nForget an entry that next() gave."},
    {"unmark", pool_unmark, METH_NOARGS,
     "unmark($self, /)\n--\n\nHave next() give this thread's entries again."},
    {"bell", pool_bell, METH_NOARGS,
     "bell($self, /)\n--\n\nCounts news; for wait()."},
    {"wait", (PyCFunction)(void (*)(void))pool_wait, METH_FASTCALL,
     "wait($self, bell, seconds, /)\n--\n\nSleep until next() has something, "
     "unless there was news since `bell`."},
    {"where", pool_where, METH_O,
     "where($self, key, /)\n--\n\nWhere a task is: 0 taken in, 1 waiting, 2 "
     "running, 3 ended."},
    {"cancel", pool_cancel, METH_VARARGS,
     "cancel($self, key, kills, /)\n--\n\nLeave a task out, or end it."},
    {"refusal", pool_refusal, METH_NOARGS,
     "refusal($self, /)\n--\n\nWhy no worker can begin, or None."},
    {"ring", pool_ring, METH_NOARGS,
     "ring($self, /)\n--\n\nWake all threads in wait()."},
    {"close", pool_close, METH_NOARGS,
     "close($self, /)\n--\n\nTake no more tasks."},
    {"terminate", pool_terminate, METH_NOARGS,
     "terminate($self, /)\n--\n\nEnd all workers now."},
    {"join", pool_join, METH_O,
     "join($self, seconds, /)\n--\n\nWait for the workers' ends."},
    {"pids", pool_pids, METH_NOARGS,
     "pids($self, /)\n--\n\nProcess numbers of the workers."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (char *)"Worker processes; made by pool()."},
    {Py_tp_dealloc, pool_dealloc},
    {Py_tp_methods, pool_methods},
    {0, NULL},
};
static PyType_Spec pool_spec = {
    .name = "allcores._procs.Pool",
    .basicsize = sizeof(pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pool_slots,
};

/* ---- The module ---------------------------------------------------------- */

static PyObject *procs_memory_room(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyLong_FromUnsignedLongLong(ac_memory_room());
}

static PyMethodDef procs_methods[] = {
    {"memory_room", procs_memory_room, METH_NOARGS,
     "memory_room($module, /)\n--\n\nBytes of memory that can be had."},
    {"pool", procs_pool, METH_VARARGS,
     "pool($module, workers, server, child, tasks_a_worker, lazy, /)\n--\n\n"
     "Make a Pool, to be started. `server`: a fork server's program and "
     "arguments; None: fork this process."},
    {"forkserver_serve", procs_forkserver_serve, METH_VARARGS,
     "forkserver_serve($module, fd, child, idle, /)\n--\n\nBe a fork server; "
     "its children call child(fds, number), it calls idle() once."},
    {"worker_serve", procs_worker_serve, METH_VARARGS,
     "worker_serve($module, control_fd, arena_fd, number, begin, run, sleep, "
     "/)\n--\n\nBe a worker until the pool is closed."},
    {"worker_fetch", procs_worker_fetch, METH_VARARGS,
     "worker_fetch($module, link, key, /)\n--\n\nBytes that store() kept."},
    {NULL, NULL, 0, NULL},
};

static int procs_exec(PyObject *module) {
  procs_state *state = PyModule_GetState(module);
  state->block_type =
      (PyTypeObject *)PyType_FromModuleAndSpec(module, &procs_block_spec, NULL);
  state->part_type =
      (PyTypeObject *)PyType_FromModuleAndSpec(module, &procs_part_spec, NULL);
  state->pool_type =
      (PyTypeObject *)PyType_FromModuleAndSpec(module, &pool_spec, NULL);
  if (state->block_type == NULL || state->part_type == NULL ||
      state->pool_type == NULL)
    return -1;
  if (PyModule_AddType(module, state->block_type) < 0 ||
      PyModule_AddType(module, state->part_type) < 0 ||
      PyModule_AddType(module, state->pool_type) < 0)
    return -1;
  state->key_name = PyUnicode_InternFromString("_key");
  if (state->key_name == NULL)
    return -1;
  return PyModule_AddIntConstant(module, "FORKSERVER_FD", AC_FORKSERVER_FD);
}

static int procs_traverse(PyObject *module, visitproc visit, void *arg) {
  procs_state *state = PyModule_GetState(module);
  Py_VISIT(state->block_type);
  Py_VISIT(state->part_type);
  Py_VISIT(state->pool_type);
  Py_VISIT(state->key_name);
  return 0;
}

static int procs_clear(PyObject *module) {
  procs_state *state = PyModule_GetState(module);
  Py_CLEAR(state->block_type);
  Py_CLEAR(state->part_type);
  Py_CLEAR(state->pool_type);
  Py_CLEAR(state->key_name);
  return 0;
}

static PyModuleDef_Slot procs_slots[] = {
    {Py_mod_exec, procs_exec},
    {0, NULL},
};

static struct PyModuleDef procs_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "allcores._procs",
    .m_doc = "Worker processes: bytes in, bytes out.",
    .m_size = sizeof(procs_state),
    .m_methods = procs_methods,
    .m_slots = procs_slots,
    .m_traverse = procs_traverse,
    .m_clear = procs_clear,
};

PyMODINIT_FUNC PyInit__procs(void) { return PyModuleDef_Init(&procs_module); }
