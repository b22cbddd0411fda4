/* Faults at the system boundary, for tests.
 *
 * Loaded with LD_PRELOAD into a whole process tree. Every libc call that changes something below one folder gets the
 * next number of a counter that all processes share; at a chosen number the tree dies, or the call fails.
 *
 *   FAULT_STATE   file of the shared counter (this library maps it); without it nothing happens
 *   FAULT_UNDER   folder whose changes count
 *   FAULT_LOG     file that gets one line a call: number, process, name, path
 *   FAULT_AT      number of the call that is hit
 *   FAULT_DO      kill: SIGKILL before the call       | error: the call fails once with FAULT_ERRNO
 *                 full: from then on every call that needs room fails | late: the call is carried out, then fails
 *                 stop: SIGSTOP before the call       | short: from then on a write takes half of what it is given
 *   FAULT_ONLY    when set, only calls with this name are hit (all are counted)
 *
 * A process that is forked after the start calls fault_arm() to read the variables anew.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

enum action { NOTHING, KILL, FAIL, FULL, LATE, STOP, SHORT };
enum verdict { GO, REFUSE, DO_THEN_REFUSE, HALVE };

struct shared {
  long count;  /* calls so far, in all processes */
  pid_t first; /* the process that dies with whoever is hit */
};

static struct shared *shared;
static enum action action;
static long at;
static int error_number;
static int log_fd = -1;
static char under[PATH_MAX];
static size_t under_length;
static char only[32];

/* The real function behind a name, looked up once. */
#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static enum action action_of(const char *word) {
  static const char *const words[] = {"", "kill", "error", "full", "late", "stop", "short"};
  for (int i = 1; word && i < 7; i++)
    if (!strcmp(word, words[i])) return (enum action)i;
  return NOTHING;
}

static void copy(char *to, size_t room, const char *from) {
  snprintf(to, room, "%s", from ? from : "");
}

/* System calls without libc's own wrappers, so that nothing here is counted. */
static int raw_open(const char *path, int flags) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

static int high(int fd) { /* out of the way of programs that count on the lowest numbers */
  if (fd < 0) return fd;
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, 200);
  if (moved < 0) return fd;
  syscall(SYS_close, fd);
  return moved;
}

__attribute__((visibility("default"))) void fault_arm(void) {
  const char *state = getenv("FAULT_STATE");
  shared = NULL;
  if (!state || !*state) return;
  int fd = raw_open(state, O_RDWR | O_CREAT);
  if (fd < 0) return;
  if (syscall(SYS_ftruncate, fd, (long)sizeof(struct shared)) == 0) {
    void *place = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (place != MAP_FAILED) shared = place;
  }
  syscall(SYS_close, fd);
  if (!shared) return;
  if (!shared->first) shared->first = getpid();
  copy(under, sizeof under, getenv("FAULT_UNDER"));
  under_length = strlen(under);
  copy(only, sizeof only, getenv("FAULT_ONLY"));
  action = action_of(getenv("FAULT_DO"));
  at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : -1;
  error_number = getenv("FAULT_ERRNO") ? atoi(getenv("FAULT_ERRNO")) : ENOSPC;
  if (getenv("FAULT_LOG")) log_fd = high(raw_open(getenv("FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND));
}

__attribute__((constructor)) static void at_start(void) { fault_arm(); }

static int is_under(const char *path) {
  return !strncmp(path, under, under_length) && (path[under_length] == '/' || !path[under_length]);
}

static void make_absolute(char *to, size_t room, int folder, const char *path) {
  char base[PATH_MAX], link[64];
  if (path[0] == '/') {
    copy(to, room, path);
    return;
  }
  if (folder == AT_FDCWD)
    copy(link, sizeof link, "/proc/self/cwd");
  else
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, base, sizeof base - 1);
  base[length > 0 ? length : 0] = 0;
  if (snprintf(to, room, "%s/%s", base, path) >= (int)room) to[room - 1] = 0;
}

static void die(void) {
  pid_t me = getpid();
  if (shared->first != me) syscall(SYS_kill, shared->first, SIGKILL);
  syscall(SYS_kill, me, SIGKILL);
  for (;;) pause();
}

/* Does a disk without room refuse this call? What only takes away goes on. */
static int needs_room(const char *name) {
  return strcmp(name, "unlink") && strcmp(name, "unlinkat") && strcmp(name, "rmdir") && strcmp(name, "ftruncate");
}

static enum verdict judge(const char *name, const char *path) {
  if (!is_under(path)) return GO;
  long number = __atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
  if (log_fd >= 0) {
    char line[PATH_MAX + 96];
    int length = snprintf(line, sizeof line, "%ld %d %s %s\n", number, (int)getpid(), name, path);
    syscall(SYS_write, log_fd, line, (size_t)(length < (int)sizeof line ? length : (int)sizeof line - 1));
  }
  if (action == NOTHING || at < 1 || (*only && strcmp(only, name))) return GO;
  if (number >= at && action == SHORT) return HALVE;
  if (number >= at && action == FULL && needs_room(name)) {
    errno = error_number;
    return REFUSE;
  }
  /* with a name given, the first call of that name from the number on is the one that is hit */
  static int was_hit;
  if (number != at && !(*only && number > at && !was_hit)) return GO;
  was_hit = 1;
  if (action == KILL) die();
  if (action == STOP) syscall(SYS_kill, getpid(), SIGSTOP);
  if (action == LATE) return DO_THEN_REFUSE;
  if (action != FAIL) return GO;
  errno = error_number;
  return REFUSE;
}

static enum verdict by_path(const char *name, int folder, const char *path) {
  if (!shared || !path) return GO;
  char full[PATH_MAX];
  int kept = errno;
  make_absolute(full, sizeof full, folder, path);
  errno = kept;
  return judge(name, full);
}

static enum verdict by_fd(const char *name, int fd) {
  if (!shared || fd < 0) return GO;
  char link[64], full[PATH_MAX];
  int kept = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, full, sizeof full - 1);
  errno = kept;
  if (length <= 0 || full[0] != '/') return GO; /* pipes and sockets */
  full[length] = 0;
  return judge(name, full);
}

static long after(enum verdict verdict, long result) {
  if (verdict != DO_THEN_REFUSE) return result;
  errno = error_number;
  return -1;
}

#define GUARDED(verdict_of, call) \
  enum verdict verdict = verdict_of; \
  if (verdict == REFUSE) return -1; \
  return (__typeof__(call))after(verdict, (long)(call))

/* -- files that are made ------------------------------------------------------------------------------------- */

static int makes(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE; }

#define MODE_OF(flags) \
  mode_t mode = 0; \
  if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = (mode_t)va_arg(rest, int); \
    va_end(rest); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); \
    MODE_OF(flags) \
    GUARDED(makes(flags) ? by_path("open", AT_FDCWD, path) : GO, real(path, flags, mode)); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(name); \
    MODE_OF(flags) \
    GUARDED(makes(flags) ? by_path("open", folder, path) : GO, real(folder, path, flags, mode)); \
  }
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) {
  REAL(creat);
  GUARDED(by_path("open", AT_FDCWD, path), real(path, mode));
}

#define FOPEN(name) \
  FILE *name(const char *path, const char *mode) { \
    REAL(name); \
    if (*mode != 'r' && by_path("open", AT_FDCWD, path) == REFUSE) return NULL; \
    return real(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

/* -- content --------------------------------------------------------------------------------------------------- */

static size_t taken(enum verdict verdict, size_t size) { return verdict == HALVE && size > 1 ? size / 2 : size; }

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  enum verdict verdict = by_fd("write", fd);
  return verdict == REFUSE ? -1 : after(verdict, real(fd, data, taken(verdict, size)));
}

#define PWRITE(name, offset_type) \
  ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
    REAL(name); \
    enum verdict verdict = by_fd("write", fd); \
    return verdict == REFUSE ? -1 : after(verdict, real(fd, data, taken(verdict, size), offset)); \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define BY_FD(name, said, parameters, arguments) \
  int name parameters { \
    REAL(name); \
    GUARDED(by_fd(said, fd), real arguments); \
  }
BY_FD(ftruncate, "ftruncate", (int fd, off_t size), (fd, size))
BY_FD(ftruncate64, "ftruncate", (int fd, off64_t size), (fd, size))
BY_FD(fsync, "fsync", (int fd), (fd))
BY_FD(fdatasync, "fdatasync", (int fd), (fd))
BY_FD(futimens, "utime", (int fd, const struct timespec times[2]), (fd, times))

/* -- names ----------------------------------------------------------------------------------------------------- */

#define BY_PATH(name, said, parameters, folder, path, arguments) \
  int name parameters { \
    REAL(name); \
    GUARDED(by_path(said, folder, path), real arguments); \
  }
BY_PATH(rename, "rename", (const char *old, const char *new), AT_FDCWD, new, (old, new))
BY_PATH(renameat, "rename", (int a, const char *old, int b, const char *new), b, new, (a, old, b, new))
BY_PATH(renameat2, "rename", (int a, const char *old, int b, const char *new, unsigned int flags), b, new,
        (a, old, b, new, flags))
BY_PATH(link, "link", (const char *old, const char *new), AT_FDCWD, new, (old, new))
BY_PATH(linkat, "link", (int a, const char *old, int b, const char *new, int flags), b, new, (a, old, b, new, flags))
BY_PATH(symlink, "link", (const char *old, const char *new), AT_FDCWD, new, (old, new))
BY_PATH(unlink, "unlink", (const char *path), AT_FDCWD, path, (path))
BY_PATH(unlinkat, "unlinkat", (int folder, const char *path, int flags), folder, path, (folder, path, flags))
BY_PATH(mkdir, "mkdir", (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))
BY_PATH(mkdirat, "mkdir", (int folder, const char *path, mode_t mode), folder, path, (folder, path, mode))
BY_PATH(rmdir, "rmdir", (const char *path), AT_FDCWD, path, (path))
BY_PATH(truncate, "ftruncate", (const char *path, off_t size), AT_FDCWD, path, (path, size))
BY_PATH(utimensat, "utime", (int folder, const char *path, const struct timespec times[2], int flags), folder, path,
        (folder, path, times, flags))
BY_PATH(utimes, "utime", (const char *path, const struct timeval times[2]), AT_FDCWD, path, (path, times))
