/* Preloaded into a server's processes, this keeps a second folder with exactly what a power cut would leave.
 *
 *   POWER_WATCH   absolute folder whose files are watched (no sub-folders)
 *   POWER_DISK    folder of the copies: "<inode>" holds a file's bytes as of its last fsync that returned, "names" the
 *                 folder's entries ("inode name" a line) as of the folder's last fsync that returned
 *
 * A copy is taken before the real fsync begins and published after it returned, so bytes that were written meanwhile are
 * not in it. One lock for all processes keeps copies in order. While the file "hold" stands in POWER_DISK, an fsync of
 * the journal's write-ahead log does not begin (and "held" appears); "fail" makes it fail with EIO; "slow" delays it by
 * as many milliseconds as stand in it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JOURNAL "journal.sqlite-wal"

typedef int (*sync_call)(int);

static void place(char *path, const char *name) { snprintf(path, PATH_MAX, "%s/%s", getenv("POWER_DISK"), name); }

static int stands(const char *name) {
    char path[PATH_MAX];
    place(path, name);
    return access(path, F_OK) == 0;
}

static void mark(const char *name) {
    char path[PATH_MAX];
    place(path, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0) close(fd);
}

static void delay(void) {
    char path[PATH_MAX], text[16] = "";
    place(path, "slow");
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    if (read(fd, text, sizeof text - 1) > 0) usleep(1000 * atoi(text));
    close(fd);
}

/* The copy of one file, opened anew because it may be open for writing only. */
static void copy(const char *file, const char *to) {
    static __thread char block[1 << 18];
    int from = open(file, O_RDONLY), fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t got = -1;
    while (from >= 0 && fd >= 0 && (got = read(from, block, sizeof block)) > 0)
        if (write(fd, block, got) != got) abort();
    if (got < 0) abort();
    close(from);
    close(fd);
}

/* The names of a folder, and no copies of files that are gone: their inodes may come back as other files. */
static void publish_names(const char *folder) {
    char draft[PATH_MAX], names[PATH_MAX], old[PATH_MAX];
    place(draft, "names.draft");
    place(names, "names");
    FILE *out = fopen(draft, "w");
    DIR *watched = opendir(folder), *copies = opendir(getenv("POWER_DISK"));
    if (!out || !watched || !copies) abort();
    for (struct dirent *e; (e = readdir(watched));)
        if (e->d_name[0] != '.' || e->d_name[1]) fprintf(out, "%lu %s\n", (unsigned long)e->d_ino, e->d_name);
    fclose(out);
    for (struct dirent *c; (c = readdir(copies));) {
        unsigned long inode = strtoul(c->d_name, NULL, 10);
        int here = inode == 0;
        rewinddir(watched);
        for (struct dirent *e; !here && (e = readdir(watched));) here = e->d_ino == inode;
        if (here) continue;
        place(old, c->d_name);
        unlink(old);
    }
    closedir(watched);
    closedir(copies);
    if (rename(draft, names)) abort();
}

static int synced(int fd, sync_call real) {
    char link[64], path[PATH_MAX] = "", draft[PATH_MAX], final[PATH_MAX], text[64];
    const char *watch = getenv("POWER_WATCH");
    struct stat about;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (!watch || !getenv("POWER_DISK") || size <= 0 || fstat(fd, &about)) return real(fd);
    int is_folder = S_ISDIR(about.st_mode) && !strcmp(path, watch);
    size_t length = strlen(watch);
    if (!is_folder && (strncmp(path, watch, length) || path[length] != '/' || strchr(path + length + 1, '/')))
        return real(fd);
    if (!is_folder && !strcmp(path + length + 1, JOURNAL)) {
        if (stands("hold")) mark("held");
        while (stands("hold")) usleep(1000);
        delay();
        if (stands("fail")) {
            errno = EIO;
            return -1;
        }
    }
    place(final, "lock");
    int lock = open(final, O_RDWR | O_CREAT, 0600);
    flock(lock, LOCK_EX);
    snprintf(text, sizeof text, "copy.%d.%ld", getpid(), (long)syscall(SYS_gettid));
    place(draft, text);
    if (!is_folder) copy(link, draft);
    int result = real(fd);
    if (result == 0 && is_folder) publish_names(watch);
    if (result == 0 && !is_folder) {
        snprintf(text, sizeof text, "%lu", (unsigned long)about.st_ino);
        place(final, text);
        if (rename(draft, final)) abort();
    }
    close(lock);
    return result;
}

int fsync(int fd) { return synced(fd, (sync_call)dlsym(RTLD_NEXT, "fsync")); }

int fdatasync(int fd) { return synced(fd, (sync_call)dlsym(RTLD_NEXT, "fdatasync")); }
