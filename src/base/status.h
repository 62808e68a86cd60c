/* status.h (internal): leaving an error behind for ac_last_error(). */
#ifndef AC_BASE_STATUS_H
#define AC_BASE_STATUS_H

#include <allcores/status.h>

/** Record a failure for the calling thread and return `status`.
 *
 * @param operation  The public call, e.g. "ac_for".
 * @param remedy     What to do; "" if there is nothing to say.
 * @param detail     printf format of what went wrong, with the value given.
 */
ac_status ac__fail(ac_status status, const char *operation, const char *remedy,
                   const char *detail, ...)
    __attribute__((format(printf, 4, 5)));

/** How many errors the calling thread has made or was given: one that came
 * since is known by it. */
extern _Thread_local uint32_t ac__error_count
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/** A copy, to give to another thread; NULL of NULL, or if memory is refused. */
ac_error *ac__error_copy(const ac_error *error);

/** Take the calling thread's error away from it, to hand it to another thread;
 * NULL if it has none (or memory is short). */
ac_error *ac__error_take(void);

/** Make `error` the calling thread's; NULL is a no-op. Takes ownership. */
void ac__error_give(ac_error *error);

/** Free an error that was taken and is not given. */
void ac__error_drop(ac_error *error);

#endif
