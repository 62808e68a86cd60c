/* procs_buffers.c: see procs_buffers.h and procs.c. */
#include "procs_buffers.h"

#include <unistd.h>

/* ---- Block and Part: shared memory as buffers ---------------------------- */

static void block_dealloc(PyObject *self) {
  block *block = (struct block *)self;
  PyTypeObject *type = Py_TYPE(self);
  if (block->pool != NULL && block->buffers != 0)
    ac_pool_buffers_free(((pool *)block->pool)->pool, block->buffers);
  if (block->link != NULL && block->is_held && block->pid == getpid())
    ac_worker_let_go(block->link, block->data);
  Py_XDECREF(block->pool);
  type->tp_free(self);
  Py_DECREF(type);
}

static void part_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  Py_XDECREF(((part *)self)->block);
  type->tp_free(self);
  Py_DECREF(type);
}

static int part_getbuffer(PyObject *self, Py_buffer *view, int flags) {
  part *part = (struct part *)self;
  return PyBuffer_FillInfo(view, self, (void *)(uintptr_t)part->data,
                           part->size_bytes, part->is_readonly, flags);
}

static Py_ssize_t part_length(PyObject *self) {
  return ((part *)self)->size_bytes;
}

static PyType_Slot block_slots[] = {
    {Py_tp_doc, (char *)"Shared memory in use; see Part."},
    {Py_tp_dealloc, block_dealloc},
    {0, NULL},
};
PyType_Spec procs_block_spec = {
    .name = "allcores._procs.Block",
    .basicsize = sizeof(block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

static PyType_Slot part_slots[] = {
    {Py_tp_doc, (char *)"Bytes in shared memory, by the buffer protocol."},
    {Py_tp_dealloc, part_dealloc},
    {Py_bf_getbuffer, part_getbuffer},
    {Py_sq_length, part_length},
    {0, NULL},
};
PyType_Spec procs_part_spec = {
    .name = "allcores._procs.Part",
    .basicsize = sizeof(part),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = part_slots,
};

/* A memoryview of a new Part. */
PyObject *procs_part_new(procs_state *state, PyObject *block,
                         const ac_bytes *bytes, int is_readonly) {
  part *made = PyObject_New(part, state->part_type);
  if (made == NULL)
    return NULL;
  Py_INCREF(block);
  made->block = block;
  made->data = bytes->data;
  made->size_bytes = (Py_ssize_t)bytes->size_bytes;
  made->is_readonly = is_readonly;
  PyObject *view = PyMemoryView_FromObject((PyObject *)made);
  Py_DECREF(made);
  return view;
}

block *procs_block_new(procs_state *state) {
  block *made = PyObject_New(block, state->block_type);
  if (made == NULL)
    return NULL;
  made->pool = NULL;
  made->buffers = 0;
  made->link = NULL;
  made->data = NULL;
  made->is_held = 0;
  made->pid = getpid();
  return made;
}

static PyObject *copy_bytes(const ac_bytes *bytes) {
  PyObject *copy =
      PyByteArray_FromStringAndSize(bytes->data, (Py_ssize_t)bytes->size_bytes);
  PyObject *view = copy == NULL ? NULL : PyMemoryView_FromObject(copy);
  Py_XDECREF(copy);
  return view;
}

int procs_message_new(procs_state *state, PyObject *block,
                      const ac_message *message, int is_readonly,
                      PyObject **ret_payload, PyObject **ret_buffers) {
  PyObject *payload =
      block == NULL
          ? PyBytes_FromStringAndSize(message->bytes.data,
                                      (Py_ssize_t)message->bytes.size_bytes)
          : procs_part_new(state, block, &message->bytes, 1);
  PyObject *buffers = PyTuple_New((Py_ssize_t)message->buffer_count);
  for (size_t i = 0; buffers != NULL && i < message->buffer_count; i++) {
    const ac_bytes *buffer = &message->buffers[i];
    PyObject *item = block == NULL
                         ? copy_bytes(buffer)
                         : procs_part_new(state, block, buffer, is_readonly);
    if (item == NULL)
      Py_CLEAR(buffers);
    else
      PyTuple_SET_ITEM(buffers, (Py_ssize_t)i, item);
  }
  if (payload == NULL || buffers == NULL) {
    Py_XDECREF(payload);
    Py_XDECREF(buffers);
    return -1;
  }
  *ret_payload = payload;
  *ret_buffers = buffers;
  return 0;
}

/* ---- Python's objects as a message --------------------------------------- */

void procs_views_release(views *views) {
  while (views->count > 0)
    PyBuffer_Release(&views->views[--views->count]);
  if (views->views != views->own_views) {
    PyMem_Free(views->views);
    PyMem_Free(views->bytes);
  }
  views->views = views->own_views;
  views->bytes = views->own_bytes;
  if (views->payload.obj != NULL)
    PyBuffer_Release(&views->payload);
}

static int views_room(views *views, Py_ssize_t count) {
  if (count <= VIEWS_ON_STACK)
    return 0;
  Py_buffer *buffers = PyMem_New(Py_buffer, (size_t)count);
  ac_bytes *bytes = PyMem_New(ac_bytes, (size_t)count);
  if (buffers == NULL || bytes == NULL) {
    PyMem_Free(buffers);
    PyMem_Free(bytes);
    PyErr_NoMemory();
    return -1;
  }
  views->views = buffers;
  views->bytes = bytes;
  return 0;
}

/* Until procs_views_release(): on failure too. */
int procs_views_take(views *views, PyObject *payload, PyObject *buffers) {
  views->count = 0;
  views->views = views->own_views;
  views->bytes = views->own_bytes;
  views->payload.obj = NULL;
  if (PyObject_GetBuffer(payload, &views->payload, PyBUF_SIMPLE) < 0)
    return -1;
  PyObject *list = PySequence_Fast(buffers, "buffers must be a sequence");
  if (list == NULL)
    return -1;
  Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
  int result = views_room(views, count);
  for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
    result = PyObject_GetBuffer(PySequence_Fast_GET_ITEM(list, i),
                                &views->views[i], PyBUF_SIMPLE);
    if (result < 0)
      break;
    views->count++;
    views->bytes[i] =
        (ac_bytes){views->views[i].buf, (size_t)views->views[i].len};
  }
  Py_DECREF(list);
  views->message =
      (ac_message){.bytes = {views->payload.buf, (size_t)views->payload.len},
                   .buffers = views->bytes,
                   .buffer_count = (size_t)views->count};
  return result;
}
