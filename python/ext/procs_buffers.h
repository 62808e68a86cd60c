/* procs_buffers.h: shared memory as Python's buffers, and Python's objects as
 * messages. Private to the module allcores._procs.
 *
 * Knows nothing of: pools' calls, what messages say.
 */
#ifndef ALLCORES_PROCS_BUFFERS_H
#define ALLCORES_PROCS_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <allcores/allcores.h>

typedef struct procs_state {
  PyTypeObject *block_type;
  PyTypeObject *part_type;
  PyTypeObject *pool_type;
  PyObject *key_name; /* "_key" */
} procs_state;

/* The owner of a run of shared memory; Parts lie in it. */
typedef struct block {
  PyObject_HEAD PyObject *pool; /* the parent: whose memory; else NULL */
  uint64_t buffers;             /* the parent: to be freed with this name */
  ac_worker_link *link;         /* a worker: to be let go of, if it was held */
  const void *data;
  int is_held;
  pid_t pid; /* a fork's copy gives nothing back */
} block;

/* Some bytes of it. */
typedef struct part {
  PyObject_HEAD PyObject *block;
  const void *data;
  Py_ssize_t size_bytes;
  int is_readonly;
} part;

typedef struct pool {
  PyObject_HEAD ac_pool *pool;
  PyObject *child;   /* what a worker forked off this process runs */
  PyObject *tickets; /* key -> the submitter's object, until it is told */
  PyObject *inbox;   /* lists of what was taken in and not acknowledged */
} pool;

/* A message made of Python's buffers, which stay exported meanwhile. */
enum { VIEWS_ON_STACK = 16 };

typedef struct views {
  ac_message message;
  Py_buffer payload;
  Py_buffer *views;
  ac_bytes *bytes;
  Py_ssize_t count;
  Py_buffer own_views[VIEWS_ON_STACK];
  ac_bytes own_bytes[VIEWS_ON_STACK];
} views;

extern PyType_Spec procs_block_spec;
extern PyType_Spec procs_part_spec;

/* NULL with an exception set. */
block *procs_block_new(procs_state *state);
PyObject *procs_part_new(procs_state *state, PyObject *block,
                         const ac_bytes *bytes, int is_readonly);

/* A message as (payload, (view, …)); -1 with an exception set. With `block`
 * NULL all of it is copied. */
int procs_message_new(procs_state *state, PyObject *block,
                      const ac_message *message, int is_readonly,
                      PyObject **ret_payload, PyObject **ret_buffers);

/* Until procs_views_release(), on failure too. -1 with an exception set. */
int procs_views_take(views *views, PyObject *payload, PyObject *buffers);
void procs_views_release(views *views);

#endif
