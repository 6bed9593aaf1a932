/* Preloaded into a program: counts its calls that change files below a folder, and lets the one of
 * a chosen number kill the process or fail, alone or with all that follow.
 *
 * FAULT_FOLDER   the folder
 * FAULT_CONTROL  a file of four 64-bit numbers that this library shares with whoever steers it:
 *                calls until now; the number of the call to strike, counted from 1, or 0;
 *                its errno, or 0 for SIGKILL; whether all later calls fail, too
 *
 * Calls that go to the kernel by themselves (rustix's fallocate) are not seen. */
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
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct control { uint64_t calls, strike, errno_or_kill, lasts; };
static struct control *control;
static const char *folder;
static size_t folder_length;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULT_CONTROL");
    folder = getenv("FAULT_FOLDER");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    int fd = real_open(path, O_RDWR);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
    close(fd);
}

/* -1 with errno set if this call is to fail, else 0. */
static int struck(void) {
    uint64_t call = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    uint64_t strike = __atomic_load_n(&control->strike, __ATOMIC_SEQ_CST);
    if (strike == 0 || call < strike || (call > strike && !control->lasts)) return 0;
    if (control->errno_or_kill == 0) kill(getpid(), SIGKILL);
    errno = (int)control->errno_or_kill;
    return -1;
}

static int is_ours(const char *path) {
    return control && path && strncmp(path, folder, folder_length) == 0;
}

static int is_our_file(int fd) {
    char link[64], path[PATH_MAX];
    if (!control) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_ours(path);
}

#define PATH_STRIKES(path) (is_ours(path) && struck())
#define FILE_STRIKES(fd) (is_our_file(fd) && struck())
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                              \
    int name(const char *path, int flags, ...) {                                                \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list);  \
        if ((flags & O_ACCMODE) != O_RDONLY && PATH_STRIKES(path)) return -1;                   \
        return REAL(name)(path, flags, mode);                                                   \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t count) {
    return FILE_STRIKES(fd) ? -1 : REAL(write)(fd, bytes, count);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return FILE_STRIKES(fd) ? -1 : REAL(pwrite64)(fd, bytes, count, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return FILE_STRIKES(fd) ? -1 : REAL(pwrite)(fd, bytes, count, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return FILE_STRIKES(fd) ? -1 : REAL(writev)(fd, parts, count);
}
int ftruncate(int fd, off_t length) { return FILE_STRIKES(fd) ? -1 : REAL(ftruncate)(fd, length); }
int ftruncate64(int fd, off64_t length) {
    return FILE_STRIKES(fd) ? -1 : REAL(ftruncate64)(fd, length);
}
int fsync(int fd) { return FILE_STRIKES(fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return FILE_STRIKES(fd) ? -1 : REAL(fdatasync)(fd); }
int rename(const char *from, const char *to) {
    return PATH_STRIKES(from) ? -1 : REAL(rename)(from, to);
}
int link(const char *from, const char *to) { return PATH_STRIKES(to) ? -1 : REAL(link)(from, to); }
int unlink(const char *path) { return PATH_STRIKES(path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) {
    return PATH_STRIKES(path) ? -1 : REAL(mkdir)(path, mode);
}
int chmod(const char *path, mode_t mode) {
    return PATH_STRIKES(path) ? -1 : REAL(chmod)(path, mode);
}
