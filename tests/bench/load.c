/* Asks a signal server to link pairs, as fast as it can or one by one, and times them. See __main__.py.
 *
 *     load PORT PROTOCOL rate  PAIRS KEPT UNSEEN WARM_SECONDS SECONDS
 *     load PORT PROTOCOL crowd PEERS
 *
 * PROTOCOL is spacerift, peerjs or nothing (a POST that gets an empty reply). Two strangers exchange an offer and an
 * answer of 1.4 KB. The clock runs from the second peer's first system call until the first peer has the answer. Each
 * text carries its own number at both ends, and the number of the text that it answers, and is checked on arrival.
 *
 * One thread and one epoll, and all work of a connection is done where its event is met: there are no locks, no
 * allocations and no waiting in the way. It asks 127.0.0.1 only. Lines of JSON go to the standard output.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

enum { ROOM = 8192, MOST_PAIRS = 4000000, NEWCOMERS = 200 };
enum protocol { SPACERIFT, PEERJS, NOTHING };
enum state { CLOSED, CONNECTING, ASKED, OPENING, REGISTERED, LEAVING };

struct peer {
    int fd;
    enum state state;
    int first;              /* PeerJS: registers first, and gets the offer */
    int waits;              /* one of the crowd */
    int number;             /* of its room, if it has one of its own */
    uint64_t id, started;   /* ns */
    struct peer *partner;   /* PeerJS */
    char *in;
    int got;
};

static enum protocol protocol;
static int poll_fd, port, kept, unseen, crowd;
static int measuring, pairs, all_pairs, errors, damaged, repolls, opened, lost;
static char first_error[160];
static uint64_t *times; /* ns, of each pair */
static struct peer *everybody;
static int newcomers_left;
static struct peer newcomer;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void fail(const char *why) {
    perror(why);
    exit(2);
}

static uint64_t next_id(void) {
    static uint64_t last, base;
    if (!base) base = now() ^ ((uint64_t)getpid() << 40);
    return base + ++last * 0x9E3779B97F4A7C15ull;
}

static void begin(struct peer *p);

static int is_text(const char *in, int size, uint64_t *id, uint64_t *to, uint64_t *started) {
    int whole = read_text(in, size, id, to, started);
    damaged += !whole;
    return whole;
}

/* --- connections ---------------------------------------------------------------------------------------------- */

static void hang_up(struct peer *p) {
    if (p->state != CLOSED) close(p->fd);
    p->state = CLOSED;
    p->got = 0;
}

static void went_wrong(struct peer *p, const char *why) {
    if (!errors++) snprintf(first_error, sizeof first_error, "%.60s: %.80s", why, p->got ? p->in : strerror(errno));
    for (char *c = first_error; *c; c++) if (*c < ' ' || *c == '"' || *c == '\\' || *c > '~') *c = ' ';
    if (errors > 500) fail(first_error);
    if (p->partner) hang_up(p->partner);
    hang_up(p);
    if (p == &newcomer) { if (newcomers_left) newcomers_left--; }
    else if (p->waits) lost++;
    else begin(p->partner && !p->first ? p->partner : p);
}

static void reach(struct peer *p) { /* opens a connection, from one of many addresses so that ports do not run out */
    static uint32_t next;
    struct sockaddr_in own = {.sin_family = AF_INET}, server = {.sin_family = AF_INET};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = p};
    int yes = 1;
    own.sin_addr.s_addr = htonl(0x7f010001u + (next++ & 63));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons(port);
    if (!p->in && !(p->in = malloc(ROOM))) fail("malloc");
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (p->fd < 0) fail("socket");
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(p->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(p->fd, (void *)&own, sizeof own)) fail("bind");
    if (connect(p->fd, (void *)&server, sizeof server) && errno != EINPROGRESS) fail("connect");
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, p->fd, &event)) fail("epoll_ctl");
    p->state = CONNECTING;
    p->got = 0;
    opened++;
}

static int put(struct peer *p, const char *bytes, int size) {
    if (send(p->fd, bytes, size, MSG_NOSIGNAL) == size) return 1; /* a few KB always fit into an idle connection */
    went_wrong(p, "not sent");
    return 0;
}

/* --- HTTP ----------------------------------------------------------------------------------------------------- */

static int post(struct peer *p, const char *body, int size) {
    static char out[ROOM];
    static uint64_t visits;
    int n = sprintf(out, "POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) "
        "Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nOrigin: https://game.example\r\n"
        "Referer: https://game.example/\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: cross-site\r\n", port);
    if (unseen) n += sprintf(out + n, "X-Visit: %llu\r\n", (unsigned long long)visits++);
    n += sprintf(out + n, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", size);
    memcpy(out + n, body, size);
    p->state = ASKED;
    return put(p, out, n + size);
}

static void ask(struct peer *p, const char *nonce, int nonce_size, uint64_t to) {
    char body[ROOM];
    int n = sprintf(body, "{\"TYPE\":\"CONNECT\",\"NAMESPACE\":\"room%d\",\"FINGERPRINT\":\"%016llx\",\"SIGNAL\":\"",
        p->number, (unsigned long long)p->id);
    n += add_text(body + n, nonce ? ~p->id : p->id, to, p->started);
    if (nonce) n += sprintf(body + n, "\",\"NONCE\":\"%.*s", nonce_size, nonce);
    n += sprintf(body + n, "\"}");
    post(p, body, n);
}

static char *reply_body(struct peer *p, int *size) { /* 0 while it is not whole */
    char *end = memmem(p->in, p->got, "\r\n\r\n", 4), *length;
    if (!end) return 0;
    length = memmem(p->in, end - p->in, "Content-Length: ", 16);
    if (!length) length = memmem(p->in, end - p->in, "content-length: ", 16);
    *size = length ? atoi(length + 16) : 0;
    return end + 4 + *size <= p->in + p->got ? end + 4 : 0;
}

/* --- a pair is linked ----------------------------------------------------------------------------------------- */

static void linked(uint64_t started) {
    all_pairs++;
    if (measuring && pairs < MOST_PAIRS) times[pairs++] = now() - started;
}

static void ended(struct peer *p) {
    if (!kept) hang_up(p);
    p->got = 0;
    if (p == &newcomer || p->waits) {
        if (p->waits) newcomers_left--; /* the pair is over when the one who waited has the answer */
        hang_up(p);
    } else begin(p);
}

static void replied(struct peer *p) {
    int size, nonce_size;
    uint64_t id, to, started;
    char *body = reply_body(p, &size), *kind, *nonce;
    if (!body) return;
    if (protocol == NOTHING) {
        linked(p->started);
        return ended(p);
    }
    kind = memmem(body, size, "\"TYPE\":\"", 8);
    if (!kind) return went_wrong(p, "no TYPE");
    kind += 8;
    if (!strncmp(kind, "ANSWER\"", 7)) {
        if (!is_text(body, size, &id, &to, &started) || to != p->id) return went_wrong(p, "not my answer");
        linked(started);
        return ended(p);
    }
    if (!strncmp(kind, "DEMOTE\"", 7)) {
        nonce = memmem(body, size, "\"NONCE\":\"", 9);
        if (!nonce || !is_text(body, size, &id, &to, &started)) return went_wrong(p, "not an offer");
        nonce += 9;
        nonce_size = strchr(nonce, '"') - nonce;
        p->got = 0; /* what stands there is still read below */
        return ask(p, nonce, nonce_size, id);
    }
    if (!strncmp(kind, "DELIVERED\"", 10)) return ended(p);
    if (strncmp(kind, "NO_PEER\"", 8) && strncmp(kind, "NO_NAMESPACE_PEER\"", 18)) return went_wrong(p, "refused");
    repolls++;
    p->got = 0;
    ask(p, 0, 0, 0);
}

/* --- PeerJS over WebSocket ------------------------------------------------------------------------------------ */

static int frame(struct peer *p, int kind, const char *bytes, int size) {
    static const unsigned char mask[] = {0x37, 0xfa, 0x21, 0x3d};
    char out[ROOM];
    int n = 2;
    out[0] = 0x80 | kind;
    out[1] = 0x80 | (size < 126 ? size : 126);
    if (size >= 126) out[2] = size >> 8, out[3] = size, n = 4;
    memcpy(out + n, mask, 4);
    n += 4;
    for (int i = 0; i < size; i++) out[n + i] = bytes[i] ^ mask[i & 3];
    return put(p, out, n + size);
}

static void upgrade(struct peer *p) {
    char out[1024];
    int n = sprintf(out, "GET /peerjs?key=peerjs&id=%016llx&token=t%016llx&version=1.5.5 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nOrigin: https://game.example\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        (unsigned long long)p->id, (unsigned long long)p->id, port);
    p->state = OPENING;
    put(p, out, n);
}

static void carry(struct peer *p, const char *kind, uint64_t own, uint64_t to, uint64_t started) {
    char body[ROOM];
    int n = sprintf(body, "{\"type\":\"%s\",\"payload\":{\"sdp\":{\"type\":\"%s\",\"sdp\":\"", kind, *kind == 'O' ? "offer" : "answer");
    n += add_text(body + n, own, to, started);
    n += sprintf(body + n, "\"},\"type\":\"data\",\"connectionId\":\"dc_%016llx\",\"label\":\"dc\",\"reliable\":false,"
        "\"serialization\":\"binary\"},\"dst\":\"%016llx\"}", (unsigned long long)started, (unsigned long long)p->partner->id);
    frame(p, 1, body, n);
}

static void leave(struct peer *p) {
    if (p->state != REGISTERED) return;
    p->state = LEAVING;
    frame(p, 8, "\3\350", 2);
}

static void told(struct peer *p, char *message, int size) {
    uint64_t id, to, started;
    if (memmem(message, size < 40 ? size : 40, "\"OPEN\"", 6)) {
        p->state = REGISTERED;
        if (p->waits) return;
        if (p->first) begin(p->partner);
        else carry(p, "OFFER", p->id, p->id, p->started);
    } else if (memmem(message, size, "\"OFFER\"", 7)) {
        if (!is_text(message, size, &id, &to, &started)) return went_wrong(p, "not an offer");
        carry(p, "ANSWER", p->id, id, started);
    } else if (memmem(message, size, "\"ANSWER\"", 8)) {
        if (!is_text(message, size, &id, &to, &started) || to != p->id) return went_wrong(p, "not my answer");
        linked(started);
        if (p == &newcomer) newcomers_left--;
        if (kept && p != &newcomer) return begin(p);
        leave(p);
        leave(p->partner);
    } else if (!memmem(message, size, "\"HEARTBEAT\"", 11)) went_wrong(p, "not understood");
}

static void framed(struct peer *p) {
    while (p->got >= 2) {
        unsigned char *in = (void *)p->in;
        int size = in[1] & 127, head = 2, kind = in[0] & 15;
        if (size == 126) {
            if (p->got < 4) return;
            size = in[2] << 8 | in[3], head = 4;
        }
        if (p->got < head + size) return;
        char message[ROOM];
        memcpy(message, p->in + head, size);
        p->got -= head + size;
        memmove(p->in, p->in + head + size, p->got);
        if (kind == 9) frame(p, 10, message, size);
        if (kind == 1) told(p, message, size);
        if (p->state < REGISTERED && p->state != OPENING) return;
    }
}

static void upgraded(struct peer *p) {
    char *end = memmem(p->in, p->got, "\r\n\r\n", 4);
    if (!end) return;
    if (strncmp(p->in + 9, "101", 3)) return went_wrong(p, "no WebSocket");
    p->got -= end + 4 - p->in;
    memmove(p->in, end + 4, p->got);
    p->state = OPENING;
    framed(p);
}

static void left(struct peer *p) { /* the server has closed its side, too */
    struct peer *partner = p->partner;
    hang_up(p);
    if (!p->waits && p != &newcomer && partner->state == CLOSED) begin(p->first ? p : partner);
}

/* --- events --------------------------------------------------------------------------------------------------- */

static void begin(struct peer *p) {
    if (protocol != PEERJS || p->state == CLOSED) p->id = next_id();
    p->started = now();
    if (p->state == CLOSED) reach(p);
    else if (protocol == PEERJS) carry(p, "OFFER", p->id, p->id, p->started);
    else if (protocol == SPACERIFT) ask(p, 0, 0, 0);
    else post(p, text, text_size);
}

static void connected(struct peer *p) {
    if (protocol == PEERJS) upgrade(p);
    else if (protocol == SPACERIFT) ask(p, 0, 0, 0);
    else post(p, text, text_size);
}

static void happened(struct peer *p, uint32_t events) {
    if (p->state == CONNECTING && events & EPOLLOUT) connected(p);
    if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) || p->state == CLOSED) return;
    int fd = p->fd, size;
    while (p->state != CLOSED && p->fd == fd) {
        if (p->got == ROOM) return went_wrong(p, "too long");
        size = recv(fd, p->in + p->got, ROOM - 1 - p->got, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            if (p->state == LEAVING) return left(p);
            return went_wrong(p, "closed");
        }
        p->got += size;
        p->in[p->got] = 0;
        int asked_for = ROOM - 1 - (p->got - size);
        if (p->state == ASKED) replied(p);
        else if (p->state == OPENING && !strncmp(p->in, "HTTP/", 5)) upgraded(p);
        else framed(p);
        if (size < asked_for && !(events & (EPOLLRDHUP | EPOLLHUP))) return; /* no more is there; an event will tell */
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[256];
    int count = epoll_wait(poll_fd, events, 256, milliseconds);
    for (int i = 0; i < count; i++) if (events[i].data.ptr) happened(events[i].data.ptr, events[i].events);
}

static void turns(double seconds) {
    static uint64_t next_beat;
    uint64_t until = now() + (uint64_t)(seconds * 1e9);
    if (!next_beat) next_beat = now();
    while (now() < until) {
        turn(seconds < 0.01 ? 1 : 10);
        if (protocol != PEERJS || !crowd || now() < next_beat) continue;
        static int from; /* PeerJS' client sends a heartbeat each 5 s: a fiftieth of the crowd each 0.1 s */
        for (int i = 0; i < crowd / 50 + 1; i++, from = (from + 1) % crowd)
            if (everybody[from].state == REGISTERED) frame(&everybody[from], 1, "{\"type\":\"HEARTBEAT\"}", 20);
        next_beat += 100000000;
    }
}

/* --- what is measured ----------------------------------------------------------------------------------------- */

static double own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int by_size(const void *a, const void *b) {
    return (*(uint64_t *)a > *(uint64_t *)b) - (*(uint64_t *)a < *(uint64_t *)b);
}

static void report(double seconds, double cpu) {
    qsort(times, pairs, sizeof *times, by_size);
    printf("{\"event\":\"done\",\"pairs\":%d,\"seconds\":%.4f,\"generator_cpu\":%.4f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,"
        "\"errors\":%d,\"damaged\":%d,\"repolls\":%d,\"opened\":%d,\"lost\":%d,\"first_error\":\"%s\"}\n",
        pairs, seconds, cpu, pairs ? times[pairs / 2] / 1e6 : 0, pairs ? times[(int)(pairs * 0.99)] / 1e6 : 0,
        errors, damaged, repolls, opened, lost, first_error);
    fflush(stdout);
}

static void say(const char *event) {
    printf("{\"event\":\"%s\"}\n", event);
    fflush(stdout);
}

static void rate(int count, double warm, double seconds) {
    everybody = calloc(2 * count, sizeof *everybody);
    for (int i = 0; i < 2 * count; i++) {
        everybody[i].first = !(i & 1);
        everybody[i].partner = protocol == PEERJS ? &everybody[i ^ 1] : 0;
    }
    for (int i = 0; i < 2 * count; i++)
        if (protocol == SPACERIFT || everybody[i].first) begin(&everybody[i]);
    turns(warm);
    for (int i = 0; i < 200 && all_pairs < 20; i++) turns(0.1); /* other programs may have the core for a while */
    errors = damaged = repolls = opened = 0, measuring = 1;
    say("measuring");
    double cpu = own_cpu();
    uint64_t started = now();
    turns(seconds);
    for (int i = 0; i < 200 && pairs < 20; i++) turns(0.1);
    double took = (now() - started) / 1e9;
    report(took, own_cpu() - cpu);
}

static void join(int number) {
    struct peer *p = &everybody[number];
    p->waits = p->first = 1;
    p->number = number + 1;
    begin(p);
}

static void meet(int number) { /* one newcomer, to the end */
    newcomer.number = number + 1;
    if (protocol == PEERJS) newcomer.partner = &everybody[number], everybody[number].partner = &newcomer;
    newcomers_left = 1;
    begin(&newcomer);
    uint64_t until = now() + 5000000000ull;
    while (newcomers_left > 0 && now() < until) turn(5);
    turns(0.005);
    if (newcomers_left > 0) went_wrong(&newcomer, "not linked within 5 s");
    hang_up(&newcomer);
}

static void wait_in_crowd(int count) { /* the program beside us says when to go on */
    char line[16];
    everybody = calloc(count, sizeof *everybody);
    crowd = count;
    uint64_t started = now();
    for (int i = 0; i < count; i++) {
        join(i);
        while (i > (now() - started) / 1e9 * 2000) turn(1);
        turn(0);
    }
    turns(2);
    say("waiting");
    for (;;) { /* keep them waiting until there is something to read */
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = 0};
        static int added;
        if (!added++ && epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &event)) fail("standard input");
        turns(0.1);
        struct timeval none = {0};
        fd_set one;
        FD_ZERO(&one);
        FD_SET(0, &one);
        if (select(1, &one, 0, 0, &none) > 0) break;
    }
    if (read(0, line, sizeof line) <= 0) return;
    epoll_ctl(poll_fd, EPOLL_CTL_DEL, 0, 0);
    measuring = 1;
    started = now();
    double cpu = own_cpu();
    for (int i = 0; i < NEWCOMERS && i < count; i++) {
        meet((int)((uint64_t)i * 7919 % count));
        turns(0.01);
    }
    report((now() - started) / 1e9, own_cpu() - cpu);
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "see the first lines of load.c\n"), 2;
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    alarm(300);
    port = atoi(argv[1]);
    protocol = !strcmp(argv[2], "peerjs") ? PEERJS : !strcmp(argv[2], "nothing") ? NOTHING : SPACERIFT;
    poll_fd = epoll_create1(0);
    times = malloc(MOST_PAIRS * sizeof *times);
    compose();
    if (!strcmp(argv[3], "crowd")) {
        wait_in_crowd(atoi(argv[4]));
    } else if (argc == 9) {
        kept = atoi(argv[5]), unseen = atoi(argv[6]);
        rate(atoi(argv[4]), atof(argv[7]), atof(argv[8]));
    }
    return 0;
}
