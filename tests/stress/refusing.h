/* refusing.h: memory and threads that the system refuses when a test says so.
 *
 * Included once by a program that is linked with --wrap for each function
 * below, after its `static bool refuses(void)`, which is asked at each request.
 *
 * Knows nothing of: which requests are refused.
 */
#ifndef STRESS_REFUSING_H
#define STRESS_REFUSING_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

void *__real_malloc(size_t size_bytes);
void *__real_calloc(size_t count, size_t size_bytes);
void *__real_aligned_alloc(size_t alignment, size_t size_bytes);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *arg);
void *__wrap_malloc(size_t size_bytes);
void *__wrap_calloc(size_t count, size_t size_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t size_bytes);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *arg);

void *__wrap_malloc(size_t size_bytes) {
  return refuses() ? NULL : __real_malloc(size_bytes);
}
void *__wrap_calloc(size_t count, size_t size_bytes) {
  return refuses() ? NULL : __real_calloc(count, size_bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t size_bytes) {
  return refuses() ? NULL : __real_aligned_alloc(alignment, size_bytes);
}
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *arg) {
  return refuses() ? EAGAIN
                   : __real_pthread_create(thread, attributes, run, arg);
}

#endif
