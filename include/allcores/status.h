/* status.h: what every call of the library returns, and how to ask for more.
 *
 * Every fallible call returns an ac_status: 0 is success, negative is one of
 * the library's errors, positive is free for the bodies of a program's own
 * loops. A call that fails also leaves a sentence for the calling thread, which
 * ac_last_error() gives: what was attempted, what went wrong, what to do.
 */
#ifndef ALLCORES_STATUS_H
#define ALLCORES_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define AC_API __attribute__((visibility("default")))
#else
#define AC_API
#endif

/** Result of a call: AC_OK, an AC_E_… (negative), or a body's own (positive).
 */
typedef int32_t ac_status;

/** The one table of errors: X(name, value, sentence). */
#define AC_STATUS_TABLE(X)                                                     \
  X(AC_OK, 0, "success")                                                       \
  X(AC_E_INVAL, -1, "an argument has a value that is not allowed")             \
  X(AC_E_NOMEM, -2, "memory could not be had")                                 \
  X(AC_E_OS, -3, "the operating system refused a request")                     \
  X(AC_E_CANCELLED, -4, "the work was cancelled")                              \
  X(AC_E_TIMEOUT, -5, "the deadline passed before the work was done")          \
  X(AC_E_FORKED, -6, "the process was forked while the work ran")              \
  X(AC_E_STATE, -7, "the object is not in a state that allows this call")      \
  X(AC_E_UNSUPPORTED, -8, "this is not supported here")

#define AC__STATUS_ENUM(name, value, text) name = value,
enum { AC_STATUS_TABLE(AC__STATUS_ENUM) AC__STATUS_END = 1 };
#undef AC__STATUS_ENUM

/** A thread's last error, as text for people. */
typedef struct ac_error {
  ac_status status;
  char operation[64]; /**< what was attempted, e.g. "ac_for" */
  char detail[256];   /**< what went wrong, with the value given */
  char remedy[192];   /**< what is allowed or what to do; may be empty */
} ac_error;

/** Name of a status, e.g. "AC_E_NOMEM"; "AC_E_?" for an unknown negative one,
 * "body status" for a positive one. Static storage. */
AC_API const char *ac_status_name(ac_status status);

/** One sentence on what a status means. Static storage. */
AC_API const char *ac_status_text(ac_status status);

/** The calling thread's most recent failure; status AC_OK if there was none.
 *
 * A failure inside a loop's body on another thread is handed to the thread that
 * entered the loop. Valid until the thread's next failing call.
 */
AC_API const ac_error *ac_last_error(void);

/** Library version as text ("0.1.0") and as major*10000 + minor*100 + patch. */
AC_API const char *ac_version(void);
AC_API int ac_version_number(void);

#ifdef __cplusplus
}
#endif
#endif
