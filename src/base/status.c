/* status.c: names of statuses, and each thread's last error.
 *
 * The error's text lives on the heap and is made at the first failure, so that
 * a thread that never fails pays one pointer of thread-local storage. Where
 * memory is refused, a constant says so.
 */
#include "base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define AC__VERSION_TEXT   "0.1.0"
#define AC__VERSION_NUMBER 100

_Thread_local uint32_t ac__error_count;

static _Thread_local ac_error *last_error;
static _Thread_local char text_refused; /* no memory for the last one's text */
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* frees a thread's error when it ends */

static const ac_error no_error = {.status = AC_OK};
static const ac_error no_memory = {
    .status = AC_E_NOMEM,
    .operation = "error report",
    .detail = "memory for the text of an error could not be had",
};

const char *ac_status_name(ac_status status) {
  switch (status) {
#define CASE(name, value, text)                                                \
  case value:                                                                  \
    return #name;
    AC_STATUS_TABLE(CASE)
#undef CASE
  }
  return status > 0 ? "body status" : "AC_E_?";
}

const char *ac_status_text(ac_status status) {
  switch (status) {
#define CASE(name, value, text)                                                \
  case value:                                                                  \
    return text;
    AC_STATUS_TABLE(CASE)
#undef CASE
  }
  return status > 0 ? "a body of the program returned this" : "unknown status";
}

const char *ac_version(void) { return AC__VERSION_TEXT; }

int ac_version_number(void) { return AC__VERSION_NUMBER; }

static void make_key(void) {
  if (pthread_key_create(&key, free) != 0)
    key = (pthread_key_t)-1; /* the text then outlives its thread */
}

/* Make `error` this thread's; NULL leaves it with none. */
static void own(ac_error *error) {
  last_error = error;
  (void)pthread_once(&key_once, make_key);
  if (key != (pthread_key_t)-1)
    (void)pthread_setspecific(key, error);
}

/* This thread's error, made if need be; NULL if memory is refused. */
static ac_error *own_error(void) {
  if (last_error == NULL)
    own(calloc(1, sizeof *last_error));
  return last_error;
}

ac_status ac__fail(ac_status status, const char *operation, const char *remedy,
                   const char *detail, ...) {
  ac_error *error = own_error();
  text_refused = error == NULL;
  ac__error_count++;
  if (error != NULL) {
    va_list args;
    error->status = status;
    (void)snprintf(error->operation, sizeof error->operation, "%s", operation);
    (void)snprintf(error->remedy, sizeof error->remedy, "%s", remedy);
    va_start(args, detail);
    (void)vsnprintf(error->detail, sizeof error->detail, detail, args);
    va_end(args);
  }
  return status;
}

const ac_error *ac_last_error(void) {
  if (text_refused)
    return &no_memory;
  return last_error != NULL ? last_error : &no_error;
}

ac_error *ac__error_take(void) {
  ac_error *error = last_error;
  if (error != NULL)
    own(NULL);
  return error;
}

void ac__error_give(ac_error *error) {
  if (error == NULL)
    return;
  free(ac__error_take());
  own(error);
  text_refused = 0;
  ac__error_count++;
}

ac_error *ac__error_copy(const ac_error *error) {
  ac_error *copy = error == NULL ? NULL : malloc(sizeof *copy);
  if (copy != NULL)
    *copy = *error;
  return copy;
}

void ac__error_drop(ac_error *error) { free(error); }
