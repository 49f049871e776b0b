/* What the mock and the load generator share: growable bytes, the clock, sockets and the head of a message. */
#ifndef WIRE_H
#define WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

typedef struct {
    char *at;
    size_t size, room;
} Bytes;

static inline void reserve(Bytes *bytes, size_t more) {
    if (bytes->size + more <= bytes->room) return;
    bytes->room = (bytes->size + more) * 2;
    if (!(bytes->at = realloc(bytes->at, bytes->room))) die("realloc");
}

static inline void append(Bytes *bytes, const void *data, size_t size) {
    reserve(bytes, size);
    memcpy(bytes->at + bytes->size, data, size);
    bytes->size += size;
}

static inline void drop_front(Bytes *bytes, size_t size) {
    bytes->size -= size;
    memmove(bytes->at, bytes->at + size, bytes->size);
}

static inline Bytes read_file(const char *path) {
    Bytes bytes = {0};
    FILE *file = fopen(path, "rb");
    if (!file) return bytes;
    for (size_t got = 1; got; bytes.size += got) {
        reserve(&bytes, 1 << 16);
        got = fread(bytes.at + bytes.size, 1, 1 << 16, file);
    }
    fclose(file);
    return bytes;
}

static inline struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void all_descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* The value of a header (its name with the colon) in a head that ends with an empty line; NULL: it has none. */
static inline const char *header(const char *head, size_t size, const char *name) {
    size_t length = strlen(name);
    const char *end = head + size;
    for (const char *line = head; line && line + length < end; line = memchr(line, '\n', end - line)) {
        if (*line == '\n') line++;
        if (line + length < end && !strncasecmp(line, name, length)) {
            for (line += length; *line == ' '; line++) {}
            return line;
        }
    }
    return NULL;
}

#endif
