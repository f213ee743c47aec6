/*
 * The yardstick: one pass over one network directory, with the system calls that the product makes and
 * the bytes that it writes, and no other work. `make bench` compares the product with it.
 *
 *     pass NETWORK_DIRECTORY LIVE_IDS_FILE STATE_DIRECTORY
 *
 * Looks at every reservation twice, then removes those whose id is not in LIVE_IDS_FILE (one id a line)
 * in batches under the network's lock, each announced in the journal and fsynced before, with the same
 * pauses. Prints how many were removed. Exit 1, with the reason on stderr, when a system call fails.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NETWORK "/var/lib/cni/networks/cbr0"
#define EVENT                                                          \
    "{\"event\":\"%s\",\"pass_id\":\"20261123T080000Z-0123456789ab\"," \
    "\"time\":\"2026-11-23T08:00:00.000000Z\","

enum {
    BATCH = 64,          /* files under one lock */
    HOLD_NS = 3000000,   /* and no longer than this */
    PAUSE_MIN_US = 1000, /* flock is not fair: the plugin gets its turn in the pause */
    PAUSE_MAX_US = 5000,
    LOCK_TRIES = 2000, /* a millisecond apart */
    ID = 64,
    CONTENT = 512,
    SEEN = 96,
    NAME = 46,
    DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
    NEW_FILE = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
};

struct reservation {
    char name[NAME];
    unsigned short size;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    ino_t inode;
    struct timespec modified, changed;
    char content[SEEN];
    int leaked, removed;
};

struct text {
    char *bytes;
    size_t used, room;
};

static const char *directory;
static struct reservation *files;
static size_t file_count, file_room;
static char (*live)[ID + 1];
static size_t live_count;

static void stop(const char *what, const char *why) {
    fprintf(stderr, "pass: %s: %s\n", what, why);
    exit(1);
}

static void fail(const char *what) {
    stop(what, strerror(errno));
}

static int opened(int fd, const char *what) {
    if (fd < 0)
        fail(what);
    return fd;
}

static void *grown(void *memory, size_t bytes) {
    void *larger = realloc(memory, bytes);
    if (!larger)
        fail("realloc");
    return larger;
}

static void append(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(struct text *text, const char *format, ...) {
    va_list arguments;
    if (text->room - text->used < 2048)
        text->bytes = grown(text->bytes, text->room = 2 * text->room + 65536);
    va_start(arguments, format);
    text->used += (size_t)vsnprintf(text->bytes + text->used, text->room - text->used, format, arguments);
    va_end(arguments);
}

static void write_all(int fd, const struct text *text) {
    for (size_t done = 0; done < text->used;) {
        ssize_t written = write(fd, text->bytes + done, text->used - done);
        if (written < 0)
            fail("write");
        done += (size_t)written;
    }
}

static long long nanoseconds(struct timespec time) {
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return nanoseconds(time);
}

static int by_id(const void *left, const void *right) {
    return memcmp(left, right, ID);
}

static void read_live_ids(const char *path) {
    char line[256];
    FILE *stream = fopen(path, "re");
    if (!stream)
        fail(path);
    while (fgets(line, sizeof line, stream)) {
        live = grown(live, (live_count + 1) * sizeof *live);
        memcpy(live[live_count++], line, ID);
    }
    fclose(stream);
    qsort(live, live_count, sizeof *live, by_id);
}

static int is_reservation(const char *name) {
    return name[0] >= '0' && name[0] <= '9' && strlen(name) < NAME;
}

static DIR *listing(void) {
    DIR *entries = fdopendir(opened(open(directory, DIRECTORY_FLAGS), directory));
    if (!entries)
        fail("fdopendir");
    return entries;
}

/* Open, stat, read, close: the one way a reservation's bytes are read. */
static ssize_t read_reservation(int at, const char *name, struct stat *seen, char *content) {
    int fd = opened(openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), name);
    if (fstat(fd, seen) < 0)
        fail("fstat");
    ssize_t size = read(fd, content, CONTENT + 1);
    close(fd);
    return size;
}

static int unchanged(const struct reservation *file, const struct stat *seen) {
    return file->inode == seen->st_ino && file->size == seen->st_size &&
           nanoseconds(file->modified) == nanoseconds(seen->st_mtim) &&
           nanoseconds(file->changed) == nanoseconds(seen->st_ctim);
}

static void remember(const char *name, const struct stat *seen, const char *content, ssize_t size) {
    if (size < ID || size > SEEN)
        return;
    if (file_count == file_room)
        files = grown(files, (file_room = 2 * file_room + 1024) * sizeof *files);
    struct reservation *file = &files[file_count++];
    memset(file, 0, sizeof *file);
    memcpy(file->name, name, strlen(name) + 1);
    memcpy(file->content, content, (size_t)size);
    file->size = (unsigned short)size;
    file->mode = seen->st_mode & 07777;
    file->uid = seen->st_uid;
    file->gid = seen->st_gid;
    file->inode = seen->st_ino;
    file->modified = seen->st_mtim;
    file->changed = seen->st_ctim;
    file->leaked = !bsearch(content, live, live_count, sizeof *live, by_id);
}

static void first_look(void) {
    char content[CONTENT + 1];
    struct stat seen;
    DIR *entries = listing();
    for (struct dirent *entry; (entry = readdir(entries));)
        if (is_reservation(entry->d_name)) {
            ssize_t size = read_reservation(dirfd(entries), entry->d_name, &seen, content);
            remember(entry->d_name, &seen, content, size);
        }
    closedir(entries);
}

/* The directory comes in the order of the first look, so that no search is needed. */
static void second_look(void) {
    struct stat seen;
    size_t next = 0;
    DIR *entries = listing();
    for (struct dirent *entry; (entry = readdir(entries));)
        if (is_reservation(entry->d_name)) {
            if (fstatat(dirfd(entries), entry->d_name, &seen, AT_SYMLINK_NOFOLLOW) < 0)
                fail("fstatat");
            if (next == file_count || strcmp(files[next].name, entry->d_name) ||
                !unchanged(&files[next], &seen))
                stop(entry->d_name, "changed meanwhile");
            next++;
        }
    closedir(entries);
}

static void append_base64(struct text *text, const char *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char out[4 * (SEEN + 2) / 3 + 5];
    size_t used = 0;
    for (size_t i = 0; i < size; i += 3) {
        unsigned triple = (unsigned char)bytes[i] << 16;
        triple |= i + 1 < size ? (unsigned char)bytes[i + 1] << 8 : 0;
        triple |= i + 2 < size ? (unsigned char)bytes[i + 2] : 0;
        out[used++] = digits[triple >> 18];
        out[used++] = digits[triple >> 12 & 63];
        out[used++] = i + 1 < size ? digits[triple >> 6 & 63] : '=';
        out[used++] = i + 2 < size ? digits[triple & 63] : '=';
    }
    append(text, "%.*s", (int)used, out);
}

static void append_announcement(struct text *text, struct reservation **batch, size_t count) {
    int root = (int)(strlen(directory) - strlen(NETWORK));
    append(text, EVENT "\"files\":[", "announced");
    for (size_t i = 0; i < count; i++) {
        const struct reservation *file = batch[i];
        append(text,
               "%s{\"path\":\"" NETWORK "/%s\",\"root\":\"%.*s\",\"kind\":\"reservation\","
               "\"network\":\"cbr0\",\"container_id\":\"%.64s\",\"data\":\"",
               i ? "," : "", file->name, root, directory, file->content);
        append_base64(text, file->content, file->size);
        append(text,
               "\",\"mode\":%u,\"uid\":%u,\"gid\":%u,\"mtime_ns\":%lld,\"ctime_ns\":%lld,"
               "\"reason\":\"absent\",\"pod\":null}",
               file->mode, file->uid, file->gid, nanoseconds(file->modified), nanoseconds(file->changed));
    }
    append(text, "]}\n");
}

static void append_removed(struct text *text, struct reservation **batch, size_t count) {
    append(text, EVENT "\"paths\":[", "removed");
    for (size_t i = 0; i < count; i++)
        append(text, "%s\"" NETWORK "/%s\"", i ? "," : "", batch[i]->name);
    append(text, "]}\n");
}

static void record(int journal, struct text *text) {
    write_all(journal, text);
    if (fsync(journal) < 0)
        fail("fsync");
    text->used = 0;
}

static void take_lock(int lock, int at) {
    struct stat ours, named;
    for (int tries = 0; flock(lock, LOCK_EX | LOCK_NB) < 0; tries++) {
        if (errno != EWOULDBLOCK || tries == LOCK_TRIES)
            fail("flock");
        usleep(1000);
    }
    if (fstat(lock, &ours) < 0 || fstatat(at, "lock", &named, AT_SYMLINK_NOFOLLOW) < 0 ||
        ours.st_ino != named.st_ino)
        fail("lock");
    if (fstat(at, &ours) < 0 || lstat(directory, &named) < 0 || ours.st_ino != named.st_ino)
        fail(directory);
}

/* Under the lock: reopen, compare, unlink. Returns how many of the batch were done in the time. */
static size_t remove_batch(int lock, int at, struct reservation **batch, size_t count) {
    char content[CONTENT + 1];
    struct stat seen;
    size_t done = 0;
    take_lock(lock, at);
    for (long long end = now() + HOLD_NS; done < count && now() < end; done++) {
        struct reservation *file = batch[done];
        ssize_t size = read_reservation(at, file->name, &seen, content);
        if (size != file->size || memcmp(content, file->content, file->size) || !unchanged(file, &seen))
            stop(file->name, "changed meanwhile");
        if (unlinkat(at, file->name, 0) < 0)
            fail("unlinkat");
        file->removed = 1;
    }
    flock(lock, LOCK_UN);
    return done;
}

static void pause_a_little(void) {
    usleep(PAUSE_MIN_US + (useconds_t)(drand48() * (PAUSE_MAX_US - PAUSE_MIN_US)));
}

static size_t remove_leaked(int journal, int state) {
    struct text text = {0};
    struct stat hold;
    size_t count = 0, total = 0;
    struct reservation **leaked = grown(NULL, (file_count + 1) * sizeof *leaked);
    for (size_t i = 0; i < file_count; i++)
        if (files[i].leaked)
            leaked[count++] = &files[i];
    int at = opened(open(directory, DIRECTORY_FLAGS), directory);
    int lock = opened(openat(at, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC), "lock");
    for (size_t done = 0; total < count && fstatat(state, "hold", &hold, 0) < 0; total += done) {
        size_t batch = count - total < BATCH ? count - total : BATCH;
        append_announcement(&text, leaked + total, batch);
        record(journal, &text);
        done = remove_batch(lock, at, leaked + total, batch);
        append_removed(&text, leaked + total, done);
        pause_a_little();
    }
    record(journal, &text);
    close(lock);
    close(at);
    return total;
}

static void write_report(int state) {
    struct text text = {0};
    append(&text, "{\"schema\":\"cni-cleanup/report/1\",\"files\":[");
    for (size_t i = 0; i < file_count; i++) {
        const struct reservation *file = &files[i];
        append(&text,
               "%s{\"path\":\"" NETWORK "/%s\",\"kind\":\"reservation\",\"network\":\"cbr0\",\"ip\":\"%s\","
               "\"container_id\":\"%.64s\",\"ifname\":\"eth0\",\"age_seconds\":%d,\"verdict\":\"%s\","
               "\"reason\":\"%s\",\"outcome\":%s,\"pod\":null}",
               i ? "," : "", file->name, file->name, file->content, 12, file->leaked ? "leaked" : "keep",
               file->leaked ? "absent" : "sandbox", file->removed ? "\"removed\"" : "null");
    }
    append(&text, "]}\n");
    int report = opened(openat(state, "report.new", NEW_FILE, 0600), "report.new");
    write_all(report, &text);
    if (fsync(report) < 0 || close(report) < 0 || renameat(state, "report.new", state, "report.json") < 0)
        fail("report.json");
}

int main(int argc, char **argv) {
    if (argc != 4)
        stop("usage", "pass NETWORK_DIRECTORY LIVE_IDS_FILE STATE_DIRECTORY");
    directory = argv[1];
    size_t length = strlen(directory), tail = strlen(NETWORK);
    if (length < tail || strcmp(directory + length - tail, NETWORK))
        stop(directory, "does not end with " NETWORK);
    srand48(now());
    read_live_ids(argv[2]);
    int state = opened(open(argv[3], O_RDONLY | O_DIRECTORY | O_CLOEXEC), argv[3]);
    int journal = opened(openat(state, "journal", NEW_FILE, 0600), "journal");
    first_look();
    second_look();
    size_t removed = remove_leaked(journal, state);
    write_report(state);
    printf("%zu\n", removed);
    return 0;
}
