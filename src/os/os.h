/* os.h: the one boundary to the operating system.
 *
 * Everything below is declared here and defined in one file per subject and
 * system (thread_linux.c, futex_linux.c, …). Nothing outside src/os calls the
 * system directly, so that another system is another set of files.
 *
 * Knows nothing of: budgets, teams, loops.
 */
#ifndef AC_OS_OS_H
#define AC_OS_OS_H

#include <allcores/team.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Clocks (clock_linux.c) -------------------------------------------- */

/** Nanoseconds on a clock that never goes back; the same for all processes. */
uint64_t ac__clock_ns(void);

/** Processor time of the calling thread, in ns. */
uint64_t ac__clock_thread_ns(void);

/** The cheapest clock: ticks of constant length that all cores share. The
 * time-stamp counter where the kernel trusts it, else ac__clock_ns(). */
uint64_t ac__ticks(void);

/** Length of a tick in ns; measured once, over 1 ms at most. */
double ac__tick_ns(void);

/* ---- Threads (thread_linux.c) ------------------------------------------ */

typedef struct ac__thread {
  unsigned long handle;
} ac__thread;

/** Start a thread with all signals blocked. @return AC_OK; AC_E_OS. */
ac_status ac__thread_start(ac__thread *ret_thread, size_t stack_bytes,
                           const char *name, void *(*run)(void *), void *arg);
void ac__thread_join(ac__thread thread);

/** The kernel's number of the calling thread. */
int32_t ac__thread_id(void);

/** Processor on which the caller runs; -1 = unknown. A few ns. */
int ac__cpu_current(void);

/** Leave processor `cpu` for another allowed one, if there is one, without
 * changing the thread's affinity mask for longer than the move. */
void ac__cpu_leave(int cpu);

void ac__thread_yield(void);

/** Tell the core that this is a spin loop. */
static inline void ac__cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* ---- Sleeping and barriers (futex_linux.c) ----------------------------- */

/** Sleep while *word == expected, or until woken, or for timeout_ns (negative =
 * no limit). Returns at spurious wake-ups too. Private to the process. */
void ac__futex_wait(const _Atomic uint32_t *word, uint32_t expected,
                    int64_t timeout_ns);
void ac__futex_wake(const _Atomic uint32_t *word, int count);

/** The same for a word in memory that several processes share. */
void ac__futex_wait_shared(const _Atomic uint32_t *word, uint32_t expected,
                           int64_t timeout_ns);
void ac__futex_wake_shared(const _Atomic uint32_t *word, int count);

/** True if ac__barrier_heavy() reaches every thread of the process, so that the
 * other side of a store→load race may do without a fence. Decided once. */
bool ac__barrier_is_asymmetric(void);

/** Make every running thread of the process pass a full memory barrier; where
 * the system cannot, a fence of the caller alone. */
void ac__barrier_heavy(void);

/* ---- Memory (memory_linux.c) ------------------------------------------- */

/** Zeroed memory aligned to a cache line; NULL if refused. ac__free(). */
void *ac__alloc_lines(size_t size_bytes);
void ac__free(void *memory);

/** Make or open memory shared between processes. The descriptor is closed on
 * exec; the mapping outlives it. @return AC_OK; AC_E_OS. */
ac_status ac__shared_create(const char *name, size_t size_bytes, int *ret_fd,
                            void **ret_base);
/** Map memory that process `pid` holds open as descriptor `fd`. Checks that it
 * has at least size_bytes. */
ac_status ac__shared_open(int32_t pid, int fd, size_t size_bytes, int *ret_fd,
                          void **ret_base);
void ac__shared_close(int fd, void *base, size_t size_bytes);

/** As ac__shared_create(), but of holes: no page of it is reserved. Pages must
 * be committed before they are touched. It may be larger than memory. */
ac_status ac__sparse_create(const char *name, size_t size_bytes, int *ret_fd,
                            void **ret_base);
/** Map all of the memory that this process itself holds open as `fd`, which
 * stays the caller's. @return AC_OK; AC_E_OS if it is no shared memory. */
ac_status ac__shared_map(int fd, size_t *ret_size_bytes, void **ret_base);

/** Reserve the pages of a range, zeroed unless they are there already. Does not
 * look whether there is memory: ac__memory_room(). On failure some may have
 * been reserved. @return AC_OK; AC_E_NOMEM; AC_E_OS. */
ac_status ac__pages_commit(int fd, uint64_t offset, size_t size_bytes);
/** Give the pages of a range back to the system; they are holes then. */
void ac__pages_return(int fd, uint64_t offset, size_t size_bytes);

/** Bytes that can be taken before the system or a cgroup of this process is out
 * of memory; past that the kernel does not refuse but kills. Takes about 50 µs.
 *
 * @param root  Prefix of /proc and /sys: "" but in tests. */
uint64_t ac__memory_room(const char *root);

/** Most bytes that the process may map (RLIMIT_AS); UINT64_MAX = no limit. */
uint64_t ac__address_limit(void);

/* ---- Other threads and processes (proc_linux.c) ------------------------ */

/** What the kernel says of a thread of any process. */
typedef struct ac__thread_stat {
  char state;          /**< 'R' running, 'S' sleeping, 'D', 'Z', 'X', … */
  uint64_t start_time; /**< in clock ticks since boot: tells a reused number */
  uint64_t cpu_ns;     /**< processor time used (schedstat, else ticks) */
} ac__thread_stat;

/** @return false if there is no such thread (or it cannot be seen). */
bool ac__thread_stat_read(int32_t tid, ac__thread_stat *ret_stat);

int32_t ac__process_id(void);

/* ---- Starting and ending processes (process_linux.c) -------------------- */

/** Start a program without forking the caller's memory (posix_spawn). In it
 * `socket_fd` is descriptor AC__SPAWN_FD; the standard streams are the
 * caller's; SIGINT is blocked, so that Ctrl-C does not end it before it has
 * said what that is to do. @param argv  Ends with NULL; argv[0] is the
 * program's path. */
ac_status ac__process_spawn(const char *const *argv, int socket_fd,
                            int32_t *ret_pid);
enum { AC__SPAWN_FD = 3 };

/** Fork, keeping a descriptor of the child's process. For callers with one
 * thread. @return as fork(). */
int32_t ac__process_fork(void);

/** A descriptor of a process, closed on exec; -1 = refused or not there. */
int ac__pidfd_open(int32_t pid);

/** Send a signal. @return false if the process has ended. */
bool ac__pidfd_kill(int pidfd, int signal_number);

/** Send a signal to a child that has not been waited for. */
void ac__process_kill(int32_t child, int signal_number);

/** Wait for a child that ended. @return its number; 0 = none has ended; -1 =
 * there are no children. `ret_status` is minus a signal's number, or the exit
 * status. */
int32_t ac__process_reap(bool may_block, int32_t pid, int32_t *ret_status);

/** Have the kernel kill the calling process when its parent ends; false if the
 * parent is not `parent` any more. The parent must have one thread. */
bool ac__process_tie(int32_t parent);

/** A descriptor that becomes readable when a child ends; the signal is blocked
 * in the calling thread and must be let through again in children
 * (ac__signals_reset). -1 = refused. */
int ac__children_fd(void);
void ac__children_fd_clear(int fd);

/** Ignore SIGINT, which ac__process_spawn() has left blocked, and let it
 * through. */
void ac__interrupts_ignore(void);

/** In a new worker: default actions, nothing blocked, SIGINT ignored. */
void ac__signals_reset(void);

/** End the calling process at once, without handlers. */
_Noreturn void ac__process_exit(int status);

/* ---- Messages between processes (socket_linux.c) ------------------------ */

enum { AC__FDS_MAX = 62 }; /* descriptors in one message */

/** A pair of connected sockets that keep messages apart; closed on exec. */
ac_status ac__socket_pair(int ret_fds[2]);

/** Send one message. @return false if the peer is gone (or memory is short). */
bool ac__socket_send(int fd, const void *data, size_t size_bytes,
                     const int *fds, int fd_count);

/** As ac__socket_send() without descriptors, but waits while memory is short.
 * @return false if the peer is gone. */
bool ac__socket_send_surely(int fd, const void *data, size_t size_bytes);

/** Receive one message. Descriptors are closed on exec.
 * @return its bytes; 0 = the peer is gone; -1 = none is there (or a signal
 * came). `*ret_fd_count` descriptors are the caller's to close. */
long ac__socket_receive(int fd, void *data, size_t size_bytes, int *ret_fds,
                        int *ret_fd_count);

/** A descriptor that threads ring, for ac__fds_wait(). -1 = refused. */
int ac__bell_create(void);
void ac__bell_ring(int fd);
void ac__bell_clear(int fd);

/** Wait until one of up to 32 descriptors can be read, at most timeout_ns
 * (negative = no limit). @return a bit for each that can. */
uint32_t ac__fds_wait(const int *fds, int count, int64_t timeout_ns);

void ac__fd_close(int fd); /* -1 is fine */

/* ---- Topology (topology_linux.c, cgroup_linux.c) ------------------------ */

/** Fill all fields but user_cap, cores, limit and reason.
 *
 * @param root  Prefix of /proc and /sys, "" for the machine itself; a recorded
 *              tree in tests (then `affinity` is taken from
 *              <root>/proc/self/status).
 */
ac_status ac__topology_read_at(const char *root, ac_topology *ret_topology);

#endif
