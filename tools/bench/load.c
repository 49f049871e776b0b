/* Asks one path of a server on loopback, reads every answer to its end, and prints a line of figures as JSON.
 *
 *     load PORT BODY_FILE CONNECTIONS SECONDS [path P] [stream] [rate N] [spread MS] [hold]
 *
 * Closed loop: each connection asks again as soon as it was answered; what has begun when the time is over is still
 * read. `rate`: N requests a second at fixed times over as many connections as that takes, up to CONNECTIONS, and times
 * count from when a request was due. `spread`: the connections begin within so many milliseconds. `hold`: each asks
 * once; a line is printed when all have had their first byte, and all stay open until standard input ends.
 *
 * An answer counts when it is 200 and whole: a stream must end as those of its path do. One thread, one epoll loop.
 */
#include "wire.h"

enum { BATCH = 256, STALL_S = 30 };

typedef enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_END } State;

typedef struct {
    int fd, status;
    bool busy;
    State state;
    int64_t asked, first, last; /* when */
    long left;                  /* of the body, or of the chunk */
    long body_size, events;
    char tail[8]; /* of the body */
    Bytes in;
} Conn;

typedef struct {
    double *at;
    size_t size, room;
} Samples;

static const char *port, *path = "/v1/chat/completions", *last_words = "[DONE]\n\n";
static Bytes request;
static bool streams, hold;
static int poller, open_count, first_count; /* requests under way; first bytes that came */
static long ok, bad, events_total;
static int64_t stop_at, last_end;
static Samples firsts, ends, gaps;
static Conn *conns, **idle;
static int conn_count, idle_count;
static char problem[200];

static void add(Samples *samples, double value) {
    if (samples->size == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 1 << 16;
        if (!(samples->at = realloc(samples->at, samples->room * sizeof value))) die("realloc");
    }
    samples->at[samples->size++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double share(Samples *samples, double part) {
    return samples->size ? samples->at[(size_t)(part * (samples->size - 1))] : 0;
}

static void connect_to(Conn *conn) {
    struct sockaddr_in address = loopback(port);
    conn->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    no_delay(conn->fd);
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = conn};
    epoll_ctl(poller, EPOLL_CTL_ADD, conn->fd, &wish);
    conn->in.size = 0;
}

static void ask(Conn *conn, int64_t due) {
    if (conn->fd < 0) connect_to(conn);
    conn->busy = true;
    conn->asked = due;
    conn->first = conn->last = 0;
    conn->status = 0;
    conn->state = HEAD;
    conn->body_size = conn->events = 0;
    open_count++;
    if (send(conn->fd, request.at, request.size, MSG_NOSIGNAL) != (ssize_t)request.size) die("send");
}

static void end(Conn *conn, const char *why) {
    int64_t now = now_ns();
    conn->busy = false;
    open_count--;
    if (!why && conn->status != 200) why = "status";
    size_t size = strlen(last_words);
    if (!why && streams && memcmp(conn->tail + 8 - size, last_words, size)) why = "no terminal event";
    if (!why && conn->body_size < 50) why = "a short body";
    if (why) {
        bad++;
        snprintf(problem, sizeof problem, "%s (%d)", why, conn->status);
    } else {
        ok++;
        events_total += conn->events;
        add(&firsts, (conn->first - conn->asked) / 1e6);
        add(&ends, (now - conn->asked) / 1e6);
        last_end = now;
    }
}

static void drop(Conn *conn, const char *why) {
    close(conn->fd);
    conn->fd = -1;
    if (conn->busy) end(conn, why);
}

static void take_body(Conn *conn, const char *data, size_t size, int64_t now) {
    if (!conn->first) {
        conn->first = now;
        first_count++;
    } else if (now != conn->last) {
        add(&gaps, (now - conn->last) / 1e6);
    }
    conn->last = now;
    char before = conn->body_size ? conn->tail[7] : 0;
    for (const char *at = data; (at = memchr(at, '\n', data + size - at)); at++)
        conn->events += (at == data ? before : at[-1]) == '\n';
    conn->body_size += size;
    size_t kept = size < 8 ? size : 8;
    memmove(conn->tail, conn->tail + kept, 8 - kept);
    memcpy(conn->tail + 8 - kept, data + size - kept, kept);
}

/* Reads the head: gives its size, 0 while it is not whole. */
static size_t read_head(Conn *conn, const char *data, size_t size) {
    const char *stop = memmem(data, size, "\r\n\r\n", 4);
    if (!stop) return 0;
    size_t head = stop - data + 4;
    const char *length = header(data, head, "content-length:"), *coding = header(data, head, "transfer-encoding:");
    conn->status = atoi(data + 9);
    conn->left = length ? atol(length) : 0;
    conn->state = coding && !strncasecmp(coding, "chunked", 7) ? CHUNK_SIZE : BODY;
    if (conn->state == BODY && !conn->left) end(conn, "no body");
    return head;
}

/* Reads the next part of an answer: gives the bytes used, 0 when more are needed. */
static size_t read_part(Conn *conn, const char *data, size_t size, int64_t now) {
    const char *eol;
    size_t piece;
    switch (conn->state) {
    case HEAD:
        return read_head(conn, data, size);
    case CHUNK_SIZE:
        if (!(eol = memchr(data, '\n', size))) return 0;
        conn->left = strtol(data, NULL, 16);
        conn->state = conn->left ? CHUNK : LAST_END;
        return eol - data + 1;
    case CHUNK_END:
    case LAST_END: /* trailers are not expected */
        if (size < 2) return 0;
        if (conn->state == LAST_END) end(conn, NULL);
        conn->state = CHUNK_SIZE;
        return 2;
    default:
        piece = size < (size_t)conn->left ? size : (size_t)conn->left;
        take_body(conn, data, piece, now);
        conn->left -= piece;
        if (!conn->left && conn->state == CHUNK)
            conn->state = CHUNK_END;
        else if (!conn->left)
            end(conn, NULL);
        return piece;
    }
}

static void receive(Conn *conn) {
    reserve(&conn->in, 1 << 16);
    ssize_t got = recv(conn->fd, conn->in.at + conn->in.size, 1 << 16, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(conn, "cut");
        return;
    }
    conn->in.size += got;
    int64_t now = now_ns();
    size_t used = 0, part;
    while (conn->busy && used < conn->in.size &&
           (part = read_part(conn, conn->in.at + used, conn->in.size - used, now)))
        used += part;
    drop_front(&conn->in, used);
}

/* Asks on, or waits for its turn. */
static void go_on(Conn *conn, bool paced) {
    if (conn->busy || hold) return;
    if (paced)
        idle[idle_count++] = conn;
    else if (now_ns() < stop_at)
        ask(conn, now_ns());
}

static void print_figures(int64_t began) {
    Samples *every[] = {&firsts, &ends, &gaps};
    const char *names[] = {"ttft", "whole", "gap"};
    printf("{\"ok\":%ld,\"bad\":%ld,\"problem\":\"%s\",\"events\":%ld,\"seconds\":%.6f", ok, bad, problem, events_total,
           (last_end - began) / 1e9);
    for (int i = 0; i < 3; i++) {
        qsort(every[i]->at, every[i]->size, sizeof(double), ascending);
        printf(",\"%s_p50_ms\":%.4f,\"%s_p99_ms\":%.4f", names[i], share(every[i], 0.5), names[i], share(every[i], 0.99));
    }
    puts("}");
}

static void compose(const char *body_file) {
    Bytes body = read_file(body_file);
    char head[512];
    if (!body.at) die(body_file);
    append(&request, head, sprintf(head,
                                   "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%s\r\n"
                                   "content-type: application/json\r\nauthorization: Bearer sk-bench\r\n"
                                   "content-length: %zu\r\n\r\n",
                                   path, port, body.size));
    append(&request, body.at, body.size);
}

static void wait_for_events(int timeout_ms, bool paced) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(poller, events, BATCH, timeout_ms);
    for (int i = 0; i < ready; i++) {
        Conn *conn = events[i].data.ptr;
        bool was_busy = conn->busy;
        receive(conn);
        if (was_busy) go_on(conn, paced);
    }
}

int main(int count, char **arguments) {
    if (count < 5) {
        fputs("usage: load PORT BODY_FILE CONNECTIONS SECONDS [path P] [stream] [rate N] [spread MS] [hold]\n", stderr);
        return 2;
    }
    double rate = 0, spread_ms = 0;
    for (int i = 5; i < count; i++) {
        if (!strcmp(arguments[i], "path")) path = arguments[++i];
        if (!strcmp(arguments[i], "stream")) streams = true;
        if (!strcmp(arguments[i], "hold")) hold = true;
        if (!strcmp(arguments[i], "rate")) rate = atof(arguments[++i]);
        if (!strcmp(arguments[i], "spread")) spread_ms = atof(arguments[++i]);
    }
    port = arguments[1];
    if (!strcmp(path, "/v1/messages")) last_words = "stop\"}\n\n"; /* of message_stop */
    if (!strcmp(path, "/v1/responses")) last_words = "}}}\n\n"; /* of the usage in response.completed */
    conn_count = atoi(arguments[3]);
    conns = calloc(conn_count, sizeof *conns);
    idle = calloc(conn_count, sizeof *idle);
    all_descriptors();
    compose(arguments[2]);
    poller = epoll_create1(0);
    for (int i = 0; i < conn_count; i++) {
        conns[i].fd = -1;
        idle[idle_count++] = &conns[conn_count - 1 - i];
    }
    /* Requests begin at fixed times: all of them with a rate, else the first one of each connection. */
    double step_ns = rate ? 1e9 / rate : spread_ms * 1e6 / conn_count;
    int64_t began = now_ns();
    long started = 0;
    last_end = began;
    stop_at = began + (int64_t)(atof(arguments[4]) * 1e9);
    for (;;) {
        int64_t now = now_ns(), next = began + (int64_t)(started * step_ns);
        bool more = rate ? next < stop_at : started < conn_count;
        if (!more && (!open_count || (hold && first_count == conn_count))) break;
        if (now > stop_at + STALL_S * 1000000000LL) break;
        if (more && now >= next && idle_count) {
            ask(idle[--idle_count], rate ? next : now);
            started++;
            continue;
        }
        /* The last millisecond before a request is due is spent awake, so that it begins in time. */
        int64_t wait_ms = more && idle_count ? (next - now) / 1000000 : 100;
        wait_for_events(wait_ms < 100 ? (int)wait_ms : 100, rate > 0);
    }
    if (hold) {
        printf("{\"open\":%d}\n", open_count);
        fflush(stdout);
        return getchar() == EOF ? 0 : 1;
    }
    bad += open_count;
    if (open_count) strcpy(problem, "no end");
    print_figures(began);
}
