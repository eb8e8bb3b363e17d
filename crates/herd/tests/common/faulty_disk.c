/* A disk that fails, for tests: loaded before the C library (LD_PRELOAD), it counts what a program does to files below one folder and,
   at a chosen step, cuts the power, or has no room left.

   HERD_DISK_ROOT   the folder
   HERD_DISK_FAULT  count:0    nothing fails
                    tear:N     after N steps the power goes: of what was not synced, half of each file is left
                    forget:N   the same, and no new name in a folder that was not synced is there any more
                    one:N      the same, but only one of those names is lost
                    end:0      as forget, when the program has ended by itself
                    room:N     there is room for N bytes and no more
   HERD_DISK_TOLD   a file that gets "STEPS BYTES" when the program ends by itself
   HERD_DISK_LATE   a mutant: what a program syncs before a rename reaches the disk after it

   A step is a write, a sync, a new name or a removal. The power cut is exit code 137. Nothing is really synced, so this is fast. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST = 4096 };

/* A file with bytes that were not synced: those from `synced` on. */
static struct { char *path; off_t synced; } dirty[MOST];
static int dirties;
/* A name whose folder was not synced: made at `to`, or moved there from `from`, where `old` keeps what it replaced. */
static struct { char *from, *to, *old; } fresh[MOST];
static int freshes;
static char *open_path[MOST];
static char root[PATH_MAX];
static char kind;
static long limit, steps, bytes;
static int late, lost;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("HERD_DISK_ROOT"), *fault = getenv("HERD_DISK_FAULT");
    if (!folder || !fault || !realpath(folder, root)) return;
    const char *number = strchr(fault, ':');
    kind = fault[0];
    limit = number ? atol(number + 1) : 0;
    late = getenv("HERD_DISK_LATE") != NULL;
}

static int inside(const char *path) {
    size_t n = strlen(root);
    return kind && strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

/* Whether a path lies in the folder; `out` gets it in full, its last name unresolved. */
static int within(const char *path, char *out) {
    char copy[PATH_MAX], folder[PATH_MAX];
    if (!kind || strlen(path) >= PATH_MAX) return 0;
    strcpy(copy, path);
    for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/';) copy[--n] = 0;
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (slash) *slash = 0;
    if (!realpath(slash ? (*copy ? copy : "/") : ".", folder)) return 0;
    return snprintf(out, PATH_MAX, "%s/%s", folder, name) < PATH_MAX && inside(out);
}

static char *parent_of(const char *path) {
    static char folder[PATH_MAX];
    strcpy(folder, path);
    *strrchr(folder, '/') = 0;
    return folder;
}

/* Another place beside the folder, for what the power cut takes away and a rename replaces. */
static char *aside(void) {
    char *path = NULL;
    if (asprintf(&path, "%s-lost-%d-%d", root, getpid(), lost++) < 0) abort();
    return path;
}

static int dirty_at(const char *path) {
    for (int i = 0; i < dirties; i++)
        if (strcmp(dirty[i].path, path) == 0) return i;
    return -1;
}

static void clean(int i) {
    free(dirty[i].path);
    dirty[i] = dirty[--dirties];
}

static void soil(const char *path, off_t synced) {
    int i = dirty_at(path);
    if (i < 0 && dirties < MOST) {
        i = dirties++;
        dirty[i].path = strdup(path);
        dirty[i].synced = synced;
    }
    if (i >= 0 && synced < dirty[i].synced) dirty[i].synced = synced;
}

static void name_is_fresh(const char *from, const char *to, char *old) {
    if (freshes == MOST) abort();
    fresh[freshes].from = from ? strdup(from) : NULL;
    fresh[freshes].to = strdup(to);
    fresh[freshes++].old = old;
}

static void drop_fresh(int i) {
    free(fresh[i].from), free(fresh[i].to), free(fresh[i].old);
    memmove(&fresh[i], &fresh[i + 1], (--freshes - i) * sizeof fresh[0]);
}

static void undo(int i) {
    REAL(rename)(fresh[i].to, fresh[i].from ? fresh[i].from : aside());
    if (fresh[i].old) REAL(rename)(fresh[i].old, fresh[i].to);
}

static void cut(void) {
    for (int i = 0; i < dirties; i++) {
        struct stat now;
        if (stat(dirty[i].path, &now) == 0 && now.st_size > dirty[i].synced)
            (void)!truncate(dirty[i].path, dirty[i].synced + (now.st_size - dirty[i].synced) / 2);
    }
    if (kind == 'f' || kind == 'e')
        while (freshes > 0) undo(--freshes);
    if (kind == 'o' && freshes > 0) undo(limit % freshes);
    _exit(137);
}

__attribute__((destructor)) static void end(void) {
    const char *told = getenv("HERD_DISK_TOLD");
    FILE *file = kind && told ? fopen(told, "w") : NULL;
    if (file) {
        fprintf(file, "%ld %ld\n", steps, bytes);
        fclose(file);
    }
    if (kind == 'e') cut();
}

static void step(void) {
    if (steps++ == limit && (kind == 't' || kind == 'f' || kind == 'o')) cut();
}

/* Everything in `path`, or `path` itself, is on the disk. */
static void settle(const char *path) {
    size_t n = strlen(path);
    for (int i = dirties; i-- > 0;)
        if (strncmp(dirty[i].path, path, n) == 0 && (dirty[i].path[n] == 0 || dirty[i].path[n] == '/')) clean(i);
}

/* `text`, if it is `from` or lies in it, with `to` in its place. */
static void move_prefix(char **text, const char *from, const char *to) {
    size_t n = strlen(from);
    if (!*text || strncmp(*text, from, n) != 0 || ((*text)[n] != 0 && (*text)[n] != '/')) return;
    char *moved = NULL;
    if (asprintf(&moved, "%s%s", to, *text + n) < 0) abort();
    free(*text);
    *text = moved;
}

static int opened(int fd, int existed, int flags) {
    char link[64], path[PATH_MAX];
    if (fd < 0 || fd >= MOST || !kind) return fd;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    if (!inside(path)) return fd;
    pthread_mutex_lock(&lock);
    free(open_path[fd]);
    open_path[fd] = strdup(path);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (writes && (flags & O_TRUNC)) soil(path, 0);
    if (writes && !existed) {
        soil(path, 0);
        name_is_fresh(NULL, path, NULL);
        step();
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                             \
    int name(const char *path, int flags, ...) {               \
        va_list rest;                                          \
        va_start(rest, flags);                                 \
        mode_t mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                          \
        int existed = access(path, F_OK) == 0;                 \
        return opened(REAL(name)(path, flags, mode), existed, flags); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < MOST) free(open_path[fd]), open_path[fd] = NULL;
    pthread_mutex_unlock(&lock);
    return REAL(close)(fd);
}

static const char *path_of(int fd) { return fd >= 0 && fd < MOST ? open_path[fd] : NULL; }

ssize_t write(int fd, const void *from, size_t n) {
    if (!kind || !path_of(fd)) return REAL(write)(fd, from, n);
    pthread_mutex_lock(&lock);
    struct stat now;
    if (fstat(fd, &now) == 0) soil(open_path[fd], now.st_size);
    if (kind == 'r' && bytes + (long)n > limit) n = bytes < limit ? limit - bytes : 0;
    ssize_t done = n > 0 ? REAL(write)(fd, from, n) : -1;
    if (n == 0) errno = ENOSPC;
    if (done > 0) bytes += done;
    int why = errno;
    step();
    pthread_mutex_unlock(&lock);
    errno = why;
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!kind || !path_of(fd) || count < 1) return REAL(writev)(fd, parts, count);
    return write(fd, parts[0].iov_base, parts[0].iov_len); /* a short write, as the system may make */
}

static int truncated(int fd, off_t length, int done) {
    if (!kind || !path_of(fd) || done != 0) return done;
    pthread_mutex_lock(&lock);
    soil(open_path[fd], length);
    step();
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length, REAL(ftruncate)(fd, length)); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length, REAL(ftruncate64)(fd, length)); }

static int synced(int fd) {
    struct stat now;
    pthread_mutex_lock(&lock);
    step();
    if (fstat(fd, &now) == 0 && S_ISDIR(now.st_mode)) {
        for (int i = freshes; i-- > 0;)
            if (strcmp(parent_of(fresh[i].to), open_path[fd]) == 0) drop_fresh(i);
    } else if (!late) {
        settle(open_path[fd]);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return kind && path_of(fd) ? synced(fd) : REAL(fsync)(fd); }
int fdatasync(int fd) { return kind && path_of(fd) ? synced(fd) : REAL(fdatasync)(fd); }

int rename(const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX], *old = NULL;
    struct stat now;
    if (!within(from, a) || !within(to, b)) return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    if (stat(b, &now) == 0 && S_ISREG(now.st_mode)) {
        old = aside();
        if (link(b, old) != 0) abort();
    }
    int done = REAL(rename)(from, to), why = errno;
    if (done == 0) {
        settle(b);
        for (int i = freshes; i-- > 0;) /* a name that was made and moved is one that was moved */
            if (!fresh[i].from && strcmp(fresh[i].to, a) == 0) drop_fresh(i);
        for (int i = 0; i < dirties; i++) move_prefix(&dirty[i].path, a, b);
        for (int i = 0; i < freshes; i++) move_prefix(&fresh[i].to, a, b), move_prefix(&fresh[i].from, a, b);
        for (int i = 0; i < MOST; i++) move_prefix(&open_path[i], a, b);
        name_is_fresh(a, b, old);
        step();
        if (late) settle(b);
    }
    pthread_mutex_unlock(&lock);
    errno = why;
    return done;
}

int mkdir(const char *path, mode_t mode) {
    char full[PATH_MAX];
    int done = REAL(mkdir)(path, mode), why = errno;
    if (done == 0 && within(path, full)) {
        pthread_mutex_lock(&lock);
        name_is_fresh(NULL, full, NULL);
        step();
        pthread_mutex_unlock(&lock);
    }
    errno = why;
    return done;
}

static int removed(const char *full, int done) {
    int why = errno;
    if (done == 0) {
        pthread_mutex_lock(&lock);
        settle(full);
        for (int i = freshes; i-- > 0;)
            if (strcmp(fresh[i].to, full) == 0) drop_fresh(i);
        step();
        pthread_mutex_unlock(&lock);
    }
    errno = why;
    return done;
}

int unlink(const char *path) {
    char full[PATH_MAX];
    return within(path, full) ? removed(full, REAL(unlink)(path)) : REAL(unlink)(path);
}

int rmdir(const char *path) {
    char full[PATH_MAX];
    return within(path, full) ? removed(full, REAL(rmdir)(path)) : REAL(rmdir)(path);
}

int unlinkat(int fd, const char *name, int flags) {
    char link[64], folder[PATH_MAX], full[2 * PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = kind && fd >= 0 ? readlink(link, folder, sizeof folder - 1) : -1;
    if (n < 0) return REAL(unlinkat)(fd, name, flags);
    folder[n] = 0;
    snprintf(full, sizeof full, "%s/%s", folder, name);
    return inside(full) ? removed(full, REAL(unlinkat)(fd, name, flags)) : REAL(unlinkat)(fd, name, flags);
}
