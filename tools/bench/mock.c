/* A stand-in engine with OpenAI's dialect, fast enough never to be what limits the system before it.
 *
 *     mock PORT FOLDER
 *
 * POST /v1/chat/completions  a JSON answer, or a stream whose events leave in a write each; asked to think, it thinks
 *                            for the first half of a stream
 * GET /bench?TOKENS,INTERVAL_US  sets the content events of a stream, and the pause before each
 * GET /any/path              the file any.path of FOLDER as JSON
 * GET /events                the file `events` as a stream, then each second the file `heartbeat`
 * POST elsewhere             204
 *
 * With the contract's documents in FOLDER it plays a neuron. One thread, one epoll loop.
 */
#include "wire.h"

enum { MAX_FD = 65536, BATCH = 256 };

typedef struct {
    bool open, streaming, wants_usage, thinks, events, waits;
    int left; /* content events still to be sent */
    int64_t due;
    Bytes in, out;
} Conn;

typedef struct {
    int fd;
    int64_t due;
} Place;

static Conn conns[MAX_FD];
static Place line[MAX_FD];
static int poller, tokens = 64, line_first, line_size;
static int64_t interval_ns, served;
static const char *folder;

static const char CHUNK[] = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                            "\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":%s,\"logprobs\":null,"
                            "\"finish_reason\":%s}]}\n\n";
static const char USAGE[] = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                            "\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%d,"
                            "\"total_tokens\":%d}}\n\n";
static Bytes role, thought, content, finish, whole;

static void close_conn(int fd) {
    close(fd);
    conns[fd].open = false;
}

/* Sends what waits; what the kernel does not take leaves when it says so. */
static bool flush(int fd) {
    Conn *conn = &conns[fd];
    while (conn->out.size) {
        ssize_t sent = send(fd, conn->out.at, conn->out.size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) {
            close_conn(fd);
            return false;
        }
        drop_front(&conn->out, sent);
    }
    if (conn->waits != (conn->out.size > 0)) {
        conn->waits = !conn->waits;
        struct epoll_event wish = {.events = EPOLLIN | (conn->waits ? EPOLLOUT : 0), .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &wish);
    }
    return true;
}

static void framed(Bytes *out, const char *data, size_t size) {
    char length[16];
    append(out, length, sprintf(length, "%zx\r\n", size));
    append(out, data, size);
    append(out, "\r\n", 2);
}

static Bytes event_of(const char *delta, const char *reason) {
    char text[1024];
    Bytes event = {0};
    framed(&event, text, sprintf(text, CHUNK, delta, reason));
    return event;
}

/* Streams that wait for their next event. All have the same pause, so the first in line is the first due. */
static void queue_up(int fd, int64_t due) {
    conns[fd].due = due;
    line[(line_first + line_size++) % MAX_FD] = (Place){fd, due};
}

static void end_stream(int fd) {
    Conn *conn = &conns[fd];
    append(&conn->out, finish.at, finish.size);
    if (conn->wants_usage) {
        char text[512];
        framed(&conn->out, text, sprintf(text, USAGE, tokens, tokens + 9));
    }
    framed(&conn->out, "data: [DONE]\n\n", 14);
    append(&conn->out, "0\r\n\r\n", 5);
    conn->streaming = false;
    flush(fd);
}

/* One more event of the answer; whether the connection is still there. */
static bool go_on(int fd) {
    Conn *conn = &conns[fd];
    Bytes *event = conn->thinks && conn->left > tokens / 2 ? &thought : &content;
    append(&conn->out, event->at, event->size);
    conn->left--;
    return flush(fd);
}

static void stream(int fd) {
    Conn *conn = &conns[fd];
    static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                               "transfer-encoding: chunked\r\n\r\n";
    append(&conn->out, HEAD, sizeof HEAD - 1);
    append(&conn->out, role.at, role.size);
    conn->streaming = true;
    conn->left = tokens;
    if (!flush(fd)) return;
    if (interval_ns) {
        queue_up(fd, now_ns() + interval_ns);
        return;
    }
    while (conn->left)
        if (!go_on(fd)) return;
    end_stream(fd);
}

static int64_t send_due(void) {
    int64_t now = now_ns();
    while (line_size) {
        int fd = line[line_first].fd;
        Conn *conn = &conns[fd];
        bool gone = !conn->open || !conn->streaming || conn->due != line[line_first].due;
        if (!gone && conn->due > now) return conn->due;
        line_first = (line_first + 1) % MAX_FD;
        line_size--;
        if (gone) continue;
        if (!go_on(fd)) continue;
        if (conn->left > 0)
            queue_up(fd, conn->due + interval_ns);
        else
            end_stream(fd);
    }
    return 0;
}

static void answer(int fd, const char *status, const char *data, size_t size) {
    char head[256];
    Bytes *out = &conns[fd].out;
    append(out, head, sprintf(head, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", status, size));
    append(out, data, size);
    flush(fd);
}

static void serve_file(int fd, char *path) {
    char name[512], text[64];
    int pause_us;
    if (sscanf(path, "/bench?%d,%d", &tokens, &pause_us) == 2) {
        interval_ns = pause_us * 1000LL;
        answer(fd, "200 OK", text, sprintf(text, "{\"served\":%ld}", (long)served));
        return;
    }
    path[strcspn(path, "? ")] = 0;
    for (char *slash = path + 1; (slash = strchr(slash, '/'));) *slash = '.';
    snprintf(name, sizeof name, "%s/%s", folder, path + 1);
    Bytes file = read_file(name);
    if (!file.at) {
        answer(fd, "404 Not Found", "{}", 2);
    } else if (!strcmp(path, "/events")) {
        static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        append(&conns[fd].out, HEAD, sizeof HEAD - 1);
        framed(&conns[fd].out, file.at, file.size);
        conns[fd].events = true;
        flush(fd);
    } else {
        answer(fd, "200 OK", file.at, file.size);
    }
    free(file.at);
}

static void heartbeat(void) {
    char name[512];
    snprintf(name, sizeof name, "%s/heartbeat", folder);
    Bytes file = read_file(name);
    for (int fd = 0; file.at && fd < MAX_FD; fd++) {
        if (!conns[fd].open || !conns[fd].events) continue;
        framed(&conns[fd].out, file.at, file.size);
        flush(fd);
    }
    free(file.at);
}

/* Answers a request if all of it is there: gives its size, or 0. */
static size_t handle(int fd) {
    Conn *conn = &conns[fd];
    char *end = memmem(conn->in.at, conn->in.size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end - conn->in.at + 4, length = 0;
    const char *value = header(conn->in.at, head, "content-length:");
    if (value) length = strtoul(value, NULL, 10);
    if (conn->in.size < head + length) return 0;
    if (header(conn->in.at, head, "transfer-encoding:")) {
        answer(fd, "411 Length Required", "{}", 2);
    } else if (!strncmp(conn->in.at, "POST /v1/chat/completions ", 26)) {
        served++;
        conn->wants_usage = memmem(conn->in.at + head, length, "\"include_usage\":true", 20) != NULL;
        conn->thinks = memmem(conn->in.at + head, length, "think ", 6) != NULL;
        if (memmem(conn->in.at + head, length, "\"stream\":true", 13))
            stream(fd);
        else
            answer(fd, "200 OK", whole.at, whole.size);
    } else if (!strncmp(conn->in.at, "GET /", 5)) {
        *strstr(conn->in.at, "\r") = 0;
        serve_file(fd, conn->in.at + 4);
    } else {
        answer(fd, "204 No Content", "", 0);
    }
    return head + length;
}

static void receive(int fd) {
    Conn *conn = &conns[fd];
    reserve(&conn->in, 1 << 16);
    ssize_t got = recv(fd, conn->in.at + conn->in.size, 1 << 16, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) close_conn(fd);
        return;
    }
    conn->in.size += got;
    size_t used;
    while (conn->open && !conn->streaming && conn->in.size && (used = handle(fd))) drop_front(&conn->in, used);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        no_delay(fd);
        Conn *conn = &conns[fd];
        free(conn->in.at);
        free(conn->out.at);
        *conn = (Conn){.open = true};
        struct epoll_event wish = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish);
    }
}

static void prepare(void) {
    role = event_of("{\"role\":\"assistant\",\"content\":\"\"}", "null");
    thought = event_of("{\"reasoning\":\" token\"}", "null");
    content = event_of("{\"content\":\" token\"}", "null");
    finish = event_of("{}", "\"stop\"");
    static const char BEGIN[] = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\","
                                "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char END[] = "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                              "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":64,\"total_tokens\":73}}";
    append(&whole, BEGIN, sizeof BEGIN - 1);
    for (int i = 0; i < 64; i++) append(&whole, " token", 6);
    append(&whole, END, sizeof END - 1);
}

static void alarm_at(int timer, int64_t when, int64_t every) {
    struct itimerspec at = {.it_value = {when / 1000000000, when % 1000000000}, .it_interval = {every / 1000000000, 0}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL); /* when 0: none */
}

int main(int count, char **arguments) {
    if (count != 3) {
        fputs("usage: mock PORT FOLDER\n", stderr);
        return 2;
    }
    folder = arguments[2];
    all_descriptors();
    prepare();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = loopback(arguments[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    poller = epoll_create1(0);
    int pace = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), beat = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    alarm_at(beat, now_ns() + 1000000000, 1000000000);
    int own[] = {listener, pace, beat};
    for (int i = 0; i < 3; i++) {
        struct epoll_event wish = {.events = EPOLLIN, .data.fd = own[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, own[i], &wish);
    }
    for (int64_t armed = 0;;) {
        int64_t due = send_due();
        if (due != armed) alarm_at(pace, armed = due, 0);
        struct epoll_event events[BATCH];
        int ready = epoll_wait(poller, events, BATCH, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            uint64_t times;
            if (fd == listener)
                accept_all(listener);
            else if (fd == pace || fd == beat) {
                if (read(fd, &times, sizeof times) > 0 && fd == beat) heartbeat();
            } else if (!conns[fd].open || ((events[i].events & EPOLLOUT) && !flush(fd)))
                continue;
            else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(fd);
        }
    }
}
