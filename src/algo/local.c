/* local.c: one value for each thread that asks.
 *
 * Values hang in a list that only grows, each with its thread's name (the
 * address of a thread-local byte: unique while the thread lives, and a thread
 * that comes after its end may inherit its value). A thread finds its own by
 * walking the bucket of its name. Making one takes a lock, finding it does not.
 *
 * Knows nothing of: teams; any thread may ask.
 */
#include "base/status.h"
#include "os/os.h"

#include <allcores/algo.h>
#include <pthread.h>
#include <stdlib.h>

enum { BUCKETS = 64, LINE = 64 };

typedef struct value {
  struct value *in_bucket; /* set before the value is published */
  struct value *in_order;
  uintptr_t thread;
  _Alignas(LINE) char bytes[];
} value;

struct ac_local {
  size_t size_bytes;
  void (*init)(void *value, void *ctx);
  void *ctx;
  pthread_mutex_t lock;
  value *first;
  value **last;
  _Atomic(value *) buckets[BUCKETS];
};

static _Thread_local char name __attribute__((tls_model("initial-exec")));

static size_t bucket_of(uintptr_t thread) {
  return (size_t)((thread * UINT64_C(0x9e3779b97f4a7c15)) >> 58);
}
_Static_assert(BUCKETS == 64, "bucket_of() gives six bits");

ac_status ac_local_create(size_t size_bytes,
                          void (*init)(void *value, void *ctx), void *ctx,
                          ac_local **ret_local) {
  if (size_bytes == 0 || size_bytes > PTRDIFF_MAX / 2 || ret_local == NULL)
    return ac__fail(AC_E_INVAL, "ac_local_create",
                    "Give a size of at least 1 and a place for the result.",
                    "size_bytes is %zu", size_bytes);
  ac_local *local = calloc(1, sizeof *local);
  if (local == NULL || pthread_mutex_init(&local->lock, NULL) != 0) {
    free(local);
    return ac__fail(AC_E_NOMEM, "ac_local_create", "", "memory was refused");
  }
  local->size_bytes = size_bytes;
  local->init = init;
  local->ctx = ctx;
  local->last = &local->first;
  *ret_local = local;
  return AC_OK;
}

static value *add(ac_local *local, uintptr_t thread) {
  value *value = ac__alloc_lines(sizeof *value + local->size_bytes);
  if (value == NULL) {
    (void)ac__fail(AC_E_NOMEM, "ac_local_get", "",
                   "memory for a value of %zu bytes was refused",
                   local->size_bytes);
    return NULL;
  }
  value->thread = thread;
  if (local->init != NULL)
    local->init(value->bytes, local->ctx);
  pthread_mutex_lock(&local->lock);
  _Atomic(struct value *) *bucket = &local->buckets[bucket_of(thread)];
  *local->last = value;
  local->last = &value->in_order;
  /* relaxed: changed under the lock */
  value->in_bucket = atomic_load_explicit(bucket, memory_order_relaxed);
  /* release: pairs with the acquire in ac_local_get() */
  atomic_store_explicit(bucket, value, memory_order_release);
  pthread_mutex_unlock(&local->lock);
  return value;
}

void *ac_local_get(ac_local *local) {
  uintptr_t thread = (uintptr_t)&name;
  /* acquire: pairs with the release in add() */
  value *value = atomic_load_explicit(&local->buckets[bucket_of(thread)],
                                      memory_order_acquire);
  while (value != NULL && value->thread != thread)
    value = value->in_bucket;
  if (value == NULL)
    value = add(local, thread);
  return value == NULL ? NULL : value->bytes;
}

void ac_local_visit(ac_local *local, void (*visit)(void *value, void *ctx),
                    void *ctx) {
  for (value *value = local->first; value != NULL; value = value->in_order)
    visit(value->bytes, ctx);
}

void ac_local_destroy(ac_local *local) {
  if (local == NULL)
    return;
  while (local->first != NULL) {
    value *next = local->first->in_order;
    ac__free(local->first);
    local->first = next;
  }
  (void)pthread_mutex_destroy(&local->lock);
  free(local);
}
