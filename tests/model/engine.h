/* engine.h: the model checker's face, for the scenarios and for the shim that
 * turns atomic operations into calls of it. See engine.c. */
#ifndef AC_MODEL_ENGINE_H
#define AC_MODEL_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Setting up ---------------------------------------------------------- */

typedef enum mc_memory {
  MC_TSO, /* x86: stores become visible later, in order */
  MC_WEAK /* in any order, but a release store after all before it */
} mc_memory;

/* Memory that threads change: part of a state. Whole 8-byte words. */
void mc_track(const char *name, void *at, size_t size_bytes);
/* Memory that no thread changes: reading it is no step. */
void mc_constant(const void *at, size_t size_bytes);
/* Of tracked memory: only `thread` stores there; its own loads are no steps. */
void mc_owned(const char *name, void *at, size_t size_bytes, int thread);
/* A name for traces. */
void mc_name(const char *name, const void *at);

/* Returns the thread's number: 0, 1, … */
int mc_thread(const char *name, void (*run)(void *), void *arg,
              bool is_started);

typedef struct mc_result {
  const char *trouble; /* NULL = every execution is as it should be */
  uint64_t states, steps;
} mc_result;

/* Explore everything. `end` is called in each state in which nothing can go on;
 * it returns what is wrong there, or NULL. */
mc_result mc_explore(mc_memory memory, uint64_t states_max,
                     const char *(*end)(void));
void mc_print_trace(void);

/* The scenario's: thread `number` is about to run on. */
void mc_runs(int number);

/* True if the thread has returned (for `end`). */
bool mc_has_ended(int thread);

/* ---- Within threads ------------------------------------------------------ */

typedef struct mc_site {
  const char *function;
  int line;
} mc_site;

enum { MC_ADD, MC_SUB, MC_OR, MC_AND, MC_EXCHANGE };

uint64_t mc_load(const volatile void *at, size_t size, mc_site site);
void mc_store(volatile void *at, size_t size, uint64_t value, int order,
              mc_site site);
uint64_t mc_modify(volatile void *at, size_t size, int what, uint64_t value,
                   int order, mc_site site);
bool mc_swap(volatile void *at, size_t size, void *expected, uint64_t desired,
             int order, mc_site site);
void mc_fence(int order, mc_site site);

void mc_sleep(const volatile void *word, uint32_t expected, bool has_limit,
              mc_site site);
void mc_wake(const volatile void *word, mc_site site);
void mc_heavy(mc_site site);                  /* a full fence on every thread */
uint32_t mc_choose(uint32_t n, mc_site site); /* each is explored */
void mc_start(int thread, mc_site site);      /* one made with !is_started */
void mc_violation(const char *trouble);

#define MC_SITE ((mc_site){__func__, __LINE__})

#endif
